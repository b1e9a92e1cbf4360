"""What is collected and what is kept, step by step; tests/durability has what happens at the same time."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from storage import undo
from storage.digest import Digest
from storage.durable import Durable
from storage.errors import BlobUnknown, ManifestUnknown
from storage.gc import Collector, Event, Result, explain
from storage.image_store import ImageStore
from storage.layout import Layout
from storage.local import LocalBackend
from tests.support.oci import (
    OCI_CONFIG,
    OCI_IMAGE,
    OCI_INDEX,
    OCI_LAYER,
    ORAS_ARTIFACT,
    Document,
    descriptor_of,
    document,
    image,
    index,
)

NAME = "team/app"
HOUR = 3600.0


class Place:
    """A store whose clock can be put forward, by making all that lies in it older."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ImageStore(LocalBackend(str(root)), undo=HOUR)
        self.events: list[Event] = []

    def push_blob(self, data: bytes, name: str = NAME) -> Digest:
        self.store.push_blob(name, Digest.of(data), io.BytesIO(data))
        return Digest.of(data)

    def push(self, manifest: Document, tag: str | None = None, name: str = NAME) -> Document:
        self.store.put_manifest(name, tag or manifest.digest, manifest.body, content_type=manifest.media_type)
        return manifest

    def image(self, text: str, tag: str | None = None, **fields: Any) -> Document:
        config, layer = b'{"c":"%s"}' % text.encode(), b"layer of " + text.encode()
        self.push_blob(config)
        self.push_blob(layer)
        return self.push(image(descriptor_of(config, OCI_CONFIG), [descriptor_of(layer, OCI_LAYER)], **fields), tag)

    def later(self, seconds: float) -> None:
        """Make everything that lies there so much older."""
        for path in sorted(self.root.rglob("*"), key=lambda path: len(path.parts), reverse=True):
            if path.name == "index.json":
                continue
            status = path.stat()
            if (path.is_file() and path.stat().st_nlink == 1) or path.parent.parent.name == "blobs":
                os.utime(path, (status.st_atime, status.st_mtime - seconds))
            parent = path.parent.name
            if parent == ".bin" and path.name != "undo":
                when = time.mktime(time.strptime(path.name, "%Y%m%dT%H%M%SZ")) - time.timezone - seconds
                path.rename(path.with_name(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(when))))
            elif parent == "undo":
                number, _, rest = path.name.partition("-")
                path.rename(path.with_name(f"{int(number) - int(seconds * 1e9):020d}-{rest}"))

    def collect(self, *, dry_run: bool = False, sparse: bool = False, delay: float = HOUR, name: str = NAME) -> Result:
        result = Result()
        collector = Collector(
            self.store.backend,
            delay=delay,
            undo=HOUR,
            sparse_indexes=sparse,
            dry_run=dry_run,
            tell=self.events.append,
        )
        collector.collect(name, result)
        return result

    def files(self, pattern: str = "*/blobs/*/*") -> list[str]:
        return sorted(path.name for path in (self.root / "team").glob(pattern))

    def has(self, data: bytes) -> bool:
        try:
            return self.store.blob_size(NAME, Digest.of(data)) == len(data)
        except BlobUnknown:
            return False


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_garbage_is_spared_then_set_aside_then_gone(place: Place) -> None:
    place.image("kept", "1")
    garbage = place.push_blob(b"garbage")
    assert place.collect().binned == 0, "it is young"
    place.later(HOUR + 2)
    assert place.collect().binned == 1
    assert garbage.encoded not in place.files()
    assert place.collect().unlinked == 0, "it has not been in the bin for the delay"
    place.later(HOUR + 2)
    assert place.collect().unlinked == 1
    assert not place.has(b"garbage")
    assert not place.files(f"../.pierhead/pool/*/*/{garbage.encoded}")
    assert len(place.files()) == 3
    assert [event.action for event in place.events] == ["binned", "unlinked"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda place: place.store.blob_size(NAME, Digest.of(b"x")),
        lambda place: place.store.open_blob(NAME, Digest.of(b"x")).close(),
        lambda place: place.store.mount("team/other", Digest.of(b"x"), NAME),
        lambda place: place.push(image(descriptor_of(b"x", OCI_CONFIG)), "1"),
    ],
    ids=["HEAD", "GET", "mount", "manifest PUT"],
)
def test_whoever_asks_finds_it_in_its_place_again(place: Place, ask: Callable[[Place], object]) -> None:
    place.push_blob(b"x")
    place.later(HOUR + 2)
    assert place.collect().binned == 1
    ask(place)
    assert Digest.of(b"x").encoded in place.files()
    assert not place.files("*/.bin/*/*/*")


