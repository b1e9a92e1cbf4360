"""Upload sessions on disk: begun, continued and finished by whichever worker the client reaches.

A session is one file. Its lock admits one writer at a time; its size is how far the upload has come. Bytes are hashed
as they arrive while one worker sees them all; a worker that missed some just appends, and the final request hashes
what its own worker has not: no byte is hashed more than twice. A hash's state cannot leave its process, but the
digest of an upload that came whole in one request can: it is noted beside the session, and then nothing is left to
hash. The note counts only for the very size, algorithm and boot (after a crash the file may have lost bytes).
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from storage import locks
from storage.backend import Source
from storage.cache import Cache
from storage.digest import CANONICAL, Digest, Hasher, new_hasher
from storage.durable import Durable, write_at
from storage.errors import UploadOutOfOrder, UploadUnknown
from storage.layout import Layout

_SESSION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CHUNK = 1024 * 1024
_FLUSH = 8 * 1024 * 1024  #: bytes after which the kernel is asked to begin writing
_BESIDE = 256 * 1024  #: bytes of a chunk that is worth a thread of its own
_HASHES = 1024  #: uploads whose hash state one worker remembers


@dataclass(slots=True)
class _Hash:
    """The state of a session's hash after its first `size` bytes."""

    algorithm: str
    hasher: Hasher
    size: int = 0


@dataclass(slots=True)
class Session:
    """A session that this request alone may write to."""

    path: str
    descriptor: int
    size: int


