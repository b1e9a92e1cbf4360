"""`pierhead gc`, `history`, `restore` and `purge`: what they print, and how they end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry.cli import main
from registry.collecting import Stores
from registry.config import Config, StorageConfig
from registry.schedule import State
from storage.digest import Digest
from tests.unit.test_gc import HOUR, NAME, Place


class Registry(Place):
    """A store, and the commands for it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "data")
        self.config = directory / "config.json"
        storage = {"rootDirectory": str(self.root), "gcDelay": "1h", "undo": "1h"}
        log = {"audit": str(directory / "audit")}
        self.config.write_text(json.dumps({"storage": storage, "log": log}))

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [*arguments, "--config", str(self.config)])
        assert result.exit_code == code, result.output
        assert not result.exception or isinstance(result.exception, SystemExit), result.exception
        return result

    def lines(self, *arguments: str, code: int = 0) -> list[Any]:
        return [json.loads(line) for line in self.run(*arguments, "--json", code=code).stdout.splitlines()]

    def tree(self) -> dict[str, bytes | None]:
        return {str(path): path.read_bytes() if path.is_file() else None for path in self.root.rglob("*")}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_gc_tells_each_blob_and_the_sum_and_writes_the_journal(registry: Registry) -> None:
    registry.image("one", "1")
    garbage = registry.push_blob(b"garbage")
    registry.later(HOUR + 2)
    before = registry.tree()
    [would, _] = registry.lines("gc", "--dry-run")
    assert registry.tree() == before
    [binned, summary] = registry.lines("gc")
    assert would == binned | {"dryRun": True}
    assert (binned["repository"], binned["action"], binned["what"]) == (NAME, "binned", garbage)
    assert (summary["summary"]["binned"], summary["summary"]["binned_bytes"]) == (1, 7)
    [line] = (registry.root / ".pierhead/gc/journal").read_text().splitlines()
    journal = json.loads(line)
    assert (journal["repository"], journal["what"], journal["reason"]) == (NAME, garbage, "nothing references it")
    assert f"{NAME}: would" not in registry.run("gc").stdout


def test_gc_of_named_repositories_leaves_the_others(registry: Registry) -> None:
    for name in (NAME, "team/other"):
        registry.push_blob(b"garbage", name)
    registry.later(HOUR + 2)
    [event, _] = registry.lines("gc", "team/other")
    assert event["repository"] == "team/other"


