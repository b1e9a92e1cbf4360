"""Quotas: what is used is what lies on the disk, and nothing passes a limit, whoever else pushes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from storage.backend import Backend
from storage.controller import StoreController
from storage.digest import Digest
from storage.errors import QuotaExceeded, UploadOutOfOrder, UploadUnknown
from storage.image_store import ImageStore
from storage.local import LocalBackend
from storage.quota import Quotas, guarded
from storage.reservations import Claim
from tests.support.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER, descriptor_of, image, index

MIB = 1024 * 1024


class Sized:
    """A body that says how long it is, and tells how much of it was read."""

    def __init__(self, data: bytes, declared: int | None = None) -> None:
        self._body = io.BytesIO(data)
        self.left = len(data) if declared is None else declared
        self.read_calls = 0

    def read(self, size: int, /) -> bytes:
        self.read_calls += 1
        data = self._body.read(size)
        self.left -= len(data)
        return data


class Registry:
    """A store with quotas, as one worker has it."""

    def __init__(
        self, root: Path, limits: Mapping[str, int] | None = None, most: int | None = None, substore: str = ""
    ) -> None:
        self.root = root
        self.below: dict[str, Backend] = {"": LocalBackend(str(root))}
        if substore:
            self.below[substore] = LocalBackend(f"{root}-{substore}")
        self.quotas = Quotas(str(root / ".pierhead/quotas"), limits or {}, most, self.below)
        stores = {prefix: ImageStore(guarded(backend, self.quotas)) for prefix, backend in self.below.items()}
        self.controller = StoreController(stores.pop(""), stores)

    def push(self, repository: str, data: bytes, body: object = None) -> Digest:
        digest = Digest.of(data)
        source = io.BytesIO(data) if body is None else body
        self.controller.store(repository).push_blob(repository, digest, source)  # type: ignore[arg-type]
        return digest

    def chunked(self, repository: str, data: bytes, pieces: int = 2) -> Digest:
        store = self.controller.store(repository)
        session = store.begin_upload(repository, "sha256")
        step = -(-len(data) // pieces)
        for start in range(0, len(data), step):
            store.append_upload(repository, session, io.BytesIO(data[start : start + step]))
        store.finish_upload(repository, session, Digest.of(data), io.BytesIO())
        return Digest.of(data)

    def image(self, repository: str, config: bytes, layer: bytes, tag: str = "1") -> Digest:
        for data in (config, layer):
            self.push(repository, data)
        manifest = image(descriptor_of(config, OCI_CONFIG), [descriptor_of(layer, OCI_LAYER)])
        store = self.controller.store(repository)
        return store.put_manifest(repository, tag, manifest.body, content_type=manifest.media_type).digest

    def used(self, prefix: str = "") -> int:
        return next(usage.used for usage in self.quotas.usages() if usage.prefix == prefix)

    def files(self, pattern: str = "**/*") -> list[Path]:
        return [path for path in self.root.glob(pattern) if path.is_file() and ".pierhead" not in path.parts]


Make = Callable[..., Registry]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Give a function that opens the same store, each time as another worker does."""
    return lambda *args, **options: Registry(tmp_path / "root", *args, **options)


# bytes


def test_what_fits_exactly_is_stored_and_a_byte_more_is_not(make: Make) -> None:
    registry = make({"": 100})
    registry.push("a", b"x" * 60)
    registry.push("b", b"y" * 40)
    with pytest.raises(QuotaExceeded) as caught:
        registry.push("b", b"z")
    assert caught.value.detail == {"prefix": "/", "used": 100, "limit": 100, "asked": 1}
    assert caught.value.message == (
        "the quota of this registry is 100 B, of which 100 B are used: this push needs 1 B or more"
    )
    assert len(registry.files()) == 2


def test_a_declared_length_is_refused_before_anything_is_read(make: Make) -> None:
    registry = make({"team": 10})
    body = Sized(b"x" * 11)
    with pytest.raises(QuotaExceeded, match=r"quota of team is 10 B, of which 0 B are used: .* needs 11 B$"):
        registry.push("team/app", b"x" * 11, body)
    assert body.read_calls == 0
    assert registry.files() == []
    body = Sized(b"x" * 10)
    registry.push("team/app", b"x" * 10, body)


def test_a_body_that_brings_more_than_it_declared_is_metered_too(make: Make) -> None:
    registry = make({"team": 10})
    with pytest.raises(QuotaExceeded):
        registry.push("team/app", b"x" * 11, Sized(b"x" * 11, declared=5))
    assert registry.files() == []


