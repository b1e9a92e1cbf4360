"""The catalog: every repository of every substore, in pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.oci import Remote, expect_error, expect_status, index, next_link, random_bytes
from tests.support.server import Server

LISTED = ["a/in", "a/in/deep", "a/on", "b", "b-c", "b.c", "b/c", "b/c-d", "b/c/d", "b0", "b_c", "bc", "m/below", "z"]


@pytest.fixture(scope="module")
def catalog_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a registry of two substores that only this module pushes to."""
    root = tmp_path_factory.mktemp("catalog")
    substore = tmp_path_factory.mktemp("substore")
    config = {"storage": {"subPaths": {"/a": {"rootDirectory": str(substore)}}}}
    hide_in_layouts(root / "default")
    with Server(root / "default", config=config, workers=2) as server:
        for name in sorted(LISTED, key=lambda name: name[::-1]):
            Remote(server.url, name).push(index([]), "1")
        Remote(server.url, "only-blobs").push_blob(random_bytes())
        Remote(server.url, "only-session").start_upload()
        yield server


def hide_in_layouts(root: Path) -> None:
    """Put what is no repository into the root, and a repository where the substore shadows it."""
    for name in ("_reserved", "UPPER", ".hidden", "a/shadowed"):
        (root / name).mkdir(parents=True)
        (root / name / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (root / name / "index.json").write_text('{"schemaVersion":2,"manifests":[]}')
    (root / "plain-directory").mkdir()
    (root / "file").write_text("not a directory")


def pages(server: Server, path: str) -> list[list[str]]:
    """Follow the Links from `path` and return the names of each page."""
    remote = Remote(server.url, "any")
    collected = []
    link: str | None = path
    while link is not None:
        answer = remote.get(link)
        expect_status(answer, 200)
        collected.append(answer.json()["repositories"])
        assert len(collected) <= 100
        link = next_link(answer)
    return collected


def test_every_repository_is_listed_sorted_by_whole_name(catalog_server: Server) -> None:
    """All substores in one byte-lexical list; what is no repository, or shadowed by a substore, is not in it."""
    answer = Remote(catalog_server.url, "any").get("/v2/_catalog")
    expect_status(answer, 200)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"repositories": sorted(LISTED, key=str.encode)}
    assert "Link" not in answer.headers


def test_the_list_of_this_module_is_in_byte_order() -> None:
    """The expectation itself is what `sort.Strings` gives: `-` and `.` before `/`, before digits and letters."""
    assert sorted(LISTED, key=str.encode) == LISTED


@pytest.mark.parametrize("count", [1, 2, 3, 5, 13, 14, 15, 1000])
def test_pages_follow_each_other(catalog_server: Server, count: int) -> None:
    """As spec "Listing Tags": n results a page, or fewer at the end, and RFC 5988 Links between them."""
    collected = pages(catalog_server, f"/v2/_catalog?n={count}")
    assert [name for page in collected for name in page] == LISTED
    assert all(len(page) == count for page in collected[:-1])
    assert len(collected) == max(1, -(-len(LISTED) // count))


def test_link_has_the_form_of_rfc_5988(catalog_server: Server) -> None:
    """The target is in angle brackets, its `last` escaped."""
    header = Remote(catalog_server.url, "any").get("/v2/_catalog?n=2").headers["Link"]
    assert header.startswith("</v2/_catalog?")
    assert header.endswith('>; rel="next"')
    assert "last=a%2Fin%2Fdeep" in header or "last=a/in/deep" in header


@pytest.mark.parametrize(
    "last", [*LISTED, "", "a", "a/", "a/in/", "b/", "b/c/", "c", "zz", "-", "é", "B", "..", "a//b"]
)
@pytest.mark.parametrize("count", [None, 3])
def test_last_is_excluded_and_need_not_exist(catalog_server: Server, last: str, count: int | None) -> None:
    """As spec "Listing Tags": the list begins after `last`, whether or not there is such a repository."""
    expected = [name for name in LISTED if name.encode() > last.encode()]
    query = f"last={quote(last, safe='')}" + (f"&n={count}" if count else "")
    answer = Remote(catalog_server.url, "any").get(f"/v2/_catalog?{query}")
    assert answer.json()["repositories"] == expected[:count]


def test_zero_gives_an_empty_list(catalog_server: Server) -> None:
    """As spec "Listing Tags": n of zero returns an empty list and no Link."""
    answer = Remote(catalog_server.url, "any").get("/v2/_catalog?n=0")
    assert answer.json() == {"repositories": []}
    assert "Link" not in answer.headers


@pytest.mark.parametrize("count", ["-1", "x", "1.5", "", "+1", "1e3", "٣"])
def test_n_that_is_no_number_is_400(catalog_server: Server, count: str) -> None:
    """As spec "Listing Tags": n is an integer."""
    expect_error(Remote(catalog_server.url, "any").get(f"/v2/_catalog?n={quote(count)}"), 400, "UNSUPPORTED")


def test_new_repository_appears_at_once(server: Server, repository: str) -> None:
    """A repository exists once its first manifest is there, for every worker."""
    remote = Remote(server.url, f"{repository}/x")
    remote.push_blob(random_bytes())
    before = f"/v2/_catalog?n=1&last={quote(repository, safe='')}"
    assert remote.name not in remote.get(before).json()["repositories"]
    remote.push_image("1")
    for _ in range(6):
        assert Remote(server.url, "any").get(before).json()["repositories"] == [remote.name]
