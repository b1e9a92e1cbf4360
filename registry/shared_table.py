"""A table of small records that all workers of a host share: a file that each of them maps into its memory.

There is no daemon. A worker opens the file when it first uses the table, so it does not matter whether it was forked
from one that has the application already. Where the file cannot be had, a worker has a table for itself.

The locks are of the open file and on one byte each (`F_OFD_SETLKW`), beside a `threading.Lock` for the threads that
share the open file: the kernel lets go of them when their holder dies, however it dies. While a record is written it
has no tag, so one that is left half-written is as good as none.

The table is bounded. A key has a bucket, which has room for a few records; one more takes the place of the one that is
worth the least. Buckets follow from a keyed hash: without the key, which is in the file, nobody can aim at one.

What is not promised: records survive restarts, but not a boot, after which the monotonic clock has begun anew; and
whoever truncates the file of a running server ends its workers.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import mmap
import os
import secrets
import struct
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

log = logging.getLogger(__name__)

#: A record: first what it is worth, by which the least is found when room is needed, then what the caller likes.
Record = tuple[int, int, int, int, int]
Change = Callable[[Record], Record]

NOTHING: Record = (0, 0, 0, 0, 0)  #: what a key has that is not in the table

_WAYS = 8  #: records in a bucket
_FIELDS = struct.Struct(f"={len(NOTHING)}q")
_BUCKET_WORDS = _WAYS * (1 + len(NOTHING))  # the tags of all records, then the records
_WORD = 8
_DIGEST = struct.Struct("=qQ")  # a record's tag, and what its bucket follows from

#: Magic (with the version of this layout), number of buckets, boot, key; then their checksum.
_HEAD = struct.Struct("=16sQ36s32s")
_MAGIC = b"pierhead table 1"
_CHECKSUM_BYTES = 16
_HEAD_BYTES = 4096  # a page

_STRIPES = 64  #: locks; each is for every so many-th bucket
_HEAD_LOCK = 0  # the byte that is locked while the head is looked at; those of the stripes follow
_FLOCK = "hhqqi0q"  # struct flock, as fcntl(2) has it: type, whence, start, length, and a process id that is 0
_ATTEMPTS = 8


class SharedTable:
    """Records by key, in the file at `path`; its directory is made when missing.

    A record is five integers of 64 bits. There is room for eight in each of the `buckets`, in 384 bytes.
    """

    def __init__(self, path: str, buckets: int = 8192) -> None:
        """Open nothing yet."""
        self._path = path
        self._buckets = buckets
        self._opened: dict[int, _Opened] = {}

    def get(self, key: bytes) -> Record:
        """Return the record of a key."""
        return self.update(key, _unchanged)

    def peek(self, key: bytes) -> Record:
        """Return the record of a key without waiting for a lock.

        One that is being written may look as if it were not there, and hardly ever be half of what it was before.
        """
        return self.watch(key)()

    def watch(self, key: bytes) -> Callable[[], Record]:
        """Return what peeks at a key again and again, in this process: where to look is worked out once."""
        opened = self._opened.get(os.getpid()) or self._open()
        return opened.watch(key)

    def update(self, key: bytes, change: Change) -> Record:
        """Let `change` make a new record of a key's old one, while nobody else can, and return it.

        NOTHING takes the key out. What `change` raises is passed on, and changes nothing.
        """
        opened = self._opened.get(os.getpid()) or self._open()
        return opened.update(key, change)

    def _open(self) -> _Opened:
        """Open the table for this process; when several threads come here at once, one's is for all."""
        pid = os.getpid()
        opened = self._opened.setdefault(pid, _open(self._path, self._buckets))
        # A parent's descriptor would share its locks with it, and keep them when it dies.
        for other in list(self._opened):
            if other != pid:
                self._opened.pop(other, None)
        return opened


class _Opened:
    """The table as one process has it; without a descriptor, for itself."""

    def __init__(self, memory: mmap.mmap | bytearray, key: bytes, buckets: int, descriptor: int | None) -> None:
        self._bytes = memoryview(memory)[_HEAD_BYTES:]
        self._words = self._bytes.cast("q")
        self._key = key
        self._buckets = buckets
        self._stripes = [_Stripe(descriptor, number) for number in range(_STRIPES)]
        if descriptor is not None:
            weakref.finalize(self, os.close, descriptor)

    def watch(self, key: bytes) -> Callable[[], Record]:
        tag, number = self._find(key)
        return partial(self._peek, tag, number * _BUCKET_WORDS)

    def _peek(self, tag: int, bucket: int) -> Record:
        tags = self._words[bucket : bucket + _WAYS].tolist()
        if tag not in tags:
            return NOTHING
        way = tags.index(tag)
        found = self._read(bucket, way)
        return found if self._words[bucket + way] == tag else NOTHING

    def update(self, key: bytes, change: Change) -> Record:
        tag, number = self._find(key)
        with self._stripes[number % _STRIPES]:
            return self._update(number * _BUCKET_WORDS, tag, change)

    def _find(self, key: bytes) -> tuple[int, int]:
        """Return a key's tag and the number of its bucket."""
        tag, place = _DIGEST.unpack(hashlib.blake2b(key, key=self._key, digest_size=_DIGEST.size).digest())
        return tag or 1, place % self._buckets

    def _update(self, bucket: int, tag: int, change: Change) -> Record:
        words = self._words
        tags = words[bucket : bucket + _WAYS].tolist()
        way = tags.index(tag) if tag in tags else None
        old = NOTHING if way is None else self._read(bucket, way)
        new = change(old)
        if new != old:
            fields = _FIELDS.pack(*new)
            if way is None:
                way = tags.index(0) if 0 in tags else self._least(bucket)
            words[bucket + way] = 0  # until the whole record is there: this process may end at any moment
            if new != NOTHING:
                start = _position(bucket, way) * _WORD
                self._bytes[start : start + _FIELDS.size] = fields
                words[bucket + way] = tag
        return new

    def _read(self, bucket: int, way: int) -> Record:
        worth, first, second, third, fourth = _FIELDS.unpack_from(self._bytes, _position(bucket, way) * _WORD)
        return worth, first, second, third, fourth

    def _least(self, bucket: int) -> int:
        return min(range(_WAYS), key=lambda way: self._words[_position(bucket, way)])


