"""The seam: what any backend must do, whatever it keeps the images on."""

from __future__ import annotations

import io
import multiprocessing
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.backend import Backend, Redirect
from storage.digest import Digest
from storage.errors import BlobUnknown, DigestMismatch, IndexChanged, RepositoryUnknown, UploadOutOfOrder, UploadUnknown
from tests.unit.backends import Local, content, push

Opener = Callable[[], Backend]

REPOSITORY = "team/app"
DATA = b"some content"
DIGEST = Digest.of(DATA)
NOWHERE = Digest.of(b"never pushed")
WORKERS = multiprocessing.get_context("spawn")


@pytest.fixture(params=["dedupe", "no-dedupe", "no-commit"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Give a function that opens the same store again, as another worker does."""
    return Local(str(tmp_path / "root"), dedupe=request.param != "no-dedupe", commit=request.param != "no-commit")


@pytest.fixture
def backend(opener: Opener) -> Backend:
    return opener()


class Broken:
    """A body that breaks off after some bytes."""

    def __init__(self, data: bytes) -> None:
        self._body = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        data = self._body.read(size)
        if not data:
            raise ConnectionError("gone")
        return data


class Paused:
    """A body whose end waits until it is let go."""

    def __init__(self, data: bytes) -> None:
        self._body = io.BytesIO(data)
        self.arrived = threading.Event()
        self.go_on = threading.Event()

    def read(self, size: int, /) -> bytes:
        data = self._body.read(size)
        if not data:
            self.arrived.set()
            assert self.go_on.wait(30)
        return data


# documents


def test_a_repository_without_an_index_has_no_version(backend: Backend) -> None:
    assert backend.index_version(REPOSITORY) is None
    assert backend.last_good_index(REPOSITORY) is None
    with pytest.raises(RepositoryUnknown):
        backend.read_index(REPOSITORY)


def test_blobs_and_sessions_make_no_index(backend: Backend) -> None:
    push(backend, REPOSITORY, DATA)
    backend.begin_upload(REPOSITORY, "sha256")
    assert backend.index_version(REPOSITORY) is None
    assert list(backend.repositories()) == []


def test_an_index_is_read_as_it_was_swapped_in(backend: Backend, opener: Opener) -> None:
    with backend.lock(REPOSITORY):
        version = backend.swap_index(REPOSITORY, b"{}", None)
    for reader in (backend, opener()):
        assert reader.read_index(REPOSITORY) == (b"{}", version)
        assert reader.index_version(REPOSITORY) == version
        assert reader.last_good_index(REPOSITORY) == b"{}"


def test_every_swap_makes_a_new_version(backend: Backend) -> None:
    version = None
    versions = set()
    with backend.lock(REPOSITORY):
        for _ in range(20):
            version = backend.swap_index(REPOSITORY, b"[1]", version)
            versions.add(version)
    assert len(versions) == 20


def test_an_index_can_be_synced_again(backend: Backend, opener: Opener) -> None:
    version = backend.swap_index(REPOSITORY, b"{}", None)
    opener().sync_index(REPOSITORY)
    assert backend.index_version(REPOSITORY) == version


def test_the_last_good_index_shrinks_with_the_index(backend: Backend) -> None:
    with backend.lock(REPOSITORY):
        version = backend.swap_index(REPOSITORY, b"[1, 2, 3, 4]", None)
        backend.swap_index(REPOSITORY, b"[]", version)
    assert backend.last_good_index(REPOSITORY) == b"[]"


def test_a_swap_needs_the_version_that_is_there(backend: Backend, opener: Opener) -> None:
    first = backend.swap_index(REPOSITORY, b"1", None)
    with pytest.raises(IndexChanged):
        backend.swap_index(REPOSITORY, b"2", None)
    second = opener().swap_index(REPOSITORY, b"2", first)
    with pytest.raises(IndexChanged):
        backend.swap_index(REPOSITORY, b"3", first)
    assert backend.read_index(REPOSITORY) == (b"2", second)


def test_a_first_swap_expects_that_there_is_none(backend: Backend) -> None:
    version = backend.swap_index("other", b"1", None)
    with pytest.raises(IndexChanged):
        backend.swap_index(REPOSITORY, b"1", version)
    assert backend.index_version(REPOSITORY) is None


# the list of repositories

NAMES = ["a", "a-b", "a-b/c", "a/b", "a/b-c", "a/b/c", "a/c", "a0", "b/x/y", "c.d", "c/d", "c_d"]


@pytest.fixture
def listed(backend: Backend) -> Backend:
    for name in NAMES:
        backend.swap_index(name, b"{}", None)
    return backend


def test_repositories_are_listed_by_their_bytes(listed: Backend) -> None:
    assert list(listed.repositories()) == sorted(NAMES)


def test_repositories_below_a_prefix_and_after_a_name(listed: Backend) -> None:
    for prefix in ("", "a", "a/b", "b", "a-", "nothing"):
        below = [name for name in sorted(NAMES) if not prefix or name == prefix or name.startswith(f"{prefix}/")]
        for after in ("", "a", "a-", "a-b", "a/", "a/b", "a/b/", "a/b/c", "a/bb", "a0", "b", "c_d", "zz"):
            assert list(listed.repositories(prefix, after)) == [name for name in below if name > after]


def test_repositories_nest_without_touching_each_other(backend: Backend) -> None:
    for name in ("a", "a/b"):
        push(backend, name, name.encode())
        backend.swap_index(name, name.encode(), None)
    backend.delete_blob("a", Digest.of(b"a"))
    assert backend.read_index("a/b")[0] == b"a/b"
    assert list(backend.list_blobs("a")) == []
    assert list(backend.list_blobs("a/b")) == [Digest.of(b"a/b")]


# blobs


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [b"", b"x", DATA])
def test_a_blob_is_read_as_it_was_pushed(backend: Backend, opener: Opener, data: bytes, algorithm: str) -> None:
    digest = push(backend, REPOSITORY, data, algorithm)
    for reader in (backend, opener()):
        assert reader.blob_size(REPOSITORY, digest) == len(data)
        assert content(reader, REPOSITORY, digest) == data
        assert reader.read_blob(REPOSITORY, digest, 100) == data
        assert list(reader.list_blobs(REPOSITORY)) == [digest]


@pytest.mark.parametrize(("start", "length"), [(0, 4), (5, 3), (5, None), (0, None), (11, 1), (12, None), (3, 0)])
def test_a_part_of_a_blob_stops_at_its_end(backend: Backend, start: int, length: int | None) -> None:
    push(backend, REPOSITORY, DATA)
    end = None if length is None else start + length
    assert content(backend, REPOSITORY, DIGEST, start, length) == DATA[start:end]


def test_a_stream_reads_all_that_is_left_without_a_size(backend: Backend) -> None:
    push(backend, REPOSITORY, DATA)
    stream = backend.open_blob(REPOSITORY, DIGEST, 2, 8)
    assert not isinstance(stream, Redirect)
    assert (stream.read(3), stream.read(), stream.read(), stream.read(1)) == (DATA[2:5], DATA[5:10], b"", b"")
    stream.close()


def test_a_small_blob_is_read_up_to_a_limit(backend: Backend) -> None:
    push(backend, REPOSITORY, DATA)
    assert backend.read_blob(REPOSITORY, DIGEST, 4) == DATA[:4]


def test_a_small_blob_that_is_kept_takes_no_more_memory_than_it_has_bytes(backend: Backend) -> None:
    """A buffer of the limit's size, cut to what came, would keep a page and a mapping, of which there are 65,530."""
    push(backend, REPOSITORY, DATA)
    before = _mappings()
    kept = [backend.read_blob(REPOSITORY, DIGEST, 4 * 1024 * 1024) for _ in range(500)]
    assert set(kept) == {DATA}
    assert _mappings() - before < 100


def _mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_a_small_blob_is_put_in_one_go(backend: Backend) -> None:
    for _ in range(2):
        backend.put_blob(REPOSITORY, DIGEST, DATA)
    assert content(backend, REPOSITORY, DIGEST) == DATA
    assert list(backend.list_blobs(REPOSITORY)) == [DIGEST]


def test_an_unknown_blob_is_unknown_to_every_method(backend: Backend) -> None:
    for repository in (REPOSITORY, "other"):
        with pytest.raises(BlobUnknown):
            backend.blob_size(repository, NOWHERE)
        with pytest.raises(BlobUnknown):
            backend.open_blob(repository, NOWHERE)
        with pytest.raises(BlobUnknown):
            backend.read_blob(repository, NOWHERE, 1)
        with pytest.raises(BlobUnknown):
            backend.delete_blob(repository, NOWHERE)
        with pytest.raises(BlobUnknown):
            backend.link_blob(repository, "target", NOWHERE)
        assert not backend.find_blob(repository, NOWHERE)
        assert list(backend.list_blobs(repository)) == []
        push(backend, REPOSITORY, DATA)


def test_a_blob_belongs_to_the_repository_it_was_pushed_to(backend: Backend) -> None:
    push(backend, REPOSITORY, DATA)
    with pytest.raises(BlobUnknown):
        backend.blob_size("other", DIGEST)


def test_a_linked_blob_outlives_its_source(backend: Backend) -> None:
    push(backend, REPOSITORY, DATA)
    for _ in range(2):
        backend.link_blob(REPOSITORY, "other/one", DIGEST)
    backend.link_blob(REPOSITORY, REPOSITORY, DIGEST)
    backend.delete_blob(REPOSITORY, DIGEST)
    assert content(backend, "other/one", DIGEST) == DATA
    with pytest.raises(BlobUnknown):
        backend.blob_size(REPOSITORY, DIGEST)


def test_a_blob_that_is_found_is_there(backend: Backend) -> None:
    push(backend, REPOSITORY, DATA)
    for _ in range(2):
        if backend.find_blob("other", DIGEST):
            assert content(backend, "other", DIGEST) == DATA
        else:
            with pytest.raises(BlobUnknown):
                backend.blob_size("other", DIGEST)


def test_a_deleted_blob_can_be_pushed_again(backend: Backend) -> None:
    for _ in range(2):
        push(backend, REPOSITORY, DATA)
        backend.delete_blob(REPOSITORY, DIGEST)
        assert not backend.find_blob("other", DIGEST)
    push(backend, REPOSITORY, DATA)
    assert content(backend, REPOSITORY, DIGEST) == DATA


def test_an_open_stream_outlives_the_blob(backend: Backend) -> None:
    push(backend, REPOSITORY, DATA)
    stream = backend.open_blob(REPOSITORY, DIGEST)
    assert not isinstance(stream, Redirect)
    backend.delete_blob(REPOSITORY, DIGEST)
    assert stream.read() == DATA
    stream.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file of ours on the store's file system, with the content."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    path.chmod(0o644)
    return path


def adopt(backend: Backend, file: Path, digest: Digest = DIGEST) -> bool:
    with file.open("rb") as opened:
        return backend.adopt_file(REPOSITORY, digest, opened.fileno(), opened)


def test_a_file_is_adopted(backend: Backend, opener: Opener, file: Path) -> None:
    assert adopt(backend, file)
    assert content(opener(), REPOSITORY, DIGEST) == DATA
    file.unlink()
    assert content(opener(), REPOSITORY, DIGEST) == DATA
    assert backend.index_version(REPOSITORY) is None


def test_a_file_is_adopted_where_the_blob_is_there(backend: Backend, file: Path) -> None:
    push(backend, REPOSITORY, DATA)
    push(backend, "another", DATA)
    assert adopt(backend, file)
    assert content(backend, REPOSITORY, DIGEST) == DATA


def test_a_file_that_is_something_else_is_refused(backend: Backend, file: Path) -> None:
    with pytest.raises(DigestMismatch):
        adopt(backend, file, NOWHERE)
    assert list(backend.list_blobs(REPOSITORY)) == []


def test_a_file_that_changes_while_it_is_read_is_refused(backend: Backend, file: Path) -> None:
    class Changing:
        def __init__(self) -> None:
            self._body = io.BytesIO(DATA)

        def read(self, size: int, /) -> bytes:
            file.write_bytes(DATA + b"more")
            return self._body.read(size)

    with file.open("rb") as opened, pytest.raises(DigestMismatch):
        backend.adopt_file(REPOSITORY, DIGEST, opened.fileno(), Changing())
    assert list(backend.list_blobs(REPOSITORY)) == []


def test_a_file_that_others_may_write_to_is_not_adopted(backend: Backend, file: Path) -> None:
    for mode in (0o666, 0o664, 0o646):
        file.chmod(mode)
        assert not adopt(backend, file)
    assert list(backend.list_blobs(REPOSITORY)) == []


# sessions


def test_a_session_id_is_a_uuid(backend: Backend) -> None:
    session = backend.begin_upload(REPOSITORY, "sha256")
    assert str(uuid.UUID(session)) == session
    assert backend.begin_upload(REPOSITORY, "sha256") != session


@pytest.mark.parametrize("begun_for", ["sha256", "sha512"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_upload_in_chunks_over_two_workers(opener: Opener, begun_for: str, algorithm: str) -> None:
    workers = [opener(), opener()]
    session = workers[0].begin_upload(REPOSITORY, begun_for)
    for number, start in enumerate(range(0, len(DATA), 5)):
        chunk = DATA[start : start + 5]
        worker = workers[number % 2]
        assert worker.append_upload(REPOSITORY, session, io.BytesIO(chunk), start) == start + len(chunk)
        assert workers[1 - number % 2].upload_size(REPOSITORY, session) == start + len(chunk)
    digest = Digest.of(DATA, algorithm)
    workers[0].commit_upload(REPOSITORY, session, digest, io.BytesIO())
    assert content(workers[1], REPOSITORY, digest) == DATA
    with pytest.raises(UploadUnknown):
        workers[1].upload_size(REPOSITORY, session)


@pytest.mark.parametrize("start", [0, 3, 5, 2**62])
def test_a_chunk_that_begins_elsewhere_leaves_the_session_unharmed(backend: Backend, start: int) -> None:
    session = backend.begin_upload(REPOSITORY, "sha256")
    backend.append_upload(REPOSITORY, session, io.BytesIO(DATA[:4]))
    with pytest.raises(UploadOutOfOrder) as caught:
        backend.append_upload(REPOSITORY, session, io.BytesIO(b"no"), start)
    assert caught.value.offset == 4
    backend.append_upload(REPOSITORY, session, io.BytesIO(DATA[4:]), 4)
    backend.commit_upload(REPOSITORY, session, DIGEST, io.BytesIO())
    assert content(backend, REPOSITORY, DIGEST) == DATA


def test_what_arrived_before_the_body_broke_off_is_kept(backend: Backend, opener: Opener) -> None:
    session = backend.begin_upload(REPOSITORY, "sha256")
    with pytest.raises(ConnectionError):
        backend.append_upload(REPOSITORY, session, Broken(DATA[:6]))
    assert opener().upload_size(REPOSITORY, session) == 6
    backend.commit_upload(REPOSITORY, session, DIGEST, io.BytesIO(DATA[6:]), 6)


def test_a_wrong_digest_ends_the_session_and_stores_nothing(backend: Backend) -> None:
    session = backend.begin_upload(REPOSITORY, "sha256")
    backend.append_upload(REPOSITORY, session, io.BytesIO(DATA))
    with pytest.raises(DigestMismatch):
        backend.commit_upload(REPOSITORY, session, NOWHERE, io.BytesIO())
    with pytest.raises(UploadUnknown):
        backend.upload_size(REPOSITORY, session)
    assert list(backend.list_blobs(REPOSITORY)) == []
    assert not backend.find_blob("other", DIGEST)


def test_an_aborted_session_is_gone(backend: Backend, opener: Opener) -> None:
    session = backend.begin_upload(REPOSITORY, "sha512")
    backend.append_upload(REPOSITORY, session, io.BytesIO(DATA))
    opener().abort_upload(REPOSITORY, session)
    with pytest.raises(UploadUnknown):
        backend.append_upload(REPOSITORY, session, io.BytesIO(DATA))


@pytest.mark.parametrize(
    "session", [str(uuid.UUID(int=1)), "", "x", ".", "..", "../../index.json", "a/b", f"{uuid.UUID(int=1)}.note"]
)
def test_an_unknown_session_is_unknown_to_every_method(backend: Backend, session: str) -> None:
    for repository in (REPOSITORY, "other"):
        with pytest.raises(UploadUnknown):
            backend.upload_size(repository, session)
        with pytest.raises(UploadUnknown):
            backend.append_upload(repository, session, io.BytesIO(DATA))
        with pytest.raises(UploadUnknown):
            backend.commit_upload(repository, session, DIGEST, io.BytesIO())
        with pytest.raises(UploadUnknown):
            backend.abort_upload(repository, session)
        backend.begin_upload(REPOSITORY, "sha256")


def test_a_session_works_in_its_own_repository_only(backend: Backend) -> None:
    session = backend.begin_upload(REPOSITORY, "sha256")
    backend.begin_upload("other", "sha256")
    with pytest.raises(UploadUnknown):
        backend.append_upload("other", session, io.BytesIO(DATA))
    assert backend.upload_size(REPOSITORY, session) == 0


def test_a_second_writer_is_refused(backend: Backend, opener: Opener) -> None:
    session = backend.begin_upload(REPOSITORY, "sha256")
    body = Paused(DATA)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(backend.append_upload, REPOSITORY, session, body)
        assert body.arrived.wait(30)
        for other in (backend, opener()):
            with pytest.raises(UploadOutOfOrder):
                other.append_upload(REPOSITORY, session, io.BytesIO(b"no"))
            with pytest.raises(UploadOutOfOrder):
                other.commit_upload(REPOSITORY, session, DIGEST, io.BytesIO())
        body.go_on.set()
        assert first.result(30) == len(DATA)
    backend.commit_upload(REPOSITORY, session, DIGEST, io.BytesIO())
    assert content(backend, REPOSITORY, DIGEST) == DATA


def test_one_blob_from_many_at_once(opener: Opener) -> None:
    data = bytes(1_000_000)
    with ThreadPoolExecutor(12) as pool:
        digests = set(pool.map(lambda _: push(opener(), REPOSITORY, data), range(12)))
    assert digests == {Digest.of(data)}
    backend = opener()
    assert list(backend.list_blobs(REPOSITORY)) == [Digest.of(data)]
    assert content(backend, REPOSITORY, Digest.of(data)) == data


# concurrency


def swap(backend: Backend, text: bytes) -> None:
    """Add a line to the index, trying again as long as others are faster."""
    while True:
        try:
            data, version = backend.read_index(REPOSITORY)
        except RepositoryUnknown:
            data, version = b"", None
        with backend.lock(REPOSITORY):
            try:
                backend.swap_index(REPOSITORY, data + text + b"\n", version)
            except IndexChanged:
                continue
            return


def swap_many(opener: Opener, name: str, count: int) -> None:
    backend = opener()
    for number in range(count):
        swap(backend, f"{name} {number}".encode())


def test_no_swap_is_lost_between_processes_and_threads(opener: Opener) -> None:
    processes = [WORKERS.Process(target=swap_many, args=(opener, f"process {n}", 20)) for n in range(2)]
    threads = [threading.Thread(target=swap_many, args=(opener, f"thread {n}", 20)) for n in range(2)]
    for process in processes:
        process.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    lines = opener().read_index(REPOSITORY)[0].decode().splitlines()
    kinds = [f"{kind} {n}" for kind in ("process", "thread") for n in range(2)]
    assert sorted(lines) == sorted(f"{name} {number}" for name in kinds for number in range(20))


def test_a_lock_keeps_threads_out_but_not_other_repositories(backend: Backend, opener: Opener) -> None:
    entered = threading.Event()

    def enter() -> None:
        with opener().lock(REPOSITORY):
            entered.set()

    with backend.lock(REPOSITORY):
        thread = threading.Thread(target=enter)
        thread.start()
        with backend.lock(f"{REPOSITORY}/nested"), backend.lock("team"):
            assert not entered.wait(0.2)
    assert entered.wait(30)
    thread.join()


def test_a_lock_is_free_again_after_an_error(backend: Backend) -> None:
    with pytest.raises(ZeroDivisionError), backend.lock(REPOSITORY):
        raise ZeroDivisionError
    with backend.lock(REPOSITORY):
        pass


def hold_lock(opener: Opener, held: threading.Event) -> None:
    """Take the lock and die with it."""
    with opener().lock(REPOSITORY):
        held.set()
        time.sleep(600)


def test_a_lock_keeps_processes_out_and_dies_with_its_holder(opener: Opener) -> None:
    held = WORKERS.Event()
    holder = WORKERS.Process(target=hold_lock, args=(opener, held))
    holder.start()
    assert held.wait(60)
    entered = threading.Event()

    def enter() -> None:
        with opener().lock(REPOSITORY):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.2)
    holder.kill()
    assert entered.wait(30)
    thread.join()
    holder.join()
