"""Upload sessions on disk: how often bytes are hashed, which notes are trusted, and who may write."""

from __future__ import annotations

import io
import json
import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from storage import digest as digests
from storage import locks, uploads
from storage.digest import Digest, Hasher, new_hasher
from storage.errors import UploadOutOfOrder, UploadUnknown
from storage.layout import Layout
from storage.local import LocalBackend
from tests.unit.backends import content, push

DATA = bytes(range(256)) * 20
DIGEST = Digest.of(DATA)


class Counting:
    """Count the bytes that all hashes are fed."""

    def __init__(self) -> None:
        self.total = 0

    def new_hasher(self, algorithm: str) -> Hasher:
        counting, inner = self, new_hasher(algorithm)

        class Counted:
            def update(self, data: bytes | memoryview, /) -> None:
                counting.total += len(data)
                inner.update(data)

            def hexdigest(self) -> str:
                return inner.hexdigest()

        return Counted()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(uploads, "new_hasher", counting.new_hasher)
    return counting


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


@pytest.fixture
def workers(layout: Layout) -> list[LocalBackend]:
    return [LocalBackend(layout.root) for _ in range(2)]


def send(worker: LocalBackend, session: str, start: int, stop: int) -> None:
    worker.append_upload("r", session, io.BytesIO(DATA[start:stop]), start)


def finish(worker: LocalBackend, session: str) -> None:
    worker.commit_upload("r", session, DIGEST, io.BytesIO())
    assert content(worker, "r", DIGEST) == DATA


# how often


def test_one_request_hashes_each_byte_once(workers: list[LocalBackend], hashed: Counting) -> None:
    push(workers[0], "r", DATA)
    assert hashed.total == len(DATA)


@pytest.mark.parametrize("finisher", [0, 1])
def test_an_upload_that_came_whole_is_never_hashed_again(
    workers: list[LocalBackend], hashed: Counting, finisher: int
) -> None:
    session = workers[0].begin_upload("r", "sha256")
    send(workers[1], session, 0, len(DATA))
    finish(workers[finisher], session)
    assert hashed.total == len(DATA)


def test_chunks_to_one_worker_are_hashed_once(workers: list[LocalBackend], hashed: Counting) -> None:
    session = workers[0].begin_upload("r", "sha256")
    for start in range(0, len(DATA), 1000):
        send(workers[0], session, start, start + 1000)
    finish(workers[0], session)
    assert hashed.total == len(DATA)


@pytest.mark.parametrize("finisher", [0, 1])
@pytest.mark.parametrize("beginner", [0, 1])
def test_chunks_over_two_workers_are_hashed_twice_at_most(
    workers: list[LocalBackend], hashed: Counting, beginner: int, finisher: int
) -> None:
    session = workers[beginner].begin_upload("r", "sha256")
    for number, start in enumerate(range(0, len(DATA), 500)):
        send(workers[number % 2], session, start, start + 500)
    finish(workers[finisher], session)
    assert hashed.total <= 2 * len(DATA)


def test_a_digest_of_another_algorithm_hashes_twice_at_most(workers: list[LocalBackend], hashed: Counting) -> None:
    session = workers[0].begin_upload("r", "sha256")
    send(workers[0], session, 0, len(DATA))
    workers[0].commit_upload("r", session, Digest.of(DATA, "sha512"), io.BytesIO())
    assert hashed.total == 2 * len(DATA)


def test_a_session_announced_as_sha512_is_hashed_once_in_any_worker(
    workers: list[LocalBackend], hashed: Counting
) -> None:
    session = workers[0].begin_upload("r", "sha512")
    send(workers[1], session, 0, len(DATA))
    workers[0].commit_upload("r", session, Digest.of(DATA, "sha512"), io.BytesIO())
    assert hashed.total == len(DATA)