def test_everything_that_a_tag_reaches_is_kept(place: Place) -> None:
    one, two = place.image("one"), place.image("two")
    inner = place.push(index([one.descriptor()]))
    docker = place.push(index([two.descriptor()], "application/vnd.docker.distribution.manifest.list.v2+json"))
    place.push(index([inner.descriptor(), docker.descriptor()]), "1")
    place.image("signature", subject=one.descriptor())
    before = place.files()
    place.later(10 * HOUR)
    result = place.collect()
    assert (result.binned, result.failed) == (0, [])
    assert place.files() == before


def test_untagged_manifests_are_kept(place: Place) -> None:
    place.image("one")
    place.later(10 * HOUR)
    assert place.collect().binned == 0


def test_what_belongs_to_a_deleted_manifest_goes_with_it(place: Place) -> None:
    subject = place.image("subject", "1")
    signature = place.image("signature", subject=subject.descriptor())
    place.image("of the signature", subject=signature.descriptor())
    tagged = place.image("tagged", "keep", subject=subject.descriptor())
    place.store.delete_manifest(NAME, subject.digest)
    assert [entry["digest"] for entry in place.store.referrers(NAME, Digest(subject.digest))] == [tagged.digest]
    with pytest.raises(ManifestUnknown):
        place.store.get_manifest(NAME, signature.digest)


