"""`pierhead repo`: what is listed, deleted and renamed, and that nothing else is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.collecting import Stores
from registry.config import load
from storage import moving, undo
from storage.backend import Version
from storage.digest import Digest
from storage.errors import ManifestUnknown
from storage.image_store import ImageStore
from storage.local import LocalBackend
from tests.support.oci import Document, index
from tests.unit.test_garbage_command import Registry
from tests.unit.test_gc import HOUR, NAME, Place

NESTED, NEW = f"{NAME}/nested", "else/where"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return a registry with a repository, another one nested in it, and one that is neither."""
    registry = Registry(tmp_path)
    registry.image("one", "1")
    for name in (NESTED, "other"):
        put(registry.store, registry.image("one"), name, "n")
    return registry


def put(store: ImageStore, image: Document, name: str, tag: str) -> None:
    for part in (image.content["config"], *image.content["layers"]):
        assert store.mount(name, Digest(part["digest"]), NAME)
    store.put_manifest(name, tag, image.body, content_type=image.media_type)


def names(place: Place) -> list[str]:
    return list(place.store.backend.repositories())


def pulls(store: ImageStore, name: str, tag: str) -> bytes:
    """Return a manifest, after checking that all it needs is there."""
    manifest = store.get_manifest(name, tag)
    content = json.loads(manifest.data)
    for part in (content["config"], *content["layers"]):
        assert store.blob_size(name, Digest(part["digest"])) == part["size"]
    return manifest.data


# no ghosts


def test_a_repository_that_has_lost_its_last_manifest_is_not_listed(registry: Registry) -> None:
    digest = registry.store.get_manifest(NAME, "1").digest
    registry.store.delete_manifest(NAME, "1")
    assert NAME in names(registry)  # it has the manifest still
    registry.store.delete_manifest(NAME, digest)
    assert names(registry) == ["other", NESTED]
    assert registry.store.tags(NAME) == ([], False)
    assert NAME in list(registry.store.backend.places())
    registry.image("two", "2")
    assert NAME in names(registry)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ('{"schemaVersion":2,"manifests":[]}', False),
        ('{"manifests": null}', False),
        ('{"manifests": [{}]}', True),
        ("{", True),
        ("[]", True),
        ("", True),
        ("{}", True),
    ],
)
def test_what_other_tools_left(registry: Registry, text: str, listed: bool) -> None:
    (registry.root / NAME / "index.json").write_text(text)
    assert (NAME in names(registry)) == listed


# ls


def test_ls(registry: Registry) -> None:
    (registry.root / "other/index.json").write_text("{")
    found = {line.pop("repository"): line for line in registry.lines("repo", "ls")}
    assert list(found) == ["other", NAME, NESTED]
    size = sum(path.stat().st_size for path in (registry.root / NAME / "blobs").glob("*/*"))
    pushed = found[NAME].pop("pushed")
    assert pushed.startswith("20")
    assert found[NAME] == {"tags": 1, "manifests": 1, "size": size}
    assert found["other"] == {"tags": None, "manifests": None, "size": size, "pushed": None}
    head, damaged, first, nested = registry.run("repo", "ls").stdout.splitlines()
    assert head.split() == ["REPOSITORY", "TAGS", "MANIFESTS", "SIZE", "PUSHED"]
    assert damaged.split()[:3] == ["other", "damaged", "damaged"]
    assert first.split() == [NAME, "1", "1", str(size), "B", pushed]
    assert nested.startswith(NESTED)
    assert [line["repository"] for line in registry.lines("repo", "ls", "team")] == [NAME, NESTED]
    assert registry.run("repo", "ls", "none").stdout == ""


# rm