def test_a_stream_is_refused_as_soon_as_it_passes_the_limit(make: Make) -> None:
    registry = make({"": 6 * MIB})
    body = io.BytesIO(b"x" * 20 * MIB)
    with pytest.raises(QuotaExceeded, match="or more"):
        registry.push("a", b"other", body)
    assert body.tell() <= 8 * MIB
    assert registry.files() == []
    assert registry.used() == 0
    registry.push("a", b"y" * 6 * MIB)


def test_a_chunk_that_does_not_fit_ends_its_session(make: Make) -> None:
    registry = make({"": 10})
    store = registry.controller.store("a")
    session = store.begin_upload("a", "sha256")
    store.append_upload("a", session, Sized(b"x" * 8))
    assert registry.used() == 8
    with pytest.raises(QuotaExceeded):
        store.append_upload("a", session, Sized(b"x" * 3), 8)
    with pytest.raises(UploadUnknown):
        store.upload_size("a", session)
    assert registry.used() == 0


def test_a_last_chunk_that_does_not_fit_ends_its_session(make: Make) -> None:
    registry = make({"": 10})
    store = registry.controller.store("a")
    session = store.begin_upload("a", "sha256")
    store.append_upload("a", session, Sized(b"x" * 8))
    with pytest.raises(QuotaExceeded):
        store.finish_upload("a", session, Digest.of(b"x" * 11), Sized(b"x" * 3))
    assert registry.files() == []


def test_a_chunk_out_of_order_ends_no_session(make: Make) -> None:
    registry = make({"": 10})
    store = registry.controller.store("a")
    session = store.begin_upload("a", "sha256")
    store.append_upload("a", session, Sized(b"x" * 8))
    with pytest.raises((QuotaExceeded, UploadOutOfOrder)):
        store.append_upload("a", session, Sized(b"x" * 9), 3)
    assert store.upload_size("a", session) == 8


def test_sessions_count_and_cancelling_frees(make: Make) -> None:
    registry = make({"": 10})
    store = registry.controller.store("a")
    session = store.begin_upload("a", "sha256")
    store.append_upload("a", session, io.BytesIO(b"x" * 8))
    with pytest.raises(QuotaExceeded):
        make({"": 10}).push("b", b"yyy")
    store.cancel_upload("a", session)
    make({"": 10}).push("b", b"yyy")


def test_a_finished_upload_counts_once(make: Make) -> None:
    registry = make({"": 10})
    registry.chunked("a", b"0123456789", pieces=5)
    assert registry.used() == 10
    assert registry.quotas.usages()[0].used == 10


def test_shared_blobs_count_once_within_a_prefix_and_in_each(make: Make) -> None:
    registry = make({"a": 100, "b": 100, "": 100})
    for name in ("a", "a/x", "b"):
        registry.push(name, b"x" * 60)
    assert [usage.used for usage in registry.quotas.usages()] == [60, 60, 60]
    registry.push("a", b"y" * 40)
    with pytest.raises(QuotaExceeded, match="this registry"):
        registry.push("b", b"z")


def test_prefixes_are_whole_components_and_every_one_counts(make: Make) -> None:
    registry = make({"team": 10, "team/app": 5})
    registry.push("teamwork", b"x" * 50)
    registry.push("team/app-b", b"y" * 4)
    with pytest.raises(QuotaExceeded, match=r"quota of team/app is"):
        registry.push("team/app/sub", b"z" * 6)
    registry.push("team", b"z" * 3)
    with pytest.raises(QuotaExceeded, match=r"quota of team is"):
        registry.push("team/app", b"!" * 5)
    registry.push("team", b"?" * 3)
    assert [(usage.prefix, usage.used, usage.limit) for usage in registry.quotas.usages()] == [
        ("team", 10, 10),
        ("team/app", 0, 5),
    ]


def test_quotas_span_stores(make: Make) -> None:
    registry = make({"": 10, "sub": 8}, substore="sub")
    registry.push("a", b"x" * 6)
    registry.push("sub/a", b"y" * 4)
    assert [usage.used for usage in registry.quotas.usages()] == [10, 4]
    with pytest.raises(QuotaExceeded, match="this registry"):
        registry.push("sub/b", b"z")
    registry.root.joinpath("sub/shadowed/blobs/sha256").mkdir(parents=True)
    registry.root.joinpath("sub/shadowed/blobs/sha256", "0" * 64).write_bytes(b"x" * 99)
    assert [usage.used for usage in registry.quotas.usages()] == [10, 4]


