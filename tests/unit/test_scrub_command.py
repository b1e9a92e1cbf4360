"""`pierhead scrub`: what it prints, how it ends, and that it goes on where it ran out of time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.schedule import State
from storage.scrub import Result, Scrubber
from tests.unit.test_garbage_command import Registry
from tests.unit.test_gc import NAME


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def damage(registry: Registry, digest: str) -> None:
    (path,) = registry.root.glob(f"**/blobs/{digest.replace(':', '/')}")
    path.write_bytes(b"damaged")


def test_a_line_for_each_problem_and_the_sum(registry: Registry) -> None:
    registry.image("one", "1")
    assert registry.run("scrub").stdout.endswith("bytes read, 0 problems\n")
    digest = registry.push_blob(b"layer of one")
    damage(registry, digest)
    before = registry.tree()
    line = f"{digest} is damaged in {NAME}: its content is sha256:"
    would = registry.run("scrub", "--dry-run", code=1).stdout
    assert registry.tree() == before
    assert would.startswith(line)
    told = registry.run("scrub", code=1).stdout
    assert told.startswith(line)
    assert f"; it is in quarantine; it breaks {NAME}:1\n" in told
    again = registry.run("scrub", code=1).stdout
    assert f"{digest} is missing in {NAME}: in quarantine until it is pushed again" in again
    registry.push_blob(b"layer of one")
    assert registry.run("scrub").stdout.endswith("0 problems\n")
    [audited] = map(json.loads, (registry.config.parent / "audit").read_text().splitlines())
    assert (audited["action"], audited["digest"]) == ("quarantine", digest)


def test_with_names_only_these_are_read(registry: Registry) -> None:
    registry.image("one", "1")
    damage(registry, registry.push_blob(b"elsewhere", "other"))
    [summary] = registry.lines("scrub", NAME)
    assert summary["summary"]["repositories"] == 1
    assert registry.lines("scrub", "other", code=1)[0]["images"] == {"other": []}


def test_a_run_that_is_cut_short_goes_on(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        registry.push_blob(b"x", name)
    now = [0.0]
    monkeypatch.setattr("registry.schedule.time.monotonic", lambda: now[0])
    scrub_one = Scrubber.scrub

    def take_ten_seconds(scrubber: Scrubber, name: str, result: Result) -> None:
        scrub_one(scrubber, name, result)
        now[0] += 10

    monkeypatch.setattr(Scrubber, "scrub", take_ten_seconds)
    state = State(f"{registry.root}/.pierhead/scrub")
    result = registry.run("scrub", "--max-seconds", "15", "--speed", "0")
    assert "time ran out" in result.stdout
    assert state.after == "b"
    assert state.finished == 0
    assert "time ran out" not in registry.run("scrub").stdout
    assert state.after == ""
    assert state.finished > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("NAME",), "lower-case"),
        (("--speed", "fast"), "a size such as"),
        (("--speed", "-1"), "a size such as"),
        (("--max-seconds", "0"), "max-seconds"),
    ],
)
def test_bad_input(registry: Registry, arguments: tuple[str, ...], message: str) -> None:
    registry.image("one", "1")
    before = registry.tree()
    assert message in registry.run("scrub", *arguments, code=2).stderr
    assert registry.tree() == before


def test_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert registry.run("scrub").stdout == "0 repositories: 0 blobs looked at, 0 bytes read, 0 problems\n"
    assert not registry.root.exists()