def test_what_belongs_to_a_deleted_manifest_may_stay(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.store = ImageStore(LocalBackend(str(tmp_path)), delete_referrers=False)
    subject = place.image("subject", "1")
    signature = place.image("signature", subject=subject.descriptor())
    place.store.delete_manifest(NAME, subject.digest)
    assert place.store.get_manifest(NAME, signature.digest).data == signature.body


def test_what_can_be_restored_is_kept_and_then_goes(place: Place) -> None:
    manifest = place.image("one", "1")
    place.store.delete_manifest(NAME, manifest.digest)
    place.later(HOUR / 2)
    assert place.collect(delay=1).binned == 0
    place.later(HOUR)
    result = place.collect(delay=1)
    assert (result.binned, result.dropped) == (3, 1)
    place.later(10)
    assert place.collect(delay=1).unlinked == 3
    assert not list(place.store.backend.repositories())
    assert not place.files("*/.bin/*") or place.files("*/.bin/*") == ["undo"]


def test_a_sparse_image_is_restored(tmp_path: Path) -> None:
    """Without the children that it never had, and not without what those need that it has."""
    place = Place(tmp_path)
    place.store.sparse_indexes = True
    child, absent = place.image("child"), image(descriptor_of(b"absent", OCI_CONFIG))
    multi = place.push(index([child.descriptor(), absent.descriptor()]), "multi")
    place.store.delete_manifest(NAME, multi.digest)
    lost = undo.find(place.store.backend, NAME, "multi")
    assert lost
    undo.restore(place.store, NAME, lost)
    assert place.store.get_manifest(NAME, "multi").data == multi.body
    assert place.store.get_manifest(NAME, child.digest).data == child.body
    place.store.delete_manifest(NAME, multi.digest)
    (place.root / NAME / "blobs" / Digest.of(b"layer of child").replace(":", "/")).unlink()
    with pytest.raises(undo.NotRestorable):
        undo.restore(place.store, NAME, lost)


def test_a_manifest_that_cannot_be_read_keeps_everything(place: Place) -> None:
    manifest = place.image("one", "1")
    place.push_blob(b"garbage")
    place.later(10 * HOUR)
    path = place.root / NAME / "blobs" / manifest.digest.replace(":", "/")
    path.write_bytes(manifest.body[:-1])
    assert place.collect().failed == [NAME]
    path.unlink()
    assert place.collect().failed == [NAME]
    assert place.has(b"garbage")


def test_a_damaged_index_keeps_everything(place: Place) -> None:
    place.image("one", "1")
    place.later(10 * HOUR)
    (place.root / NAME / "index.json").write_bytes(b"{")
    assert place.collect().failed == [NAME]
    assert len(place.files()) == 3


def test_children_that_a_sparse_index_lacks_are_no_fault(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.store = ImageStore(LocalBackend(str(tmp_path)), sparse_indexes=True)
    place.push(index([image(descriptor_of(b"{}", OCI_CONFIG)).descriptor()]), "1")
    place.later(10 * HOUR)
    assert place.collect(sparse=True).failed == []
    assert place.collect(sparse=False).failed == [NAME]


def test_what_a_child_in_quarantine_needs_is_kept_also_where_indexes_are_sparse(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.store = ImageStore(LocalBackend(str(tmp_path)), sparse_indexes=True)
    child = place.image("child")
    place.push(index([child.descriptor()]), "1")
    place.later(10 * HOUR)
    identity, _ = place.store.backend.identity(NAME, Digest(child.digest))
    place.store.backend.quarantine(NAME, Digest(child.digest), identity)
    assert place.collect(sparse=True).failed == [NAME]
    assert place.has(b"layer of child")
    place.push(child)
    assert place.collect(sparse=True).failed == []
    assert place.has(b"layer of child")


def test_a_child_that_is_listed_as_what_it_is_not_stops_nothing(place: Place) -> None:
    """It keeps what it needs as what it is; and what is no manifest at all keeps itself."""
    child = place.image("child")
    noise = place.push_blob(b"noise")
    place.store.sparse_indexes = True
    wrong = [child.descriptor(), descriptor_of(b"noise", OCI_INDEX), descriptor_of(b"noise", OCI_IMAGE)]
    wrong[0]["mediaType"] = OCI_INDEX
    place.push(index(wrong), "1")
    place.push_blob(b"garbage")
    place.later(10 * HOUR)
    result = place.collect()
    assert (result.failed, result.binned) == ([], 1)
    assert place.has(b"layer of child")
    place.store.delete_manifest(NAME, "1")
    lost = undo.find(place.store.backend, NAME, "1")
    assert lost
    undo.restore(place.store, NAME, lost)
    assert explain(place.store.backend, NAME, noise)[0] == "tag 1"


def test_a_child_that_does_not_say_what_it_is_keeps_what_it_needs(place: Place) -> None:
    """Not even where it is listed as what it is not, and the index that listed it rightly is gone."""
    child = place.image("child")
    fields = json.loads(child.body)
    del fields["mediaType"]
    child = place.push(document(fields, OCI_IMAGE))
    right = place.push(index([child.descriptor()]), "right")
    place.push(index([child.descriptor() | {"mediaType": OCI_INDEX}]), "wrong")
    place.store.delete_manifest(NAME, right.digest)
    place.later(10 * HOUR)
    place.collect()
    assert place.store.get_manifest(NAME, child.digest).data == child.body
    assert place.has(b"layer of child")


def test_what_nothing_has_checked_stops_nothing(place: Place) -> None:
    """An artifact that is an index, too, and lists there what nobody has: as an artifact it was accepted."""
    absent = descriptor_of(b"absent", OCI_INDEX)
    both = place.push(document({"schemaVersion": 2, "manifests": [absent]}, ORAS_ARTIFACT))
    place.push(index([both.descriptor() | {"mediaType": OCI_INDEX}]), "1")
    place.push_blob(b"garbage")
    place.later(10 * HOUR)
    result = place.collect()
    assert (result.failed, result.binned) == ([], 1)


def test_an_index_that_changes_keeps_what_was_not_marked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody pushes a manifest between the mark and the lock: its blobs were unreachable, and are not any more."""
    place.image("one", "1")
    place.push_blob(b"config")
    place.later(10 * HOUR)
    backend = place.store.backend
    lock = backend.lock
    pushed: list[int] = []

    def push_first(repository: str) -> AbstractContextManager[object]:
        if not pushed:
            pushed.append(1)
            place.push(image(descriptor_of(b"config", OCI_CONFIG)), "2")
        return lock(repository)

    monkeypatch.setattr(backend, "lock", push_first)
    assert place.collect().binned == 0
    assert pushed
    assert Digest.of(b"config").encoded in place.files()


def test_what_another_tool_needs_again_leaves_the_bin(place: Place) -> None:
    manifest = image(descriptor_of(b"config", OCI_CONFIG))
    place.image("one", "1")
    place.push_blob(b"config")
    place.later(HOUR + 2)
    assert place.collect().binned == 1
    place.push_blob(manifest.body)
    path = place.root / NAME / "index.json"
    entry = b',{"mediaType":"%s","digest":"%s","size":%d}]}'
    values = (manifest.media_type.encode(), manifest.digest.encode(), len(manifest.body))
    path.write_bytes(path.read_bytes()[:-2] + entry % values)
    place.collect()
    assert Digest.of(b"config").encoded in place.files()


def test_stale_sessions_and_temporary_files_go(place: Place) -> None:
    place.image("one", "1")
    stale = place.store.begin_upload(NAME, "sha512")
    (place.root / NAME / ".tmp-0123").write_bytes(b"x")
    place.later(HOUR + 2)
    young = place.store.begin_upload(NAME, "sha512")
    result = place.collect()
    assert place.files("*/.uploads/*") == [young, f"{young}.note"]
    assert not place.files("*/.tmp-*")
    assert result.dropped == 2
    assert stale in [event.what for event in place.events]


def test_a_session_that_is_written_to_stays(place: Place) -> None:
    session = place.store.begin_upload(NAME, "sha256")

    class Body:
        """Collect in the midst of the upload."""

        def __init__(self) -> None:
            self.parts = [b"data", b""]

        def read(self, size: int, /) -> bytes:
            place.later(10 * HOUR)
            place.collect()
            return self.parts.pop(0)

    assert place.store.append_upload(NAME, session, Body()) == 4
    assert place.store.upload_size(NAME, session) == 4


def test_pool_entries_that_nobody_links_go(place: Place) -> None:
    digest = place.push_blob(b"x")
    (place.root / NAME / "blobs" / digest.replace(":", "/")).unlink()
    place.push_blob(b"kept")
    result = Result()
    Collector(place.store.backend, delay=1, undo=1).sweep_pool(result)
    assert result.unlinked == 1
    assert place.files("../.pierhead/pool/*/*/*") == [Digest.of(b"kept").encoded]


def test_a_dry_run_changes_nothing_and_tells_the_same(place: Place) -> None:
    place.image("one", "1")
    place.push_blob(b"garbage")
    place.later(HOUR + 2)
    before = sorted(place.root.rglob("*"))
    assert place.collect(dry_run=True).binned == 1
    assert sorted(place.root.rglob("*")) == before
    assert place.collect().binned == 1


def test_an_empty_repository_is_listed_no_longer_and_can_come_back(place: Place) -> None:
    manifest = place.image("one", "1")
    place.push_blob(b"", "team/app/nested")
    place.push(image(descriptor_of(b"", OCI_CONFIG)), "1", "team/app/nested")
    place.store.delete_manifest(NAME, manifest.digest)
    place.later(2 * HOUR)
    place.collect(delay=1)
    place.later(10)
    place.collect(delay=1)
    assert list(place.store.backend.repositories()) == ["team/app/nested"]
    assert place.image("one", "2").digest == manifest.digest
    assert place.store.tags(NAME) == (["2"], False)


def test_purge_takes_at_once_what_nothing_needs(place: Place) -> None:
    secret = place.image("secret", "1")
    place.image("kept", "2")
    place.push_blob(b"upload under way")
    place.store.delete_manifest(NAME, secret.digest)
    result = Result()
    Collector(place.store.backend, delay=HOUR, undo=HOUR).purge(NAME, result)
    assert result.unlinked == 3
    assert not place.has(b"layer of secret")
    assert place.has(b"layer of kept")
    assert place.has(b"upload under way")
    assert undo.history(place.store.backend, NAME) == []


def test_explain_names_each_step(place: Place) -> None:
    one = place.image("one")
    both = place.push(index([one.descriptor()]), "1")
    layer = Digest.of(b"layer of one")
    assert explain(place.store.backend, NAME, layer) == ["tag 1", both.digest, one.digest, layer]
    assert explain(place.store.backend, NAME, place.push_blob(b"garbage")) == []
    place.store.delete_manifest(NAME, both.digest)
    [reason, *path] = explain(place.store.backend, NAME, layer)
    assert reason.startswith("restorable 1, lost at 20")
    assert path == [both.digest, one.digest, layer]


class TestRestore:
    """What was deleted or moved comes back as it was, or not at all."""

    def test_a_tag_that_moved(self, place: Place) -> None:
        first, second = place.image("one", "1"), place.image("two", "1")
        lost = undo.find(place.store.backend, NAME, "1")
        assert lost
        undo.restore(place.store, NAME, lost)
        assert place.store.get_manifest(NAME, "1").digest == first.digest
        again = undo.find(place.store.backend, NAME, "1")
        assert again
        assert again.digest == second.digest

    def test_at_a_time(self, place: Place) -> None:
        manifests = [place.image(text, "1") for text in ("one", "two", "three")]
        changes = undo.history(place.store.backend, NAME)
        assert [lost.digest for lost in changes] == [manifest.digest for manifest in manifests[:2]]
        for lost in changes:
            assert undo.find(place.store.backend, NAME, "1", lost.time) == lost
        assert undo.find(place.store.backend, NAME, "1", changes[-1].time + 1) is None

    def test_an_index_with_its_children_and_referrers(self, place: Place) -> None:
        one, two = place.image("one"), place.image("two")
        both = place.push(index([one.descriptor(), two.descriptor()]), "1")
        signature = place.image("signature", subject=both.descriptor())
        place.store.delete_manifest(NAME, both.digest)
        place.later(HOUR / 2)
        place.collect(delay=1)
        lost = undo.find(place.store.backend, NAME, "1")
        assert lost
        assert [other.digest for other in undo.restore(place.store, NAME, lost)] == [signature.digest]
        for manifest in (one, two, both, signature):
            assert place.store.get_manifest(NAME, manifest.digest).data == manifest.body
        assert place.store.tags(NAME) == (["1"], False)

    def test_names_what_is_gone_and_changes_nothing(self, place: Place) -> None:
        manifest = place.image("one", "1")
        place.store.delete_manifest(NAME, manifest.digest)
        place.store.delete_blob(NAME, Digest.of(b"layer of one"))
        before = (place.root / NAME / "index.json").read_bytes()
        lost = undo.find(place.store.backend, NAME, "1")
        assert lost
        with pytest.raises(undo.NotRestorable) as caught:
            undo.restore(place.store, NAME, lost)
        assert caught.value.missing == [Digest.of(b"layer of one")]
        assert (place.root / NAME / "index.json").read_bytes() == before

    def test_a_note_that_a_crash_cut_off_says_nothing(self, place: Place) -> None:
        place.image("one", "1")
        directory = Path(Layout(str(place.root)).undo(NAME))
        directory.mkdir(parents=True)
        (directory / f"{time.time_ns():020d}-00000000.json").write_bytes(b'{"removed":[{"mediaTy')
        assert undo.history(place.store.backend, NAME) == []
        assert place.collect().failed == []

    def test_nothing_is_noted_where_nothing_can_be_undone(self, tmp_path: Path) -> None:
        place = Place(tmp_path)
        place.store = ImageStore(LocalBackend(str(tmp_path)))
        place.image("one", "1")
        place.store.delete_manifest(NAME, "1")
        assert not place.files("*/.bin")

    def test_nothing_is_remembered_where_nothing_can_be_undone(self, tmp_path: Path) -> None:
        """A worker would keep each entry that a tag ever had."""
        place = Place(tmp_path)
        place.store = ImageStore(LocalBackend(str(tmp_path)))
        images = [place.image(text) for text in ("one", "two")]
        for number in range(100):
            place.push(images[number % 2], "latest")
        assert place.store._snapshot(NAME).removed == ()


def test_a_blob_that_is_taken_back_at_once_is_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for it takes no lock, and may come as soon as it has left its place."""
    digest = place.push_blob(b"x")
    place.later(HOUR + 2)
    rename = Durable.rename

    def asked_for(self: Durable, source: str, target: str) -> None:
        rename(self, source, target)
        monkeypatch.setattr(Durable, "rename", rename)
        stat = os.stat

        def late(path: str, **options: Any) -> os.stat_result:
            status = stat(path, **options)
            if path == target:
                monkeypatch.setattr(os, "stat", stat)
                assert place.has(b"x")
            return status

        monkeypatch.setattr(os, "stat", late)

    monkeypatch.setattr(Durable, "rename", asked_for)
    place.collect()
    assert digest.encoded in place.files()
    assert place.has(b"x")


@pytest.mark.parametrize("mounted", [False, True])
def test_a_damaged_blob_does_not_come_back_out_of_the_bin(place: Place, mounted: bool) -> None:
    """Neither over what was pushed meanwhile, nor over what was mounted."""
    digest = place.push_blob(b"x")
    path = place.root / NAME / "blobs" / digest.replace(":", "/")
    path.unlink()
    path.write_bytes(b"y")
    place.later(HOUR + 2)
    assert place.collect().binned == 1
    if mounted:
        place.push_blob(b"x", "team/other")
        assert place.store.mount(NAME, digest, "team/other")
    place.push_blob(b"x")
    place.push(image(descriptor_of(b"x", OCI_CONFIG)), "1")
    place.collect()
    assert path.read_bytes() == b"x"
    assert not place.files("app/.bin/*/*/*")


class TestABlobThatWasMountedAgain:
    """It lies in its place and in the bin, as two links of one file, which a rename leaves as they are."""

    @pytest.fixture
    def twice(self, place: Place) -> Place:
        place.image("one", "1")
        place.push_blob(b"x")
        place.push_blob(b"x", "team/other")
        place.later(HOUR + 2)
        assert place.collect().binned == 1
        assert place.store.mount(NAME, Digest.of(b"x"), None)
        assert place.files("app/.bin/*/*/*") == [Digest.of(b"x").encoded]
        assert place.has(b"x")
        return place

    def test_it_leaves_the_bin_when_a_manifest_needs_it(self, twice: Place) -> None:
        twice.push(image(descriptor_of(b"x", OCI_CONFIG)), "2")
        twice.events.clear()
        for _ in range(2):
            twice.collect()
        assert [event.action for event in twice.events] == ["taken back"]
        assert not twice.files("app/.bin/*/*/*")
        assert twice.has(b"x")

    def test_it_is_gone_once_it_is_deleted(self, twice: Place) -> None:
        twice.store.delete_blob(NAME, Digest.of(b"x"))
        assert not twice.has(b"x")

    def test_it_is_set_aside_again_in_the_same_second(self, twice: Place) -> None:
        [batch] = twice.files("app/.bin/2*")
        now = time.mktime(time.strptime(batch, "%Y%m%dT%H%M%SZ")) - time.timezone
        digest = Digest.of(b"x")
        assert [blob.digest for blob in twice.store.backend.bin_blobs(NAME, [digest], now)] == [digest]
        assert digest.encoded not in twice.files("app/blobs/*/*")
        assert twice.has(b"x")