@pytest.mark.parametrize("named", [True, False])
def test_a_mount_counts_only_where_the_prefix_lacks_the_blob(make: Make, named: bool) -> None:
    registry = make({"a": 10, "b": 5})
    digest = registry.push("a", b"x" * 10)
    assert registry.controller.mount("a/more", digest, "a" if named else None)
    assert registry.controller.mount("free", digest, "a" if named else None)
    with pytest.raises(QuotaExceeded, match=r"quota of b is 5 B, of which 0 B are used: .* needs 10 B$"):
        registry.controller.mount("b", digest, "a" if named else None)
    assert not (registry.root / "b").exists()
    assert not registry.controller.mount("b", Digest.of(b"none"), "a" if named else None)


def test_a_mount_from_another_store_counts(make: Make) -> None:
    registry = make({"sub": 5}, substore="sub")
    digest = registry.push("a", b"x" * 10)
    with pytest.raises(QuotaExceeded):
        registry.controller.mount("sub/a", digest, "a")
    assert registry.used("sub") == 0


def test_manifests_count(make: Make) -> None:
    free = make()
    free.image("team/app", b"{}", b"layer")
    size = sum(path.stat().st_size for path in free.files("**/blobs/*/*"))
    registry = make({"team": size + 1})
    assert registry.used("team") == size
    store = registry.controller.store("team/app")
    tagged = store.get_manifest("team/app", "1")
    store.put_manifest("team/app", "2", tagged.data, content_type=tagged.media_type)
    other = image(descriptor_of(b"{}", OCI_CONFIG), [])
    with pytest.raises(QuotaExceeded):
        store.put_manifest("team/app", "3", other.body, content_type=other.media_type)
    assert store.tags("team/app")[0] == ["1", "2"]
    assert registry.used("team") == size


def test_what_is_there_can_be_pushed_again_at_a_full_quota(make: Make) -> None:
    registry = make({"": 10})
    registry.push("a", b"0123456789")
    registry.push("a", b"0123456789")
    registry.push("b", b"0123456789", Sized(b"0123456789"))
    lowered = make({"": 5})
    lowered.push("a", b"0123456789", Sized(b"0123456789"))
    assert lowered.used() == 10
    with pytest.raises(QuotaExceeded):
        lowered.push("a", b"!")


def test_content_that_is_not_what_a_known_digest_says_gets_no_more_room(make: Make) -> None:
    registry = make({"": 10})
    registry.push("a", b"0123456789")
    with pytest.raises(QuotaExceeded):
        registry.controller.store("a").push_blob("a", Digest.of(b"0123456789"), io.BytesIO(b"x" * 11))


def test_a_lowered_limit_refuses_only_what_is_new(make: Make) -> None:
    old = make({"": 1000})
    manifest = old.image("a", b"{}", b"layer")
    store = old.controller.store("a")
    session = store.begin_upload("a", "sha256")
    store.append_upload("a", session, io.BytesIO(b"under way"))
    registry = make({"": 1})
    store = registry.controller.store("a")
    with pytest.raises(QuotaExceeded):
        registry.push("a", b"new")
    store.finish_upload("a", session, Digest.of(b"under way"), Sized(b""))
    assert store.get_manifest("a", "1").digest == manifest
    assert store.blob_size("a", Digest.of(b"layer")) == 5
    store.delete_blob("a", Digest.of(b"under way"))
    store.delete_manifest("a", "1")
    store.delete_manifest("a", manifest)
    assert store.tags("a") == ([], False)


def test_what_was_deleted_makes_room_at_once(make: Make) -> None:
    registry = make({"": 10})
    digest = registry.push("a", b"0123456789")
    registry.controller.store("a").delete_blob("a", digest)
    registry.push("a", b"9876543210")


def test_what_is_set_aside_does_not_count_and_comes_back_without_asking(make: Make) -> None:
    registry = make({"": 10})
    digest = registry.push("a", b"0123456789")
    registry.below[""].bin_blobs("a", [digest], 0)
    assert registry.used() == 0
    registry.push("b", b"9876543210")
    assert registry.controller.store("a").blob_size("a", digest) == 10
    assert registry.used() == 20
    with pytest.raises(QuotaExceeded):
        make({"": 10}).push("b", b"!")


def test_what_other_tools_put_there_counts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = make({"": 10})
    registry.push("a", b"1")
    layout = registry.root / "tool" / "blobs" / "sha256"
    layout.mkdir(parents=True)
    layout.joinpath("0" * 64).write_bytes(b"x" * 9)
    assert registry.used() == 10
    monkeypatch.setattr("storage.quota._OLD", 0)
    with pytest.raises(QuotaExceeded):
        registry.push("a", b"2")


def test_a_repository_without_quota_asks_nothing(make: Make) -> None:
    registry = make({"team": 10})
    registry.push("free", b"x" * 100)
    registry.chunked("free", b"y" * 100)
    assert not (registry.root / ".pierhead/quotas").exists()


# what workers share


