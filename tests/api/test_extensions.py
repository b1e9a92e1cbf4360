"""zot v1.4's further routes: discovery of extensions, and counters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.oci import Remote, expect_error, expect_status


def counters(remote: Remote) -> dict[str, float]:
    """Return every number of /v2/metrics under its path, in lower case."""
    answer = Remote(remote.url, remote.name).get("/v2/metrics")
    expect_status(answer, 200)
    assert answer.headers["Content-Type"] == "application/json"
    return dict(numbers(answer.json(), ""))


def numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers in a JSON document with their paths."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield path.lower(), value
    elif isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(below, f"{path}/{key}")


def grown(before: dict[str, float], after: dict[str, float], word: str) -> float:
    """Return by how much the counter with `word` in its path that grew most has grown."""
    return max(after[path] - before.get(path, 0) for path in after if word in path)


def test_extensions_are_discovered(remote: Remote) -> None:
    """Extensions API: the list of extensions, each with its name, description, url and endpoints."""
    answer = remote.get("/v2/_oci/ext/discover")
    expect_status(answer, 200)
    assert answer.headers["Content-Type"] == "application/json"
    for extension in answer.json()["extensions"]:
        assert {key: type(value) for key, value in extension.items()} == {
            "name": str,
            "url": str,
            "description": str,
            "endpoints": list,
        }


def test_extensions_of_a_repository_are_discovered_once_it_exists(remote: Remote) -> None:
    """Extensions API: a repository that there is not has none to discover."""
    expect_error(remote.get("_oci/ext/discover"), 404, "NAME_UNKNOWN")
    remote.push_image("1")
    answer = remote.get("_oci/ext/discover")
    expect_status(answer, 200)
    assert f"/v2/{remote.name}/_oci/ext/discover" in answer.json()["extensions"][0]["endpoints"]


@pytest.mark.parametrize("count", [20])
def test_counters_sum_over_the_workers(remote: Remote, count: int) -> None:
    """Whichever worker served a request, and whichever is asked, every request, push and pull is counted."""
    before = counters(remote)
    manifests = [Remote(remote.url, remote.name).push_image(f"t{number}") for number in range(count)]
    for number, manifest in enumerate(manifests):
        assert Remote(remote.url, remote.name).get(f"manifests/t{number}").content == manifest.body
    after = counters(remote)
    assert grown(before, after, "push") >= count
    assert grown(before, after, "pull") >= count
    assert grown(before, after, "request") >= 2 * count
    assert any("stor" in path for path in after)


def test_counters_never_go_back(remote: Remote) -> None:
    """Asked again and again, of whichever worker, a counter of pulls or pushes does not shrink."""
    remote.push_image("1")
    previous = counters(remote)
    for _ in range(10):
        current = counters(remote)
        for path, value in previous.items():
            if "pull" in path or "push" in path or "request" in path:
                assert current[path] >= value, path
        previous = current
