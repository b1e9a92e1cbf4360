"""Dedupe: equal blobs are one file, found by a link in the pool, and a copy where links cannot be."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.content import of_bytes
from storage.digest import Digest
from storage.durable import Durable
from storage.errors import BlobUnknown, UploadUnknown
from storage.layout import TEMPORARY, Layout
from storage.local import LocalBackend
from storage.pool import CANNOT_LINK, Pool
from tests.unit.backends import content, push

DATA = b"some content"
DIGEST = Digest.of(DATA)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


@pytest.fixture
def backend(layout: Layout) -> LocalBackend:
    return LocalBackend(layout.root)


def put(backend: LocalBackend, repository: str, data: bytes) -> None:
    backend.put_blob(repository, Digest.of(data), data)


def inodes(layout: Layout, *repositories: str) -> set[int]:
    return {os.stat(layout.blob(repository, DIGEST)).st_ino for repository in repositories}


class Unlinkable(Durable):
    """A file system on which some links cannot be made."""

    error = errno.EXDEV

    def link(self, source: str, target: str) -> None:
        raise OSError(self.error, os.strerror(self.error), source, None, target)


def test_a_blob_pushed_to_ten_repositories_is_one_file(layout: Layout) -> None:
    names = [f"r{number}" for number in range(10)]
    for name in names:
        push(LocalBackend(layout.root), name, DATA)
    assert inodes(layout, *names) == {os.stat(layout.pooled(DIGEST)).st_ino}
    assert os.stat(layout.pooled(DIGEST)).st_nlink == 11


def test_what_is_mounted_is_the_same_file(backend: LocalBackend, layout: Layout) -> None:
    push(backend, "a", DATA)
    backend.link_blob("a", "b", DIGEST)
    assert backend.find_blob("c", DIGEST)
    assert len(inodes(layout, "a", "b", "c")) == 1


def test_the_pool_lets_go_with_the_last_repository(backend: LocalBackend, layout: Layout) -> None:
    push(backend, "a", DATA)
    push(backend, "b", DATA)
    backend.delete_blob("a", DIGEST)
    assert Path(layout.pooled(DIGEST)).exists()
    backend.delete_blob("b", DIGEST)
    assert not Path(layout.pooled(DIGEST)).exists()


def test_without_dedupe_there_is_no_pool(layout: Layout) -> None:
    backend = LocalBackend(layout.root, dedupe=False)
    push(backend, "a", DATA)
    push(backend, "b", DATA)
    backend.link_blob("a", "c", DIGEST)
    assert not backend.find_blob("d", DIGEST)
    assert len(inodes(layout, "a", "b", "c")) == 3
    assert not Path(layout.pooled(DIGEST)).exists()


def test_dedupe_can_be_switched_on_and_off(layout: Layout) -> None:
    for number, dedupe in enumerate([False, True, False, True]):
        push(LocalBackend(layout.root, dedupe=dedupe), f"r{number}", DATA)
    assert len(inodes(layout, "r0", "r1", "r2", "r3")) == 3
    assert len(inodes(layout, "r1", "r3")) == 1


DAMAGE = [b"", b"short", DATA + b"long", DATA[:-1] + b"?"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_pool_copy_gives_way(backend: LocalBackend, layout: Layout, damage: bytes) -> None:
    Path(layout.pooled(DIGEST)).parent.mkdir(parents=True)
    Path(layout.pooled(DIGEST)).write_bytes(damage)
    push(backend, "a", DATA)
    push(backend, "b", DATA)
    assert content(backend, "b", DIGEST) == DATA
    assert inodes(layout, "a", "b") == {os.stat(layout.pooled(DIGEST)).st_ino}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("dedupe", [True, False])
def test_a_push_replaces_a_damaged_blob(
    layout: Layout, damage: bytes, dedupe: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend = LocalBackend(layout.root, dedupe=dedupe)
    for store in (push, put):
        for name in ("a", "b"):
            push(backend, name, DATA)
            Path(layout.blob(name, DIGEST)).write_bytes(damage)
        store(backend, "a", DATA)
        assert content(backend, "a", DIGEST) == DATA
        assert f"blob {DIGEST} of repository a is damaged" in caplog.text
        push(backend, "c", DATA)
        assert content(backend, "c", DIGEST) == DATA
        assert content(backend, "b", DIGEST) == damage  # until it is pushed there, too, or a scrub finds it
        backend.delete_blob("c", DIGEST)


class Tidied(Durable):
    """A store from which somebody removes old temporary files at the worst moment: a link is as old as its file."""

    def link(self, source: str, target: str) -> None:
        super().link(source, target)
        if os.path.basename(target).startswith(TEMPORARY):
            os.unlink(target)


@pytest.mark.parametrize("store", [push, put])
def test_a_copy_that_is_tidied_away_on_its_way_is_no_failure(
    layout: Layout, store: Callable[[LocalBackend, str, bytes], object]
) -> None:
    backend = LocalBackend(layout.root, durable=Tidied(layout.root))
    push(backend, "a", DATA)
    path = Path(layout.blob("a", DIGEST))
    path.unlink()
    path.write_bytes(DATA[::-1])
    store(backend, "a", DATA)
    assert content(backend, "a", DIGEST) == DATA


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM])
def test_a_push_replaces_a_blob_that_the_disk_cannot_read(
    backend: LocalBackend, layout: Layout, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(backend, "a", DATA)
    before, read = os.stat(layout.blob("a", DIGEST)), os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if os.path.samestat(os.fstat(descriptor), before):
            raise OSError(number, os.strerror(number))
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    if number != errno.EIO:  # that says nothing of the blob
        with pytest.raises(OSError, match=os.strerror(number)):
            push(backend, "a", DATA)
        assert inodes(layout, "a") == {before.st_ino}
        return
    push(backend, "a", DATA)
    assert content(backend, "a", DIGEST) == DATA
    assert before.st_ino not in inodes(layout, "a")


@pytest.mark.parametrize("error", sorted(CANNOT_LINK))
def test_where_links_cannot_be_there_are_copies(layout: Layout, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unlinkable, "error", error)
    backend = LocalBackend(layout.root, durable=Unlinkable(layout.root))
    push(backend, "a", DATA)
    push(backend, "b", DATA)
    backend.link_blob("a", "c", DIGEST)
    assert [content(backend, name, DIGEST) for name in "abc"] == [DATA] * 3
    assert len(inodes(layout, "a", "b", "c")) == 3


def test_other_errors_are_not_hidden(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unlinkable, "error", errno.EIO)
    push(LocalBackend(layout.root), "a", DATA)
    backend = LocalBackend(layout.root, durable=Unlinkable(layout.root))
    with pytest.raises(OSError, match="Input/output"):
        push(backend, "b", DATA)
    with pytest.raises(OSError, match="Input/output"):
        backend.link_blob("a", "b", DIGEST)
    with pytest.raises(BlobUnknown):
        backend.blob_size("b", DIGEST)


def test_a_pool_with_too_many_links_starts_another_file(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    push(LocalBackend(layout.root), "a", DATA)
    pooled = layout.pooled(DIGEST)

    class Full(Durable):
        """The first file has all the links that it can have."""

        full = os.stat(pooled).st_ino

        def link(self, source: str, target: str) -> None:
            if os.stat(source).st_ino == self.full:
                raise OSError(errno.EMLINK, "too many links")
            super().link(source, target)

    backend = LocalBackend(layout.root, durable=Full(layout.root))
    push(backend, "b", DATA)
    push(backend, "c", DATA)
    assert len(inodes(layout, "a", "b")) == 2
    assert inodes(layout, "b", "c") == {os.stat(pooled).st_ino}


def test_a_released_copy_that_is_linked_stays(layout: Layout) -> None:
    pool = Pool(layout, Durable(layout.root))
    mine = Path(layout.root) / "mine"
    mine.write_bytes(DATA)
    pool.offer(str(mine), DIGEST)
    pool.release(DIGEST)
    assert pool.has(DIGEST)
    mine.unlink()
    pool.release(DIGEST)
    pool.release(DIGEST)
    assert not pool.has(DIGEST)


def test_a_taken_target_is_said(layout: Layout) -> None:
    pool = Pool(layout, Durable(layout.root))
    mine = Path(layout.root) / "mine"
    mine.write_bytes(DATA)
    assert not pool.take(DIGEST, str(mine))
    assert not pool.offer(str(mine), DIGEST)
    with pytest.raises(FileExistsError):
        pool.take(DIGEST, str(mine))
    assert pool.take(DIGEST, f"{mine}2", of_bytes(DATA))
    assert not pool.take(DIGEST, f"{mine}3", of_bytes(DATA[::-1]))
    assert not pool.has(DIGEST)


def test_who_offers_late_is_told_and_takes_the_first_ones(layout: Layout) -> None:
    pool = Pool(layout, Durable(layout.root))
    first, second = Path(layout.root) / "first", Path(layout.root) / "second"
    for path in (first, second):
        path.write_bytes(DATA)
    assert not pool.offer(str(first), DIGEST)
    assert pool.offer(str(second), DIGEST)
    assert os.stat(layout.pooled(DIGEST)).st_ino == first.stat().st_ino


def test_many_who_push_one_blob_at_once_leave_one_file(layout: Layout) -> None:
    names = [f"r{number % 4}" for number in range(12)]
    data = bytes(300_000)
    with ThreadPoolExecutor(12) as threads:
        digests = set(threads.map(lambda name: push(LocalBackend(layout.root), name, data), names))
    (digest,) = digests
    files = {os.stat(layout.blob(name, digest)).st_ino for name in names} | {os.stat(layout.pooled(digest)).st_ino}
    assert len(files) == 1


@pytest.mark.parametrize("way", ["push", "mount", "put"])
def test_who_is_overtaken_while_he_offers_his_file_leaves_no_other_name_of_it(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Two names of one file by then, so that to rename the one onto the other does nothing (POSIX, rename)."""
    one, other = LocalBackend(layout.root), LocalBackend(layout.root)
    offer = Pool.offer

    def overtaken(self: Pool, path: str, digest: Digest) -> bool:
        late = offer(self, path, digest)
        monkeypatch.setattr(Pool, "offer", offer)
        if way == "mount":
            assert other.find_blob("r", digest)
        else:
            push(other, "r", DATA)
        return late

    monkeypatch.setattr(Pool, "offer", overtaken)
    if way == "put":
        one.put_blob("r", DIGEST, DATA)
    else:
        session = one.begin_upload("r", "sha256")
        one.commit_upload("r", session, DIGEST, io.BytesIO(DATA))
        with pytest.raises(UploadUnknown):
            one.append_upload("r", session, io.BytesIO(b"more"))
    assert content(one, "r", DIGEST) == DATA
    assert os.stat(layout.blob("r", DIGEST)).st_nlink == 2, "in its place and in the pool"


def test_a_session_that_is_a_blob_by_now_is_not_written_to(layout: Layout) -> None:
    """A crash, or a power loss that brings an old name back, can leave it so."""
    backend = LocalBackend(layout.root)
    digest, session = push(backend, "r", DATA), backend.begin_upload("r", "sha256")
    Path(layout.upload("r", session)).unlink()
    os.link(layout.blob("r", digest), layout.upload("r", session))
    with pytest.raises(UploadUnknown):
        backend.append_upload("r", session, io.BytesIO(b"more"))
    with pytest.raises(UploadUnknown):
        backend.upload_size("r", session)
    assert content(backend, "r", digest) == DATA


def test_a_mount_from_a_damaged_repository_harms_no_other(layout: Layout) -> None:
    backend = LocalBackend(layout.root, dedupe=False)
    for name in ("good", "bad"):
        push(backend, name, DATA)
    Path(layout.blob("bad", DIGEST)).write_bytes(DATA[:3])
    with pytest.raises(BlobUnknown):
        backend.link_blob("bad", "good", DIGEST)
    assert content(backend, "good", DIGEST) == DATA