def test_a_grant_looks_again_only_where_that_may_matter(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = make({"": 20 * MIB})
    looks: list[str] = []
    contents = LocalBackend.contents

    def look(backend: LocalBackend, name: str) -> Mapping[Digest, int]:
        looks.append(name)
        return contents(backend, name)

    monkeypatch.setattr(LocalBackend, "contents", look)
    registry.push("a", b"1")
    registry.push("a", b"2")
    make({"": 20 * MIB}).push("a", b"3")
    assert len(looks) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b'{"at": 1e12, "most": 0}'])
def test_a_damaged_note_of_what_is_used_is_looked_up_again(make: Make, damage: bytes) -> None:
    registry = make({"": 10})
    registry.push("a", b"0123456789")
    [note] = (registry.root / ".pierhead/quotas/usage").iterdir()
    note.write_bytes(damage)
    with pytest.raises(QuotaExceeded):
        registry.push("a", b"!")


def test_reservations_of_others_count_until_they_end(make: Make) -> None:
    one, other = make({"": 10}), make({"": 10})
    with one.quotas.reserve(Claim("", "a", 6, digest=Digest.of(b"one"))):
        with pytest.raises(QuotaExceeded) as caught, other.quotas.reserve(Claim("", "b", 6)):
            pass
        assert caught.value.detail["used"] == 6
        with other.quotas.reserve(Claim("", "b", 4)):
            assert one.used() == 10
    assert one.used() == 0
    assert list((one.root / ".pierhead/quotas/pushes").iterdir()) == []


def test_a_reservation_and_what_it_has_stored_count_once(make: Make) -> None:
    registry = make({"": 10})
    digest = Digest.of(b"0123456789")
    with registry.quotas.reserve(Claim("", "a", 10, digest=digest)):
        registry.below[""].put_blob("a", digest, b"0123456789")
        assert registry.used() == 10
        make({"": 10}).push("b", b"0123456789")


def test_what_a_dead_process_reserved_is_gone(make: Make) -> None:
    registry = make({"": 10})
    registry.push("a", b"1")
    leftover = registry.root / ".pierhead/quotas/pushes/left"
    leftover.write_bytes(b'{"id":"left","repository":"a","size":10,"session":null,"digest":null}')
    assert registry.used() == 1
    assert not leftover.exists()


def test_a_full_disk_leaves_no_reservation(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = make({"": 10})

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", no_space)
        with pytest.raises(OSError, match="No space"):
            registry.push("a", b"1")
    assert registry.used() == 0
    registry.push("a", b"0123456789")


# repositories


def test_a_repository_too_many_is_refused_before_anything_is_made(make: Make) -> None:
    registry = make(most=2)
    for name in ("a", "a/b"):
        registry.image(name, b"{}", b"layer")
    store = registry.controller.store("c")
    with pytest.raises(QuotaExceeded, match="may have 2 repositories, and has them: c would be one more"):
        store.begin_upload("c", "sha256")
    with pytest.raises(QuotaExceeded):
        registry.controller.mount("c", Digest.of(b"layer"), "a")
    with pytest.raises(QuotaExceeded):
        registry.controller.mount("c", Digest.of(b"layer"), None)
    with pytest.raises(QuotaExceeded):
        store.put_manifest("c", "1", index([]).body, content_type=OCI_INDEX)
    assert not (registry.root / "c").exists()
    registry.image("a", b"{}", b"other", "2")


def test_the_last_place_goes_to_one(make: Make) -> None:
    one, other = make(most=1), make(most=1)
    for registry, name in ((one, "a"), (other, "b")):
        registry.push(name, b"{}")
        registry.push(name, b"layer")
    one.image("a", b"{}", b"layer")
    manifest = image(descriptor_of(b"{}", OCI_CONFIG), [descriptor_of(b"layer", OCI_LAYER)])
    with pytest.raises(QuotaExceeded):
        other.controller.store("b").put_manifest("b", "1", manifest.body, content_type=manifest.media_type)
    assert list(one.below[""].repositories()) == ["a"]
    assert not (one.root / "b" / "index.json").exists()


def test_repositories_count_over_all_stores(make: Make) -> None:
    registry = make(most=2, substore="sub")
    registry.image("a", b"{}", b"layer")
    registry.image("sub/a", b"{}", b"layer")
    for name in ("b", "sub/b"):
        with pytest.raises(QuotaExceeded):
            registry.controller.store(name).begin_upload(name, "sha256")


def test_an_index_that_is_there_needs_no_room(make: Make) -> None:
    make().image("a", b"{}", b"layer")
    make().image("b", b"{}", b"layer")
    registry = make(most=1)
    registry.image("a", b"{}", b"other", "2")
    registry.controller.store("a").delete_manifest("a", "2")