def test_a_hash_that_was_forgotten_is_made_again(
    layout: Layout, hashed: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_HASHES", 2)
    worker = LocalBackend(layout.root)
    session = worker.begin_upload("r", "sha256")
    send(worker, session, 0, 100)
    for _ in range(3):
        worker.begin_upload("r", "sha256")
    send(worker, session, 100, len(DATA))
    finish(worker, session)
    assert hashed.total == 100 + len(DATA)


# the note


def note_of(layout: Layout, session: str) -> dict[str, Any]:
    note: dict[str, Any] = json.loads(Path(layout.upload_note("r", session)).read_bytes())
    return note


@pytest.fixture
def noted(workers: list[LocalBackend]) -> str:
    """Give a session that came whole, in the first worker."""
    session = workers[0].begin_upload("r", "sha256")
    send(workers[0], session, 0, len(DATA))
    return session


def test_the_note_says_what_was_hashed(layout: Layout, noted: str) -> None:
    note = note_of(layout, noted)
    assert note.pop("boot")
    assert note == {"algorithm": "sha256", "digest": DIGEST, "size": len(DATA)}


@pytest.mark.parametrize(
    "change", [{"boot": "another"}, {"size": len(DATA) - 1}, {"algorithm": "sha512"}, {"boot": None}, {"size": None}]
)
def test_a_note_that_does_not_match_is_not_trusted(
    layout: Layout, workers: list[LocalBackend], noted: str, change: dict[str, Any]
) -> None:
    lie = note_of(layout, noted) | {"digest": str(Digest.of(b"a lie"))} | change
    Path(layout.upload_note("r", noted)).write_text(json.dumps(lie))
    finish(workers[1], noted)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_damaged_note_is_not_trusted(layout: Layout, workers: list[LocalBackend], noted: str, data: bytes) -> None:
    Path(layout.upload_note("r", noted)).write_bytes(data)
    finish(workers[1], noted)


def test_a_note_does_not_cover_what_came_after_it(workers: list[LocalBackend]) -> None:
    session = workers[0].begin_upload("r", "sha256")
    send(workers[0], session, 0, 100)
    workers[1].commit_upload("r", session, DIGEST, io.BytesIO(DATA[100:]), 100)
    assert content(workers[0], "r", DIGEST) == DATA


def test_nothing_of_a_session_stays_behind(layout: Layout, workers: list[LocalBackend], noted: str) -> None:
    finish(workers[1], noted)
    other = workers[0].begin_upload("r", "sha512")
    workers[1].abort_upload("r", other)
    assert list(Path(layout.uploads("r")).iterdir()) == []


# who may write


def test_a_writer_that_came_as_the_session_was_committed_cannot_touch_the_blob(
    workers: list[LocalBackend], noted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a writer's open and its lock the session may become a blob: the file is the same, its name is not."""
    lock = locks.try_exclusive

    def commit_first(descriptor: int) -> bool:
        monkeypatch.setattr(locks, "try_exclusive", lock)
        workers[1].commit_upload("r", noted, DIGEST, io.BytesIO())
        return lock(descriptor)

    monkeypatch.setattr(locks, "try_exclusive", commit_first)
    with pytest.raises(UploadUnknown):
        workers[0].append_upload("r", noted, io.BytesIO(b"more"))
    assert content(workers[0], "r", DIGEST) == DATA


def test_a_session_can_be_used_after_a_refused_writer(workers: list[LocalBackend], noted: str) -> None:
    with workers[0]._uploads.open("r", noted), pytest.raises(UploadOutOfOrder) as caught:
        send(workers[1], noted, 0, 1)
    assert caught.value.offset == len(DATA)
    finish(workers[1], noted)


def test_two_committers_make_one_blob(workers: list[LocalBackend], noted: str) -> None:
    def commit(worker: LocalBackend) -> str:
        try:
            worker.commit_upload("r", noted, DIGEST, io.BytesIO())
        except (UploadUnknown, UploadOutOfOrder) as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(commit, workers))
    assert results.count("done") == 1
    assert content(workers[0], "r", DIGEST) == DATA


def test_a_session_that_is_cancelled_while_it_is_committed_fails_in_words(
    workers: list[LocalBackend], noted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = uploads.Uploads.digest

    def cancel_after(self: uploads.Uploads, *arguments: Any) -> Digest:
        digest = hashed(self, *arguments)
        with suppress(UploadOutOfOrder):
            workers[1].abort_upload("r", noted)
        return digest

    monkeypatch.setattr(uploads.Uploads, "digest", cancel_after)
    workers[0].commit_upload("r", noted, DIGEST, io.BytesIO())
    assert content(workers[0], "r", DIGEST) == DATA


# a disk that is full


def in_child(task: Callable[[], None]) -> int:
    """Run in a process of its own, whose files can have 100,000 bytes at most; give its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            task()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_chunk_that_does_not_fit_leaves_nothing(workers: list[LocalBackend]) -> None:
    session = workers[0].begin_upload("r", "sha256")
    send(workers[0], session, 0, len(DATA))

    def overflow() -> None:
        with pytest.raises(OSError, match="too large"):
            workers[0].append_upload("r", session, io.BytesIO(bytes(1_000_000)))

    assert in_child(overflow) == 0
    assert workers[1].upload_size("r", session) == len(DATA)
    finish(workers[1], session)


def test_a_copy_that_does_not_fit_leaves_nothing(layout: Layout) -> None:
    backend = LocalBackend(layout.root, dedupe=False)
    digest = push(backend, "r", bytes(150_000))

    def overflow() -> None:
        with pytest.raises(OSError, match="too large"):
            backend.link_blob("r", "s", digest)

    assert in_child(overflow) == 0
    assert list(backend.list_blobs("s")) == []
    assert [path for path in Path(layout.repository("s")).iterdir() if path.name.startswith(".tmp")] == []


def test_both_algorithms_have_a_hash() -> None:
    assert {new_hasher(algorithm).hexdigest() for algorithm in digests.ALGORITHMS}