def test_gc_goes_on_where_time_ran_out(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        registry.push_blob(b"garbage", name)
    registry.later(HOUR + 2)
    config = Config(storage=StorageConfig(str(registry.root)))
    stores = Stores(config)
    state = State(stores.config.stores[""].root_directory + "/.pierhead/gc")
    clock = iter(range(100))
    monkeypatch.setattr("registry.collecting.time.monotonic", lambda: next(clock))
    from storage.gc import Result as Collected  # noqa: PLC0415

    first, second = Collected(), Collected()
    stores.collect("", stores.collector(""), first, deadline=1.5)
    assert (first.finished, first.repositories, state.after) == (False, 2, "b")
    assert state.finished == 0
    stores.collect("", stores.collector(""), second)
    assert (second.finished, second.repositories, state.after) == (True, 1, "")
    assert state.finished > 0


def test_one_broken_repository_is_told_and_the_rest_goes_on(registry: Registry) -> None:
    registry.image("one", "1")
    (registry.root / NAME / "index.json").write_bytes(b"{")
    registry.push_blob(b"garbage", "zzz")
    registry.later(HOUR + 2)
    result = registry.run("gc", code=1)
    assert f"{NAME}: failed" in result.stderr
    assert "zzz: binned" in result.stdout


def test_explain(registry: Registry) -> None:
    manifest = registry.image("one", "1")
    layer = Digest.of(b"layer of one")
    [line] = registry.run("gc", "--explain", layer).stdout.splitlines()
    assert line == f"{NAME}: tag 1 -> {manifest.digest} -> {layer}"
    registry.push_blob(b"garbage")
    assert "nothing references it; it is set aside" in registry.run("gc", "--explain", Digest.of(b"garbage")).stdout
    registry.later(HOUR + 2)
    registry.run("gc")
    before = registry.tree()
    assert "it was set aside at" in registry.run("gc", "--explain", Digest.of(b"garbage")).stdout
    assert registry.tree() == before, "to explain is not to ask for it"
    assert registry.run("gc", "--explain", Digest.of(b"?")).stdout == "no repository has this content\n"


def test_history_and_restore(registry: Registry) -> None:
    first, second = registry.image("one", "1"), registry.image("two", "1")
    registry.store.delete_manifest(NAME, second.digest)
    changes = registry.lines("history", NAME)
    assert [(change["tag"], change["digest"]) for change in changes] == [("1", first.digest), ("1", second.digest)]
    before = registry.tree()
    assert "would be" in registry.run("restore", NAME, "1", "--dry-run").stdout
    assert registry.tree() == before
    assert registry.run("restore", NAME, "1").stdout == f"{NAME}:1 is {second.digest} again\n"
    registry.run("restore", NAME, f"1@{changes[0]['time']}")
    assert registry.store.get_manifest(NAME, "1").digest == first.digest
    audit = (registry.config.parent / "audit").read_text()
    assert audit.count('"action":"restore"') == 2


def test_restore_names_what_is_gone(registry: Registry) -> None:
    registry.image("one", "1")
    registry.store.delete_manifest(NAME, registry.store.get_manifest(NAME, "1").digest)
    registry.store.delete_blob(NAME, Digest.of(b"layer of one"))
    before = registry.tree()
    assert Digest.of(b"layer of one") in registry.run("restore", NAME, "1", code=1).stderr
    assert registry.tree() == before


def test_purge(registry: Registry) -> None:
    secret = registry.image("secret", "1")
    registry.store.delete_manifest(NAME, secret.digest)
    assert len(registry.lines("purge", NAME, "--dry-run")) == 4
    assert registry.has(b"layer of secret")
    assert registry.lines("purge", NAME)[-1]["summary"]["unlinked"] == 3
    assert not registry.has(b"layer of secret")
    assert registry.lines("history", NAME) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("gc", "Upper"),
        ("gc", "../.."),
        ("gc", "--explain", "sha256:x"),
        ("gc", "--max-seconds", "0"),
        ("gc", "--max-seconds", "soon"),
        ("purge", "a//b"),
        ("history", "\udcff"),
        ("history",),
        ("restore", NAME),
        ("restore", NAME, "2"),
        ("restore", NAME, "1@soon"),
        ("restore", NAME, "1@99999-01-01"),
        ("restore", "none", "1"),
        ("restore", NAME, "sha256:x"),
    ],
)
def test_bad_input_ends_with_2_and_changes_nothing(registry: Registry, arguments: tuple[str, ...]) -> None:
    registry.image("one", "1")
    before = registry.tree()
    result = registry.run(*arguments, code=2)
    assert result.stderr
    assert "Traceback" not in result.output
    assert registry.tree() == before


def test_a_registry_that_has_nothing_yet(registry: Registry) -> None:
    assert registry.lines("gc")[-1]["summary"]["repositories"] == 0
    registry.run("history", NAME, code=2)
    assert not os.path.exists(registry.root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_as_root_it_acts_as_the_owner_of_the_store() -> None:
    service = 12345
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # pytest's own directories let nobody else in
        registry = Registry(Path(directory))
        registry.image("one", "1")
        registry.push_blob(b"garbage")
        registry.later(HOUR + 2)
        for path in (registry.root, *registry.root.rglob("*")):
            os.chown(path, service, service)
        assert registry.lines("gc")[-1]["summary"]["binned"] == 1
        registry.store.delete_manifest(NAME, "1")
        os.chown(next(registry.root.rglob(".bin/undo")), service, service)
        registry.run("restore", NAME, "1")
        assert (registry.root / ".pierhead/gc/journal").stat().st_uid == service
        assert (registry.root / NAME / "index.json").stat().st_uid == service


@pytest.mark.parametrize("command", ["gc", "purge", "scrub", "history"])
def test_of_what_is_not_there(registry: Registry, command: str) -> None:
    """A name that is mistyped must not look like a repository in which there was nothing to do."""
    registry.image("one", "1")
    registry.push_blob(b"garbage", f"{NAME}/no/nested")
    before = registry.tree()
    said = registry.run(command, f"{NAME}/no", code=2).stderr
    assert said == f"there is no repository {NAME}/no; nothing was changed\n"
    assert registry.tree() == before