class Uploads:
    """The upload sessions of one store."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._layout = layout
        self._durable = durable
        self._hashes: Cache[str, _Hash] = Cache(_HASHES)

    def begin(self, repository: str, algorithm: str) -> str:
        """Start a session; return its id."""
        session = str(uuid.uuid4())
        path = self._layout.upload(repository, session)
        try:
            _make(path)
        except FileNotFoundError:
            self._durable.make_directory(self._layout.root)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _make(path)
        self._hashes.put(session, _Hash(algorithm, new_hasher(algorithm)))
        if algorithm != CANONICAL:
            self._note(repository, session, {"algorithm": algorithm})
        return session

    def size(self, repository: str, session: str) -> int:
        """Return how many bytes the session holds; raise UploadUnknown."""
        try:
            return os.stat(self._path(repository, session)).st_size
        except FileNotFoundError:
            raise _unknown(session) from None

    def sizes(self, repository: str) -> dict[str, int]:
        """Return the sessions under way, and how many bytes each holds."""
        found = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._layout.uploads(repository)) as entries:
            for entry in entries:
                if _SESSION.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        found[entry.name] = entry.stat().st_size
        return found

    def append(self, repository: str, session: str, body: Source, start: int | None) -> int:
        """Append the body; return the new size. The digest of an upload that came whole is noted."""
        with self.open(repository, session) as upload:
            whole = upload.size == 0
            state = self.extend(repository, session, upload, body, start)
            if whole and state:
                self._note_digest(repository, session, state)
            return upload.size

    def extend(self, repository: str, session: str, upload: Session, body: Source, start: int | None) -> _Hash | None:
        """Append the body to a session that is open, which must end at `start`; return the hash, if it is known."""
        if start is not None and start != upload.size:
            raise UploadOutOfOrder("the chunk does not begin where the upload ends", upload.size, start=start)
        state = self._state(repository, session, upload.size)
        if state:
            self._hashes.put(session, state)
        self._copy(body, upload, state)
        return state

    @contextmanager
    def open(self, repository: str, session: str) -> Iterator[Session]:
        """Open a session for this request alone; raise UploadUnknown, or UploadOutOfOrder if another one writes."""
        path = self._path(repository, session)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _unknown(session) from None
        try:
            if not locks.try_exclusive(descriptor):
                size = os.fstat(descriptor).st_size
                raise UploadOutOfOrder("another request is writing to this upload", size)
            status = os.fstat(descriptor)
            if not _is_named(status, path):  # finished or cancelled between open and lock
                raise _unknown(session)
            if status.st_nlink > 1:  # a blob by now: whoever made it one was cut off before this name was gone
                os.unlink(path)
                raise _unknown(session)
            yield Session(path, descriptor, status.st_size)
        finally:
            os.close(descriptor)

    def digest(self, repository: str, session: str, upload: Session, algorithm: str) -> Digest:
        """Return the digest of all that the session holds, hashing only what has not been hashed."""
        state = self._hashes.get(session)
        self._hashes.drop(session)  # the hash goes on from here only once
        if state is not None and (state.algorithm, state.size) == (algorithm, upload.size):
            return Digest(f"{algorithm}:{state.hasher.hexdigest()}")
        known = self._noted(repository, session, upload.size, algorithm)
        if known:
            return known
        if state is None or state.algorithm != algorithm or state.size > upload.size:
            state = _Hash(algorithm, new_hasher(algorithm))
        while chunk := os.pread(upload.descriptor, _CHUNK, state.size):
            state.hasher.update(chunk)
            state.size += len(chunk)
        return Digest(f"{algorithm}:{state.hasher.hexdigest()}")

    def abort(self, repository: str, session: str) -> None:
        """Drop a session and its bytes; raise UploadUnknown, or UploadOutOfOrder if another request writes."""
        with self.open(repository, session) as upload:
            os.unlink(upload.path)
        self.forget(repository, session)

    def drop_stale(self, repository: str, before: float) -> list[str]:
        """Drop the sessions that nobody has written to since a time, and notes without one; return their names."""
        dropped = []
        with suppress(FileNotFoundError):
            for name in os.listdir(self._layout.uploads(repository)):
                with suppress(UploadUnknown, UploadOutOfOrder, FileNotFoundError):
                    if self._drop_if_stale(repository, name, before):
                        dropped.append(name)
        return dropped

    def _drop_if_stale(self, repository: str, name: str, before: float) -> bool:
        session, _, note = name.partition(".")
        path = f"{self._layout.uploads(repository)}/{name}"
        if not _SESSION.fullmatch(session) or os.stat(path).st_mtime >= before:
            return False
        if note:
            if os.path.exists(self._layout.upload(repository, session)):
                return False  # they go together
            os.unlink(path)
            return True
        with self.open(repository, session) as upload:
            if os.fstat(upload.descriptor).st_mtime >= before:
                return False
            os.unlink(path)
        self.forget(repository, session)
        return True

    def forget(self, repository: str, session: str) -> None:
        """Drop what is known about a session that has ended."""
        self._hashes.drop(session)
        with suppress(FileNotFoundError):
            os.unlink(self._layout.upload_note(repository, session))

    def _copy(self, body: Source, upload: Session, state: _Hash | None) -> None:
        """Write the body to the end of the session, chunk by chunk; a chunk that does not fit leaves nothing.

        Each is hashed while the next one comes. The kernel is asked to begin writing as it goes, so that the sync at
        the end finds little left to do.
        """
        flushed = upload.size
        with _beside(state) as hashed:
            while chunk := body.read(_CHUNK):
                try:
                    write_at(upload.descriptor, chunk, upload.size)
                except OSError:
                    os.ftruncate(upload.descriptor, upload.size)
                    raise
                upload.size += len(chunk)
                hashed(chunk)
                if upload.size - flushed >= _FLUSH:
                    os.posix_fadvise(upload.descriptor, flushed, upload.size - flushed, os.POSIX_FADV_DONTNEED)
                    flushed = upload.size

    def _state(self, repository: str, session: str, size: int) -> _Hash | None:
        """Return the hash of the first `size` bytes, if this worker has seen them all."""
        state = self._hashes.get(session)
        if state is None and size == 0:
            algorithm = self._read_note(repository, session).get("algorithm", CANONICAL)
            state = _Hash(algorithm, new_hasher(algorithm))
        return state if state is not None and state.size == size else None

    def _note_digest(self, repository: str, session: str, state: _Hash) -> None:
        digest = f"{state.algorithm}:{state.hasher.hexdigest()}"
        note = {"algorithm": state.algorithm, "digest": digest, "size": state.size, "boot": _boot()}
        with suppress(OSError):  # without it the final request hashes once more
            self._note(repository, session, note)

    def _note(self, repository: str, session: str, note: dict[str, Any]) -> None:
        Path(self._layout.upload_note(repository, session)).write_bytes(orjson.dumps(note))

    def _read_note(self, repository: str, session: str) -> dict[str, Any]:
        try:
            note = orjson.loads(Path(self._layout.upload_note(repository, session)).read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}
        return note if isinstance(note, dict) else {}

    def _noted(self, repository: str, session: str, size: int, algorithm: str) -> Digest | None:
        note = self._read_note(repository, session)
        found = (note.get("size"), note.get("algorithm"), note.get("boot"))
        return Digest(note["digest"]) if found == (size, algorithm, _boot()) else None

    def _path(self, repository: str, session: str) -> str:
        if not _SESSION.fullmatch(session):
            raise _unknown(session)
        return self._layout.upload(repository, session)


@contextmanager
def _beside(state: _Hash | None) -> Iterator[Callable[[bytes], None]]:
    """Yield what hashes a chunk, a large one while the next is fetched; on leaving, all of it is hashed."""
    with ExitStack() as stack:
        pool: ThreadPoolExecutor | None = None
        last: Future[None] | None = None

        def hashed(chunk: bytes) -> None:
            nonlocal pool, last
            if state is None:
                return
            if last:
                last.result()
            state.size += len(chunk)
            if len(chunk) < _BESIDE:
                state.hasher.update(chunk)
                return
            pool = pool or stack.enter_context(ThreadPoolExecutor(1, "hash"))
            last = pool.submit(state.hasher.update, chunk)

        yield hashed


def _make(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))


def _is_named(status: os.stat_result, path: str) -> bool:
    """Tell whether a file is still the one at `path`; a session that was committed is a blob by now."""
    try:
        return os.path.samestat(status, os.stat(path))
    except FileNotFoundError:
        return False


def _unknown(session: str) -> UploadUnknown:
    return UploadUnknown("no such upload session in this repository", session=session)


@cache
def _boot() -> str:
    """Identify this run of the kernel; where that cannot be told, no note is ever trusted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.uuid4())