def test_rm_deletes_one_and_leaves_those_nested_in_it(registry: Registry) -> None:
    image = registry.image("one", "1")
    before = registry.tree()
    assert "would be deleted: 1 tags, 1 manifests" in registry.run("repo", "rm", NAME, "--dry-run").stdout
    assert "say --yes" in registry.run("repo", "rm", NAME, code=2).stderr
    assert registry.tree() == before
    [line] = registry.lines("repo", "rm", NAME, "--yes")
    assert (line["repository"], line["tags"], line["dryRun"]) == (NAME, 1, False)
    assert names(registry) == ["other", NESTED]
    assert pulls(registry.store, NESTED, "n")
    registry.run("restore", NAME, "1")
    assert pulls(registry.store, NAME, "1") == image.body
    [first, *_] = map(json.loads, (registry.config.parent / "audit").read_text().splitlines())
    assert (first["action"], first["repository"]) == ("delete repository", NAME)


def test_rm_with_purge_leaves_nothing(registry: Registry) -> None:
    registry.push(index([registry.image("child").descriptor()]), "multi")
    registry.run("repo", "rm", NAME, "--yes", "--purge")
    assert not list((registry.root / NAME).glob("blobs/*/*"))
    assert registry.run("history", NAME).stdout == ""
    assert pulls(registry.store, NESTED, "n")


def test_rm_of_immutable_tags_is_the_operators_right(registry: Registry) -> None:
    config = json.loads(registry.config.read_bytes())
    config["storage"]["immutableTags"] = [{"repositories": ["**"]}]
    registry.config.write_text(json.dumps(config))
    registry.run("repo", "rm", NAME, "--yes")
    assert NAME not in names(registry)


def test_rm_changes_nothing_if_one_is_not_there(registry: Registry) -> None:
    before = registry.tree()
    assert "no repository absent" in registry.run("repo", "rm", NAME, "absent", "--yes", code=1).stderr
    assert "lower-case" in registry.run("repo", "rm", NAME, "NO", "--yes", code=2).stderr
    registry.run("repo", "rm", code=2)
    assert registry.tree() == before


def test_rm_of_a_damaged_one(registry: Registry) -> None:
    (registry.root / NAME / "index.json").write_text("{")
    result = registry.run("repo", "rm", NAME, "--yes", code=1)
    assert "damaged" in result.stderr


# mv


def test_mv_takes_everything_along_but_those_nested_in_it(registry: Registry) -> None:
    image = registry.image("one", "1")
    registry.push(image, "again")
    child = registry.image("child")
    listing = registry.push(index([child.descriptor()]), "multi")
    signature = registry.image("signature", subject=image.descriptor())
    entries = json.loads((registry.root / NAME / "index.json").read_bytes())["manifests"]
    before = registry.tree()
    assert "would be" in registry.run("repo", "mv", NAME, NEW, "--dry-run").stdout
    assert registry.tree() == before
    [line] = registry.lines("repo", "mv", NAME, NEW)
    assert line == {
        "from": NAME,
        "to": NEW,
        "blobs": len(list((registry.root / NAME).glob("blobs/*/*"))),
        "dryRun": False,
    }
    assert names(registry) == [NEW, "other", NESTED]
    assert json.loads((registry.root / NEW / "index.json").read_bytes())["manifests"] == entries
    for tag in ("1", "again"):
        assert pulls(registry.store, NEW, tag) == image.body
    assert registry.store.get_manifest(NEW, "multi").data == listing.body
    assert registry.store.get_manifest(NEW, child.digest).data == child.body
    [referrer] = registry.store.referrers(NEW, Digest(image.digest))
    assert referrer["digest"] == signature.digest
    with pytest.raises(ManifestUnknown):
        registry.store.get_manifest(NAME, "1")
    assert pulls(registry.store, NESTED, "n")
    assert undo.find(registry.store.backend, NAME, "1")
    assert {path.stat().st_nlink for path in (registry.root / NEW).glob("blobs/*/*")} >= {3}
    for place in (NEW, NAME):
        registry.later(HOUR + 2)
        registry.collect(name=place)
    assert pulls(registry.store, NEW, "1") == image.body


