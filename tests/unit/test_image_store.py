"""What a repository means: pushes that are refused, damage that is withstood, deletes that must not harm."""

from __future__ import annotations

import errno
import io
import json
import os
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from storage.digest import Digest
from storage.durable import Durable
from storage.errors import (
    BlobUnknown,
    DigestInvalid,
    DigestMismatch,
    IndexDamaged,
    ManifestInvalid,
    ManifestUnknown,
    PreconditionFailed,
    ReferencesUnknown,
    RepositoryUnknown,
    StillReferenced,
    TagInvalid,
)
from storage.image_store import ImageStore
from storage.layout import Layout
from storage.local import LocalBackend
from tests.support.oci import (
    DOCKER_LAYER,
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
CONFIG = b"{}"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


@pytest.fixture
def store(layout: Layout) -> ImageStore:
    return open_store(layout)


def open_store(layout: Layout, **options: Any) -> ImageStore:
    """Open the store as another worker does."""
    return ImageStore(LocalBackend(layout.root), **options)


def push_blob(store: ImageStore, data: bytes) -> Digest:
    store.push_blob(NAME, Digest.of(data), io.BytesIO(data))
    return Digest.of(data)


def push_image(store: ImageStore, tag: str | None, layer: bytes = b"layer", **fields: Any) -> Document:
    """Push an image with its blobs."""
    for blob in (CONFIG, layer):
        push_blob(store, blob)
    made = image(descriptor_of(CONFIG, OCI_CONFIG), [descriptor_of(layer, OCI_LAYER)], **fields)
    store.put_manifest(NAME, tag or made.digest, made.body)
    return made


def push_index(store: ImageStore, tag: str, *children: dict[str, Any], **fields: Any) -> Document:
    made = index(children, **fields)
    store.put_manifest(NAME, tag, made.body)
    return made


# manifests


def test_a_manifest_is_kept_byte_for_byte(store: ImageStore, layout: Layout) -> None:
    push_blob(store, CONFIG)
    body = json.dumps(image(descriptor_of(CONFIG, OCI_CONFIG)).content, indent=3).encode() + b"\n \n"
    pushed = store.put_manifest(NAME, "v1", body, content_type=OCI_IMAGE, tags=["v2", "v1"])
    assert (pushed.digest, pushed.subject) == (Digest.of(body), None)
    for reader in (store, open_store(layout)):
        for reference in ("v1", "v2", pushed.digest):
            found = reader.get_manifest(NAME, reference)
            assert (found.data, found.digest, found.media_type) == (body, pushed.digest, OCI_IMAGE)
        assert reader.tags(NAME) == (["v1", "v2"], False)


def test_a_manifest_by_its_sha512_digest(store: ImageStore) -> None:
    push_blob(store, CONFIG)
    made = image(descriptor_of(CONFIG, OCI_CONFIG))
    digest = Digest.of(made.body, "sha512")
    assert store.put_manifest(NAME, digest, made.body, tags=["a"]).digest == digest
    assert store.get_manifest(NAME, "a").digest == digest


@pytest.mark.parametrize("reference", [".bad", "a" * 129, ""])
def test_a_bad_tag_stores_nothing(store: ImageStore, reference: str) -> None:
    push_blob(store, CONFIG)
    body = image(descriptor_of(CONFIG, OCI_CONFIG)).body
    with pytest.raises(TagInvalid):
        store.put_manifest(NAME, reference, body)
    with pytest.raises(TagInvalid):
        store.put_manifest(NAME, "good", body, tags=[reference])
    with pytest.raises(RepositoryUnknown):
        store.tags(NAME)


def test_a_wrong_digest_stores_nothing(store: ImageStore) -> None:
    push_blob(store, CONFIG)
    body = image(descriptor_of(CONFIG, OCI_CONFIG)).body
    with pytest.raises(DigestMismatch):
        store.put_manifest(NAME, Digest.of(b"other"), body)
    with pytest.raises(DigestInvalid):
        store.put_manifest(NAME, "sha256:short", body)
    with pytest.raises(BlobUnknown):
        store.blob_size(NAME, Digest.of(body))


def test_all_that_is_missing_is_named_once(store: ImageStore) -> None:
    config, layer, odd = descriptor_of(b"c", OCI_CONFIG), descriptor_of(b"l", OCI_LAYER), descriptor_of(b"o", "a/b")
    odd["digest"] = "blake3:abc"
    foreign = descriptor_of(b"f", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    made = image(config, [layer, layer, foreign, odd], subject=descriptor_of(b"s", OCI_IMAGE))
    with pytest.raises(ReferencesUnknown) as caught:
        store.put_manifest(NAME, "v1", made.body)
    assert caught.value.missing == [config["digest"], layer["digest"], odd["digest"]]
    with pytest.raises(BlobUnknown):
        store.blob_size(NAME, Digest(made.digest))


def test_a_child_is_a_manifest_not_just_a_blob(store: ImageStore) -> None:
    made = image(descriptor_of(CONFIG, OCI_CONFIG))
    push_blob(store, CONFIG)
    push_blob(store, made.body)
    with pytest.raises(ReferencesUnknown):
        push_index(store, "all", made.descriptor())
    store.put_manifest(NAME, made.digest, made.body)
    push_index(store, "all", made.descriptor())


def test_sparse_indexes_are_an_option(layout: Layout) -> None:
    missing = descriptor_of(b"elsewhere", OCI_IMAGE)
    with pytest.raises(ReferencesUnknown):
        push_index(open_store(layout), "all", missing)
    store = open_store(layout, sparse_indexes=True)
    push_index(store, "all", missing)
    with pytest.raises(ManifestUnknown):
        store.get_manifest(NAME, missing["digest"])


def test_a_condition_is_asked_with_what_is_there(store: ImageStore) -> None:
    asked: list[str | None] = []

    def only_new(digest: str | None) -> bool:
        asked.append(digest)
        return digest is None

    push_blob(store, CONFIG)
    first, second = image(descriptor_of(CONFIG, OCI_CONFIG)), image(descriptor_of(CONFIG, OCI_CONFIG), a="b")
    store.put_manifest(NAME, "v1", first.body, precondition=only_new)
    with pytest.raises(PreconditionFailed):
        store.put_manifest(NAME, "v1", second.body, precondition=only_new)
    assert set(asked) == {None, first.digest}
    assert store.get_manifest(NAME, "v1").data == first.body
    with pytest.raises(BlobUnknown):
        store.blob_size(NAME, Digest(second.digest))


def test_only_one_of_many_creates_a_tag(layout: Layout) -> None:
    push_blob(open_store(layout), CONFIG)
    images = [image(descriptor_of(CONFIG, OCI_CONFIG), number=number) for number in range(8)]
    stores = [open_store(layout) for _ in range(2)]

    def create(number: int) -> bool:
        try:
            stores[number % 2].put_manifest(NAME, "v1", images[number].body, precondition=lambda digest: digest is None)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert created.count(True) == 1
    assert stores[0].get_manifest(NAME, "v1").data == images[created.index(True)].body


def test_no_tag_is_lost_between_workers(layout: Layout) -> None:
    stores = [open_store(layout) for _ in range(3)]
    made = push_image(stores[0], "start")

    def tag(number: int) -> None:
        stores[number % 3].put_manifest(NAME, f"v{number}", made.body)

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(tag, range(60)))
    for store in (*stores, open_store(layout)):
        assert set(store.tags(NAME)[0]) == {"start", *(f"v{number}" for number in range(60))}


def test_unknown_repositories_and_references(store: ImageStore) -> None:
    with pytest.raises(RepositoryUnknown):
        store.get_manifest(NAME, "v1")
    with pytest.raises(RepositoryUnknown):
        store.delete_manifest(NAME, "v1")
    with pytest.raises(RepositoryUnknown):
        store.tags(NAME)
    assert store.referrers(NAME, Digest.of(b"x")) == []
    push_image(store, "v1")
    for reference in ("v2", ".bad", "a/b", Digest.of(b"x"), Digest.of(b"layer")):
        with pytest.raises(ManifestUnknown):
            store.get_manifest(NAME, reference)
        with pytest.raises(ManifestUnknown):
            store.delete_manifest(NAME, reference)
    with pytest.raises(DigestInvalid):
        store.get_manifest(NAME, "sha256:bad")


def test_tags_are_listed_in_pages(store: ImageStore) -> None:
    made = push_image(store, "b")
    store.put_manifest(NAME, "a", made.body, tags=["B", "_", "a.1", "a-1"])
    everything = ["B", "_", "a", "a-1", "a.1", "b"]
    assert store.tags(NAME) == (everything, False)
    for limit in range(8):
        for after in ("", "A", "B", "a", "a-", "b", "c"):
            rest = [tag for tag in everything if tag > after]
            assert store.tags(NAME, after, limit) == (rest[:limit], len(rest) > limit)


def test_referrers_are_described_by_their_manifests(store: ImageStore) -> None:
    subject = push_image(store, "v1")
    plain = push_image(store, None, b"one", subject=subject.descriptor(), annotations={"a": "b"})
    typed = push_image(store, "t", b"two", subject=subject.descriptor(), artifactType="x/y")
    by_index = push_index(store, "i", subject=subject.descriptor(), artifactType="x/y")
    wanted = [
        plain.descriptor(artifactType=OCI_CONFIG, annotations={"a": "b"}),
        typed.descriptor(artifactType="x/y"),
        by_index.descriptor(artifactType="x/y"),
    ]
    wanted.sort(key=lambda found: str(found["digest"]))
    assert store.referrers(NAME, Digest(subject.digest)) == wanted
    filtered = [found for found in wanted if found["artifactType"] == "x/y"]
    assert store.referrers(NAME, Digest(subject.digest), "x/y") == filtered
    assert store.referrers(NAME, Digest(subject.digest), "other") == []


# deletion


def test_what_a_manifest_needs_is_not_deleted(store: ImageStore) -> None:
    made = push_image(store, "v1")
    for digest in (Digest.of(CONFIG), Digest.of(b"layer"), Digest(made.digest)):
        with pytest.raises(StillReferenced):
            store.delete_blob(NAME, digest)
    store.delete_manifest(NAME, made.digest)
    for digest in (Digest.of(CONFIG), Digest.of(b"layer"), Digest(made.digest)):
        store.delete_blob(NAME, digest)
        with pytest.raises(BlobUnknown):
            store.delete_blob(NAME, digest)


def test_a_manifest_is_accepted_only_with_what_is_there_under_the_lock(
    store: ImageStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob that is deleted between the first look and the lock is missed, and nothing is listed."""
    layer = push_blob(store, b"layer")
    push_blob(store, CONFIG)
    put_blob = LocalBackend.put_blob

    def delete_first(backend: LocalBackend, repository: str, digest: Digest, data: bytes) -> None:
        open_store(layout).delete_blob(NAME, layer)
        put_blob(backend, repository, digest, data)

    monkeypatch.setattr(LocalBackend, "put_blob", delete_first)
    made = image(descriptor_of(CONFIG, OCI_CONFIG), [descriptor_of(b"layer", OCI_LAYER)])
    with pytest.raises(ReferencesUnknown):
        store.put_manifest(NAME, "v1", made.body)
    with pytest.raises(RepositoryUnknown):
        store.tags(NAME)


def test_a_blob_is_deleted_only_if_nobody_needs_it_under_the_lock(
    store: ImageStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that is pushed between the first look and the lock is heeded, and pulls whole."""
    layer = push_blob(store, b"layer")
    lock = LocalBackend.lock
    pushed: list[Document] = []

    def push_first(backend: LocalBackend, repository: str) -> AbstractContextManager[object]:
        monkeypatch.setattr(LocalBackend, "lock", lock)
        pushed.append(push_image(open_store(layout), "v1"))
        return lock(backend, repository)

    monkeypatch.setattr(LocalBackend, "lock", push_first)
    with pytest.raises(StillReferenced):
        store.delete_blob(NAME, layer)
    assert [store.get_manifest(NAME, "v1").data] == [made.body for made in pushed]
    assert store.blob_size(NAME, layer) == len(b"layer")


# damage


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"manifests": 3}'])
def test_a_damaged_index_is_served_from_the_last_good_one(store: ImageStore, layout: Layout, damage: bytes) -> None:
    made = push_image(store, "v1")
    Path(layout.index(NAME)).write_bytes(damage)
    for reader in (store, open_store(layout)):
        assert reader.get_manifest(NAME, "v1").data == made.body
        assert reader.tags(NAME) == (["v1"], False)
        with pytest.raises(IndexDamaged):
            reader.put_manifest(NAME, "v2", made.body)
        with pytest.raises(IndexDamaged):
            reader.delete_manifest(NAME, "v1")
        with pytest.raises(IndexDamaged):
            reader.delete_blob(NAME, Digest.of(b"layer"))
    assert Path(layout.index(NAME)).read_bytes() == damage


def test_a_damaged_index_without_a_good_copy(store: ImageStore, layout: Layout) -> None:
    push_image(store, "v1")
    Path(layout.index(NAME)).write_bytes(b"{")
    good = Path(layout.last_good_index(NAME))
    for copy in (b"", b"x\n{}", good.read_bytes()[:-1], good.read_bytes().replace(b"v1", b"v2")):
        good.write_bytes(copy)
        with pytest.raises(IndexDamaged):
            open_store(layout).get_manifest(NAME, "v1")


def test_a_mended_index_is_used_at_once(store: ImageStore, layout: Layout) -> None:
    made = push_image(store, "v1")
    whole = Path(layout.index(NAME)).read_bytes()
    Path(layout.index(NAME)).write_bytes(b"{")
    with pytest.raises(IndexDamaged):
        store.put_manifest(NAME, "v2", made.body)
    Path(layout.index(NAME)).write_bytes(whole)
    store.put_manifest(NAME, "v2", made.body)
    assert store.tags(NAME) == (["v1", "v2"], False)


def test_a_refusal_does_not_grow_with_each_writer(store: ImageStore, layout: Layout) -> None:
    made = push_image(store, "v1")
    Path(layout.index(NAME)).write_bytes(b"{")
    depths = []
    for _ in range(5):
        with pytest.raises(IndexDamaged) as caught:
            store.put_manifest(NAME, "v2", made.body)
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(set(depths[1:])) == 1


def test_a_damaged_manifest_is_not_served(store: ImageStore, layout: Layout) -> None:
    made = push_image(store, "v1")
    path = Path(layout.blob(NAME, Digest(made.digest)))
    path.write_bytes(made.body.replace(b"layer", b"other"))
    with pytest.raises(ManifestUnknown, match="damaged"):
        open_store(layout).get_manifest(NAME, "v1")
    path.unlink()
    with pytest.raises(ManifestUnknown, match="missing"):
        open_store(layout).get_manifest(NAME, "v1")


def test_what_another_tool_writes_is_seen_at_once(store: ImageStore, layout: Layout) -> None:
    made = push_image(store, "v1")
    path = Path(layout.index(NAME))
    beside = path.with_name("new")
    beside.write_bytes(path.read_bytes().replace(b'"v1"', b'"v2"'))
    os.utime(beside, ns=(0, 0))
    beside.rename(path)
    assert store.get_manifest(NAME, "v2").data == made.body
    with pytest.raises(ManifestUnknown):
        store.get_manifest(NAME, "v1")


# uploads


class FailingOnce(Durable):
    """Fail the first directory that is synced after `fail` was set."""

    fail = False

    def sync_directory(self, path: str) -> None:
        if self.fail:
            self.fail = False
            raise OSError(errno.ENOSPC, "no space")
        super().sync_directory(path)


def test_a_push_in_one_go_that_fails_says_why_and_leaves_no_session(layout: Layout) -> None:
    durable = FailingOnce(layout.root)
    store = ImageStore(LocalBackend(layout.root, durable=durable))
    push_blob(store, b"first")
    durable.fail = True
    with pytest.raises(OSError, match="no space"):
        push_blob(store, b"second")
    assert list(Path(layout.uploads(NAME)).iterdir()) == []
    push_blob(store, b"second")


def test_a_push_in_one_go_with_the_wrong_digest_leaves_nothing(store: ImageStore, layout: Layout) -> None:
    with pytest.raises(DigestMismatch):
        store.push_blob(NAME, Digest.of(b"a"), io.BytesIO(b"b"))
    assert list(Path(layout.uploads(NAME)).iterdir()) == []


# what must be mended


def test_an_artifact_without_a_media_type_holds_its_blobs(store: ImageStore) -> None:
    push_blob(store, CONFIG)
    body = json.dumps({"artifactType": "a/b", "blobs": [descriptor_of(CONFIG, OCI_CONFIG)]}).encode()
    store.put_manifest(NAME, "v1", body, content_type=ORAS_ARTIFACT)
    with pytest.raises(StillReferenced):
        store.delete_blob(NAME, Digest.of(CONFIG))


def test_a_child_that_is_no_manifest_is_not_served_as_one(store: ImageStore) -> None:
    page = push_blob(store, b"<script>alert(1)</script>")
    push_index(store, "all", descriptor_of(b"<script>alert(1)</script>", "text/html"))
    with pytest.raises(StillReferenced):
        store.delete_blob(NAME, page)
    with pytest.raises(ManifestUnknown):
        store.get_manifest(NAME, page)


@pytest.mark.parametrize("claimed", [OCI_IMAGE, DOCKER_LAYER])
def test_an_index_that_is_listed_as_something_else_still_pulls_whole(store: ImageStore, claimed: str) -> None:
    leaf = push_image(store, None)
    inner = index([leaf.descriptor()])
    store.put_manifest(NAME, inner.digest, inner.body)
    push_index(store, "all", inner.descriptor() | {"mediaType": claimed})
    assert store.get_manifest(NAME, inner.digest).media_type == inner.media_type
    assert store.get_manifest(NAME, leaf.digest).data == leaf.body


def test_a_manifest_whose_content_was_deleted_meanwhile_is_whole(
    store: ImageStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_blob(store, CONFIG)
    made = image(descriptor_of(CONFIG, OCI_CONFIG))
    put_blob = LocalBackend.put_blob

    def delete_after(backend: LocalBackend, repository: str, digest: Digest, data: bytes) -> None:
        put_blob(backend, repository, digest, data)
        monkeypatch.setattr(LocalBackend, "put_blob", put_blob)
        open_store(layout).delete_blob(NAME, digest)

    monkeypatch.setattr(LocalBackend, "put_blob", delete_after)
    store.put_manifest(NAME, "v1", made.body)
    assert open_store(layout).get_manifest(NAME, "v1").data == made.body


@pytest.mark.parametrize("other", [False, True], ids=["by itself", "by another worker"])
def test_what_is_deleted_is_let_go_of(layout: Layout, other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker's memory would fill, up to its bound, with what nobody can ask for any longer."""
    store = open_store(layout)
    kept, gone = push_image(store, "kept"), push_image(store, "gone", b"another layer")
    for image_ in (kept, gone):
        store.get_manifest(NAME, image_.digest)
    (open_store(layout) if other else store).delete_manifest(NAME, gone.digest)
    store.tags(NAME)
    open_store(layout).put_manifest(NAME, "gone", gone.body, content_type=gone.media_type)
    read, digests = LocalBackend.read_blob, list[str]()

    def note(backend: LocalBackend, repository: str, digest: Digest, limit: int) -> bytes:
        digests.append(digest)
        return read(backend, repository, digest, limit)

    monkeypatch.setattr(LocalBackend, "read_blob", note)
    for image_ in (kept, gone):
        assert store.get_manifest(NAME, image_.digest).data == image_.body
    assert digests == [gone.digest]


def test_a_listing_that_can_never_be_read_costs_nothing_for_each_request(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may push can list a manifest as the index that it is not."""
    store = open_store(layout)
    child = push_image(store, None)
    listing = index([child.descriptor() | {"mediaType": OCI_INDEX}, child.descriptor()])
    store.put_manifest(NAME, "multi", listing.body, content_type=listing.media_type)
    other, read, count = open_store(layout), LocalBackend.read_blob, 0
    assert other.referrers(NAME, Digest.of(b"nothing")) == []

    def note(backend: LocalBackend, repository: str, digest: Digest, limit: int) -> bytes:
        nonlocal count
        count += 1
        return read(backend, repository, digest, limit)

    def ask() -> None:
        other.get_manifest(NAME, child.digest)
        with pytest.raises(ManifestUnknown):
            other.get_manifest(NAME, Digest.of(b"nothing"))

    ask()
    monkeypatch.setattr(LocalBackend, "read_blob", note)
    for _ in range(20):
        ask()
    assert count <= 1


def test_a_foreign_entry_without_a_media_type_is_no_bug(store: ImageStore, layout: Layout) -> None:
    push_image(store, "v1")
    document_now = json.loads(Path(layout.index(NAME)).read_bytes())
    del document_now["manifests"][0]["mediaType"]
    Path(layout.index(NAME)).write_text(json.dumps(document_now))
    with suppress(IndexDamaged, ManifestUnknown):
        assert store.get_manifest(NAME, "v1").media_type == OCI_IMAGE


def test_nothing_that_is_no_manifest_gets_a_tag(store: ImageStore) -> None:
    for body in (b"", b"{}", b"[" * 100_000, document({"a": 1}, "a/b").body):
        with pytest.raises(ManifestInvalid):
            store.put_manifest(NAME, "v1", body)
