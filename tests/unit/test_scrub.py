"""Scrubbing: what is found, what is put into quarantine, and how it heals."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.digest import Digest
from storage.errors import BlobUnknown, ManifestUnknown, StillReferenced
from storage.image_store import ImageStore
from storage.layout import Layout
from storage.local import FileStream, LocalBackend
from storage.scrub import Finding, Result, Scrubber
from tests.support.oci import OCI_CONFIG, OCI_LAYER, Document, descriptor_of, image, index
from tests.unit.test_gc import HOUR, NAME, Place

OTHER, NESTED = "other", f"{NAME}/nested"


class Disk(Place):
    """A store whose files can be damaged."""

    def __init__(self, root: Path, *, dedupe: bool = True) -> None:
        super().__init__(root)
        self.layout = Layout(str(root))
        self.dedupe = dedupe
        self.reopen()

    def reopen(self) -> None:
        """Forget all that a worker keeps in memory."""
        self.store = ImageStore(LocalBackend(str(self.root), dedupe=self.dedupe), undo=HOUR)

    def share(self, *names: str, tag: str = "1") -> tuple[Document, Digest]:
        """Push the same image to repositories; return it, and the digest of its layer."""
        for name in names:
            layer = self.push_blob(b"shared layer", name)
            self.push_blob(b"{}", name)
            parts = descriptor_of(b"{}", OCI_CONFIG), [descriptor_of(b"shared layer", OCI_LAYER)]
            pushed = self.push(image(*parts), tag, name)
        return pushed, layer

    def blob(self, digest: str, name: str = NAME) -> Path:
        return Path(self.layout.blob(name, Digest(digest)))

    def damage(self, digest: str, name: str = NAME, data: bytes | None = None) -> None:
        """Flip a bit, or write other data."""
        path = self.blob(digest, name)
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:] if data is None else data)
        self.reopen()

    def scrub(self, *names: str, dry_run: bool = False) -> list[Finding]:
        self.result, found = Result(), list[Finding]()
        scrubber = Scrubber(self.store.backend, dry_run=dry_run, tell=found.append)
        for name in names or tuple(self.store.backend.places()):
            scrubber.scrub(name, self.result)
        if not dry_run:
            scrubber.tidy()
        assert self.result.problems == len(found)
        return found

    def quarantine(self) -> set[tuple[str, str]]:
        return {(str(digest), name) for digest, name in self.store.backend.quarantined()}

    def whole(self, *names: str) -> bool:
        """Tell whether the shared image pulls from each of the repositories."""
        for name in names:
            manifest = json.loads(self.store.get_manifest(name, "1").data)
            for part in (manifest["config"], *manifest["layers"]):
                data = self.store.backend.read_blob(name, Digest(part["digest"]), 1000)
                assert Digest.of(data) == part["digest"]
        return True


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_what_is_whole_is_read_once(disk: Disk) -> None:
    disk.share(NAME, OTHER)
    disk.push(index([disk.image("a").descriptor()]), "multi")
    assert disk.scrub() == []
    assert (disk.result.repositories, disk.result.blobs) == (2, 10)
    sizes = {path.stat().st_ino: path.stat().st_size for path in disk.root.glob("**/blobs/*/*")}
    assert disk.result.size == sum(sizes.values())


@pytest.mark.parametrize(
    "data", [None, b"", b"short", b"longer than it was before"], ids=["flip", "empty", "cut", "long"]
)
def test_damage_goes_into_quarantine_everywhere_and_names_all_it_breaks(disk: Disk, data: bytes | None) -> None:
    pushed, layer = disk.share(NAME, OTHER, NESTED)
    disk.store.put_manifest(OTHER, "again", pushed.body, content_type=pushed.media_type)
    disk.damage(layer, data=data)
    before = {path: path.read_bytes() for path in disk.root.rglob("*") if path.is_file()}
    [told] = disk.scrub(dry_run=True)
    assert before == {path: path.read_bytes() for path in disk.root.rglob("*") if path.is_file()}
    [finding] = disk.scrub()
    assert finding == replace(told, quarantined=True)
    assert (finding.problem, finding.what) == ("damaged", layer)
    assert finding.images == {OTHER: ["1", "again"], NAME: ["1"], NESTED: ["1"]}
    assert disk.quarantine() == {(layer, name) for name in (NAME, OTHER, NESTED)}
    for name in (NAME, OTHER, NESTED):
        with pytest.raises(BlobUnknown):
            disk.store.blob_size(name, layer)
        assert not disk.store.mount(name, layer, None)
    again = disk.scrub()
    assert {one.problem for one in again} == {"missing"}
    assert all(one.quarantined for one in again)
    assert {name for one in again for name in one.images} == {NAME, OTHER, NESTED}


@pytest.mark.parametrize("dedupe", [True, False])
@pytest.mark.parametrize("where", [NAME, "elsewhere"])
def test_a_new_push_heals_every_repository(tmp_path: Path, dedupe: bool, where: str) -> None:
    disk = Disk(tmp_path, dedupe=dedupe)
    _, layer = disk.share(NAME, OTHER, NESTED)
    for name in (NAME, OTHER, NESTED):
        disk.damage(layer, name, b"broken")
    disk.scrub()
    disk.push_blob(b"shared layer", where)
    assert disk.whole(NAME, OTHER, NESTED)
    assert disk.quarantine() == set()
    assert not any(path.is_file() for path in (tmp_path / ".pierhead/quarantine").rglob("*"))
    assert disk.scrub() == []
    files = {disk.blob(layer, name).stat().st_ino for name in (NAME, OTHER, NESTED)}
    assert len(files) == (1 if dedupe else 3)


def test_a_manifest_heals_by_being_pushed_again(disk: Disk) -> None:
    pushed, _ = disk.share(NAME, OTHER)
    disk.damage(pushed.digest)
    [finding] = disk.scrub()
    assert (finding.what, finding.images) == (pushed.digest, {NAME: ["1"], OTHER: ["1"]})
    disk.reopen()
    with pytest.raises(ManifestUnknown):
        disk.store.get_manifest(NAME, "1")
    disk.push(pushed, "1", NAME)
    assert disk.whole(NAME, OTHER)
    assert disk.scrub() == []


def test_what_a_damaged_index_lists_is_found_again_once_it_is_healed(disk: Disk) -> None:
    """In the same version of index.json: what was looked up meanwhile is not what there is for good."""
    child = disk.image("child")
    multi = disk.push(index([child.descriptor()]), "multi")
    disk.push(disk.image("other"), "moved")
    disk.damage(child.digest)
    disk.damage(multi.digest)
    disk.scrub()
    with pytest.raises(ManifestUnknown):
        disk.store.get_manifest(NAME, child.digest)
    before = disk.store.backend.index_version(NAME)
    for document in (child, multi):
        disk.store.backend.put_blob(NAME, Digest(document.digest), document.body)
    assert disk.store.backend.index_version(NAME) == before
    time.sleep(1.1)
    assert disk.store.get_manifest(NAME, child.digest).data == child.body
    with pytest.raises(StillReferenced):
        disk.store.delete_manifest(NAME, child.digest)


def test_what_a_damaged_index_may_list_stays_in_quarantine(disk: Disk) -> None:
    child = disk.image("child")
    multi = disk.push(index([child.descriptor()]), "multi")
    disk.damage(child.digest)
    disk.damage(multi.digest)
    disk.scrub()
    disk.scrub()
    assert disk.quarantine() == {(child.digest, NAME), (multi.digest, NAME)}


def test_a_push_that_a_scrub_moves_for_a_moment_is_not_dropped(disk: Disk) -> None:
    """It looks as if it were in quarantine, until the scrub sees that it is another file, and puts it back."""
    _, layer = disk.share(NAME)
    moved = Path(disk.layout.quarantined(layer, NAME))
    moved.parent.mkdir(parents=True)
    disk.blob(layer).rename(moved)
    assert disk.store.backend.heal(NAME, layer) == []
    assert moved.exists()
    moved.rename(disk.blob(layer))
    assert disk.whole(NAME)


def test_what_a_damaged_manifest_says_is_not_remembered(disk: Disk) -> None:
    pushed, layer = disk.share(NAME)
    path = disk.blob(pushed.digest)
    path.write_bytes(pushed.body.replace(layer.encoded[:8].encode(), b"0" * 8))
    disk.reopen()
    disk.store.delete_blob(NAME, disk.push_blob(b"something else"))
    disk.store.backend.put_blob(NAME, Digest(pushed.digest), pushed.body)
    with pytest.raises(StillReferenced):
        disk.store.delete_blob(NAME, layer)


def test_a_good_copy_elsewhere_heals_at_once(tmp_path: Path) -> None:
    disk = Disk(tmp_path, dedupe=False)
    _, layer = disk.share("a", "b", "c")
    disk.damage(layer, "a")
    disk.damage(layer, "b")
    findings = disk.scrub()
    assert [(one.problem, list(one.images), one.healed) for one in findings] == [
        ("damaged", ["a"], ("a",)),
        ("damaged", ["b"], ("b",)),
    ]
    assert disk.whole("a", "b", "c")
    assert disk.quarantine() == set()


def test_what_is_there_is_not_trusted_to_heal(tmp_path: Path) -> None:
    """While one copy is in quarantine, a damaged one that nobody has looked at yet is not what others get."""
    disk = Disk(tmp_path, dedupe=False)
    _, layer = disk.share(NAME, OTHER)
    for name in (NAME, OTHER):
        disk.damage(layer, name)
    disk.scrub(NAME)
    disk.push_blob(b"shared layer", OTHER)
    assert disk.whole(NAME, OTHER)


def test_a_push_in_between_is_not_taken_for_the_damaged_one(disk: Disk) -> None:
    _, layer = disk.share(NAME)
    identity, _ = disk.store.backend.identity(NAME, layer)
    path = disk.blob(layer)
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").rename(path)
    assert not disk.store.backend.quarantine(NAME, layer, identity)
    assert disk.whole(NAME)
    assert disk.quarantine() == set()


def test_a_push_while_the_damaged_one_is_read_is_not_taken_for_it(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    _, layer = disk.share(NAME)
    path = disk.blob(layer)
    good = path.read_bytes()
    disk.damage(layer)
    opened, reads = LocalBackend.open_blob, list[str]()

    def open_and_replace(self: LocalBackend, repository: str, digest: Digest, *part: Any) -> Any:
        stream = opened(self, repository, digest, *part)
        reads.extend([digest] if digest == layer else [])
        if reads == [layer, layer]:
            path.with_name("new").write_bytes(good)
            path.with_name("new").rename(path)
        return stream

    monkeypatch.setattr(LocalBackend, "open_blob", open_and_replace)
    disk.scrub()
    assert disk.whole(NAME)
    assert disk.quarantine() == set()


def test_repositories_that_are_gone_are_not_made_again(disk: Disk) -> None:
    _, layer = disk.share(NAME, OTHER)
    disk.damage(layer)
    disk.scrub()
    Path(disk.layout.index(OTHER)).unlink()
    disk.push_blob(b"shared layer")
    assert disk.whole(NAME)
    assert not disk.blob(layer, OTHER).exists()
    assert disk.quarantine() == set()


def test_the_quarantine_keeps_only_what_is_needed(disk: Disk) -> None:
    """Damaged garbage goes for good; what could be restored stays."""
    pushed, layer = disk.share(NAME)
    garbage = disk.push_blob(b"garbage")
    disk.damage(garbage)
    disk.damage(layer)
    [*found] = disk.scrub()
    assert {one.what: one.images for one in found} == {layer: {NAME: ["1"]}, garbage: {NAME: []}}
    assert disk.quarantine() == {(layer, NAME)}
    disk.store.delete_manifest(NAME, pushed.digest)
    disk.scrub()
    assert disk.quarantine() == {(layer, NAME)}
    for _, name in [("", note) for note, _ in disk.store.backend.removed_notes(NAME)]:
        disk.store.backend.drop_note(NAME, name)
    disk.scrub()
    assert disk.quarantine() == set()


def test_a_good_file_that_somebody_puts_there_heals_all(disk: Disk) -> None:
    _, layer = disk.share(NAME, OTHER)
    disk.damage(layer)
    disk.scrub()
    disk.blob(layer, OTHER).write_bytes(b"shared layer")
    disk.scrub()
    assert disk.whole(NAME, OTHER)
    assert disk.scrub() == []
    assert disk.quarantine() == set()


def test_what_is_missing(disk: Disk) -> None:
    _, layer = disk.share(NAME)
    child = disk.image("child")
    disk.push(index([child.descriptor()]), "multi")
    disk.blob(layer).unlink()
    disk.blob(child.digest).unlink()
    found = {one.what: (one.problem, one.images[NAME], one.quarantined) for one in disk.scrub()}
    assert found == {layer: ("missing", ["1"], False), child.digest: ("missing", ["multi"], False)}


def test_sizes_that_are_not_what_manifests_say(disk: Disk) -> None:
    layer = disk.push_blob(b"four")
    disk.push_blob(b"{}")
    wrong = descriptor_of(b"four", OCI_LAYER) | {"size": 5}
    disk.push(image(descriptor_of(b"{}", OCI_CONFIG), [wrong]), "1")
    [finding] = disk.scrub()
    assert (finding.problem, finding.what, finding.images) == ("size", layer, {NAME: ["1"]})
    assert disk.store.blob_size(NAME, layer) == 4


def test_manifests_that_say_nothing(disk: Disk) -> None:
    data = b'{"schemaVersion": 2}'
    disk.share(NAME)
    digest = disk.push_blob(data)
    path = Path(disk.layout.index(NAME))
    document = json.loads(path.read_bytes())
    document["manifests"].append(document["manifests"][0] | {"digest": digest, "size": len(data), "annotations": {}})
    path.write_text(json.dumps(document))
    [finding] = disk.scrub()
    assert (finding.problem, finding.what, finding.images) == ("manifest", digest, {NAME: [digest]})


def test_a_damaged_index_is_named_and_blobs_are_still_read(disk: Disk) -> None:
    _, layer = disk.share(NAME, OTHER)
    Path(disk.layout.index(NAME)).write_text("{")
    disk.damage(layer)
    found = {(one.problem, one.what): one.images for one in disk.scrub()}
    assert found == {("index", NAME): {NAME: []}, ("damaged", layer): {NAME: [], OTHER: ["1"]}}


def test_what_cannot_be_read_is_read_twice(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.share(NAME)
    read, failures = FileStream.read, [errno.EIO]

    def fail_once(stream: FileStream, size: int = -1) -> bytes:
        if failures:
            raise OSError(failures.pop(), "Input/output error")
        return read(stream, size)

    monkeypatch.setattr(FileStream, "read", fail_once)
    assert disk.scrub() == []
    failures[:] = [errno.EIO] * 2
    [finding] = disk.scrub()
    assert finding.problem == "unreadable"
    assert "Input/output error" in finding.detail
    monkeypatch.undo()
    assert disk.quarantine() == {(finding.what, NAME)}


def test_one_broken_repository_does_not_keep_the_others(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.share("a", "b")
    read_index = LocalBackend.read_index

    def broken(backend: LocalBackend, name: str) -> Any:
        if name == "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_index(backend, name)

    monkeypatch.setattr(LocalBackend, "read_index", broken)
    scrubber = Scrubber(disk.store.backend, tell=(found := list[Finding]()).append)
    for name in ("a", "b"):
        scrubber.scrub(name, Result())
    assert [(one.problem, one.what) for one in found] == [("failed", "a")]


def test_speed_is_bounded(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only sleeping moves: the sleep is what reading at that speed takes."""
    disk.push_blob(b"x" * 3_000_000)
    now = [100.0]
    monkeypatch.setattr("storage.scrub.time.monotonic", lambda: now[0])
    monkeypatch.setattr("storage.scrub.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    Scrubber(disk.store.backend, speed=1_000_000, tell=lambda _: None).scrub(NAME, Result())
    assert 2.9 < now[0] - 100 < 3.1


def test_blobs_that_go_while_they_are_looked_at(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.share(NAME)
    listed = LocalBackend.list_blobs

    def and_one_more(backend: LocalBackend, name: str) -> Iterator[Digest]:
        yield Digest.of(b"gone")
        yield from listed(backend, name)

    monkeypatch.setattr(LocalBackend, "list_blobs", and_one_more)
    assert disk.scrub() == []


def test_the_pool_keeps_no_damaged_copy(disk: Disk) -> None:
    _, layer = disk.share(NAME)
    disk.damage(layer)
    disk.scrub()
    assert not os.path.exists(disk.layout.pooled(layer))
    disk.push_blob(b"shared layer", OTHER)
    assert disk.blob(layer, OTHER).samefile(disk.blob(layer))
    assert disk.blob(layer).samefile(disk.layout.pooled(layer))


def test_a_repository_on_another_file_system(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    _, layer = disk.share(NAME)
    disk.damage(layer)
    rename = os.rename

    def other_file_system(source: str, target: str) -> None:
        if "quarantine" in target:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", other_file_system)
    [finding] = disk.scrub()
    assert finding.quarantined
    assert not disk.blob(layer).exists()
    disk.push_blob(b"shared layer")
    assert disk.whole(NAME)
    assert disk.quarantine() == set()