def test_mv_to_another_store_copies(registry: Registry) -> None:
    image = registry.image("one", "1")
    config = json.loads(registry.config.read_bytes())
    config["storage"]["subPaths"] = {"/else": {"rootDirectory": str(registry.config.parent / "else")}}
    registry.config.write_text(json.dumps(config))
    registry.run("repo", "mv", NAME, NEW)
    controller = Stores(load(str(registry.config))).controller
    assert pulls(controller.store(NEW), NEW, "1") == image.body
    assert controller.repositories()[0] == [NEW, "other", NESTED]
    [copied, *_] = (registry.config.parent / "else" / NEW).glob("blobs/*/*")
    assert not [path for path in registry.root.rglob(copied.name) if path.samefile(copied)]


@pytest.mark.parametrize(
    ("old", "new", "code", "message"),
    [
        (NAME, "other", 1, "a repository other already"),
        ("absent", NEW, 1, "no such repository"),
        (NAME, NAME, 2, "has that name already"),
        (NAME, "NEW", 2, "lower-case"),
        (NAME, "team/blobs", 2, "blobs"),
    ],
)
def test_mv_that_cannot_be(registry: Registry, old: str, new: str, code: int, message: str) -> None:
    before = registry.tree()
    assert message in registry.run("repo", "mv", old, new, code=code).stderr
    assert {path: data for path, data in registry.tree().items() if "/locks/" not in path} == {
        path: data for path, data in before.items() if "/locks/" not in path
    }


def test_mv_of_a_damaged_index(registry: Registry) -> None:
    (registry.root / NAME / "index.json").write_text("{")
    assert "not JSON" in registry.run("repo", "mv", NAME, NEW, code=1).stderr
    assert not (registry.root / NEW).exists()


def test_mv_that_was_cut_short_is_done_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step at least one of the two is whole."""
    image = registry.image("one", "1")
    swap = LocalBackend.swap_index

    def dies(backend: LocalBackend, name: str, data: bytes, expected: Version | None) -> Version:
        if name == NAME:
            raise KeyboardInterrupt
        return swap(backend, name, data, expected)

    monkeypatch.setattr(LocalBackend, "swap_index", dies)
    with pytest.raises(KeyboardInterrupt):
        moving.move(Stores(load(str(registry.config))).controller, NAME, NEW)
    assert pulls(registry.store, NAME, "1") == pulls(registry.store, NEW, "1") == image.body
    monkeypatch.undo()
    registry.run("repo", "mv", NAME, NEW)
    assert names(registry) == [NEW, "other", NESTED]
    assert pulls(registry.store, NEW, "1") == image.body


def test_what_is_pushed_while_it_moves_moves_too(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, late = LocalBackend.list_blobs, list[Document]()

    def then_push(backend: LocalBackend, name: str) -> Iterator[Digest]:
        yield from list(listed(backend, name))
        if name == NAME and not late:
            late.append(registry.image("late", "late"))

    monkeypatch.setattr(LocalBackend, "list_blobs", then_push)
    registry.run("repo", "mv", NAME, NEW)
    assert pulls(registry.store, NEW, "late") == late[0].body
    assert NAME not in names(registry)


def test_what_the_collector_takes_meanwhile_is_taken_back(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linked blobs are as old as the others, and nothing references them yet at the new name."""
    image = registry.image("one", "1")
    check: Any = moving._check_free
    calls = []

    def collect_first(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:  # under the lock: what was set aside just before
            names_of_blobs = list(registry.store.backend.list_blobs(NEW))
            assert registry.store.backend.bin_blobs(NEW, names_of_blobs, 0)
        return check(*arguments)

    monkeypatch.setattr(moving, "_check_free", collect_first)
    registry.run("repo", "mv", NAME, NEW)
    assert pulls(registry.store, NEW, "1") == image.body


def test_pulls_are_not_forgotten(registry: Registry) -> None:
    digest = registry.store.get_manifest(NAME, "1").digest
    registry.store.backend.record_pull(NAME, digest)
    registry.run("repo", "mv", NAME, NEW)
    assert set(registry.store.backend.pulls(NEW)) == {digest}
