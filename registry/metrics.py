"""Counters that all workers share: each adds to a file of its own, and a reader sums the files.

A worker takes the first file that no living worker has locked, so that counts outlive workers and restarts, and there
are no more files than there were ever workers at once. Where the directory cannot be written, a worker counts for
itself.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Mapping
from pathlib import Path

from storage import locks

COUNTERS = (
    "requests",
    "responses_2xx",
    "responses_3xx",
    "responses_4xx",
    "responses_5xx",
    "manifest_pulls",
    "manifest_pushes",
    "manifest_deletes",
    "blob_pulls",
    "blob_pull_bytes",
    "blob_pushes",
    "blobs_stored",
    "bytes_stored",
    "blobs_deduplicated",
    "bytes_deduplicated",
    "blobs_mounted",
    "blobs_deleted",
    "bytes_deleted",
    "blobs_quarantined",
)
_NUMBER = {name: number for number, name in enumerate(COUNTERS)}
_VALUES = struct.Struct(f"<{len(COUNTERS)}q")
_SIZE = 1024  #: bytes in a file: room for counters that later versions add at the end


class Metrics:
    """The counters of one data directory. Made before the workers fork; each takes its file when it first counts."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._lock = threading.Lock()
        self._pid = 0
        self._values: memoryview = memoryview(bytearray())

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        self.add_all({name: amount})

    def add_all(self, amounts: Mapping[str, int]) -> None:
        """Add to several counters."""
        with self._lock:
            if self._pid != os.getpid():
                self._values = self._take_file()
                self._pid = os.getpid()
            for name, amount in amounts.items():
                self._values[_NUMBER[name]] += amount

    def totals(self) -> dict[str, int]:
        """Return every counter, summed over all workers there have been."""
        self.add("requests", 0)
        rows = [self._values.tolist()] if self._is_private() else self._read_files()
        return {name: sum(row[number] for row in rows) for name, number in _NUMBER.items()}

    def _read_files(self) -> list[tuple[int, ...]]:
        files = (path.read_bytes() for path in self._directory.glob("[0-9]*"))
        return [_VALUES.unpack(data[: _VALUES.size].ljust(_VALUES.size, b"\0")) for data in files]

    def _is_private(self) -> bool:
        return not isinstance(self._values.obj, mmap.mmap)

    def _take_file(self) -> memoryview:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = self._lock_free_file()
            os.posix_fallocate(descriptor, 0, _SIZE)  # a hole in the file would be a SIGBUS on a full disk
            return memoryview(mmap.mmap(descriptor, _SIZE)).cast("q")
        except OSError:
            return memoryview(bytearray(_SIZE)).cast("q")

    def _lock_free_file(self) -> int:
        """Open the first file that no living worker has; the lock lasts as long as this process."""
        number = 0
        while True:
            descriptor = os.open(self._directory / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if locks.try_exclusive(descriptor):
                return descriptor
            os.close(descriptor)
            number += 1