class _Stripe:
    """A lock against the other threads and, with a descriptor, against the other processes."""

    def __init__(self, descriptor: int | None, number: int) -> None:
        self._threads = threading.Lock()
        self._descriptor = descriptor
        self._lock = _flock(fcntl.F_WRLCK, _HEAD_LOCK + 1 + number)
        self._unlock = _flock(fcntl.F_UNLCK, _HEAD_LOCK + 1 + number)

    def __enter__(self) -> None:
        self._threads.acquire()
        if self._descriptor is not None:
            try:
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLKW, self._lock)
            except BaseException:
                self._threads.release()
                raise

    def __exit__(self, *_exception: object) -> None:
        try:
            if self._descriptor is not None:
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLKW, self._unlock)
        finally:
            self._threads.release()


def _open(path: str, buckets: int) -> _Opened:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return _open_file(path, buckets)
    except OSError as error:
        log.warning("%s: %s; each worker counts for itself instead of with the others", path, error.strerror)
    return _Opened(bytearray(_size(buckets)), secrets.token_bytes(32), buckets, None)


def _open_file(path: str, buckets: int) -> _Opened:
    """Open the file, made anew if it is damaged, of another boot or of another version; raise OSError."""
    for _ in range(_ATTEMPTS):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            key = _key_of_file(descriptor, path, buckets)
            if key is not None:
                memory = mmap.mmap(descriptor, _size(buckets))
                return _Opened(memory, key, buckets, os.dup(descriptor))
        finally:
            os.close(descriptor)
    raise OSError(errno.ESTALE, "the file does not stay as it was made")


def _key_of_file(descriptor: int, path: str, buckets: int) -> bytes | None:
    """Return the key of the hash, or None where the file at `path` is not, or no more, the one that is open.

    A file that will not do is taken away rather than changed: somebody may have it in their memory. One that has
    just been made is empty, and nobody has it so.
    """
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK, _HEAD_LOCK))
    try:
        status = os.fstat(descriptor)
        if status.st_nlink == 0:
            return None
        if status.st_size == 0:
            _format(descriptor, buckets)
        elif status.st_size != _size(buckets) or _parse_head(_read_head(descriptor), buckets) is None:
            os.unlink(path)
            return None
        return _parse_head(_read_head(descriptor), buckets)
    finally:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _flock(fcntl.F_UNLCK, _HEAD_LOCK))


def _format(descriptor: int, buckets: int) -> None:
    """Make an empty file a table; the head comes last, so that one that was not finished is known."""
    os.posix_fallocate(descriptor, 0, _size(buckets))  # a hole in the file would be a SIGBUS on a full disk
    head = _HEAD.pack(_MAGIC, buckets, _boot(), secrets.token_bytes(32))
    os.pwrite(descriptor, head + _checksum(head), 0)


def _read_head(descriptor: int) -> bytes:
    return os.pread(descriptor, _HEAD.size + _CHECKSUM_BYTES, 0)


def _parse_head(data: bytes, buckets: int) -> bytes | None:
    """Return the key in a head, or None if it is not that of such a table."""
    head, checksum = data[: _HEAD.size], data[_HEAD.size :]
    if len(head) < _HEAD.size or checksum != _checksum(head):
        return None
    *kind, key = _HEAD.unpack(head)
    return key if kind == [_MAGIC, buckets, _boot()] else None


def _checksum(head: bytes) -> bytes:
    return hashlib.blake2b(head, digest_size=_CHECKSUM_BYTES).digest()


def _boot() -> bytes:
    """Identify this run of the kernel; where that cannot be told, callers' own checks of times have to do."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        text = b""
    return text[:36].ljust(36, b"\0")


def _size(buckets: int) -> int:
    return _HEAD_BYTES + buckets * _BUCKET_WORDS * _WORD


def _position(bucket: int, way: int) -> int:
    """Return where a record begins, in words."""
    return bucket + _WAYS + way * len(NOTHING)


def _flock(kind: int, byte: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)


def _unchanged(record: Record) -> Record:
    return record
