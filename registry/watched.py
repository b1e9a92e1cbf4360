"""A small file that is read again when it has changed, in every worker, with no restart."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Nanoseconds after which a time stamp is not given out again: a younger file is read each time, to be sure.
_SETTLED = 2_000_000_000

#: Seconds after which what was refused is tried again: that may have been for something beside it.
_AGAIN = 2.0

#: The part of its patience for which a file is not looked at again.
_LOOKS = 0.1

_Stamp = tuple[int, int, int, int]


class WatchedFile(Generic[T]):
    """What a file says, parsed; `parse` takes its bytes and raises ValueError for what it cannot accept.

    What was good stays in force while the file is missing or says nothing acceptable, which is logged once for each
    state of the file. `missing` is what a file says that is not there, where that is no error; `initial` what it said
    when somebody else read it before. Until a file has not changed for `patience` seconds, what it said before holds;
    so such a file is looked at only every tenth of that.
    """

    def __init__(
        self,
        path: str,
        parse: Callable[[bytes], T],
        *,
        missing: T | None = None,
        initial: T | None = None,
        patience: float = 0,
    ) -> None:
        """Read nothing yet."""
        self.path = path
        self._parse = parse
        self._missing = missing
        self._patience = int(patience * 1e9)
        self._next_look = 0.0
        self._lock = threading.Lock()
        self._stamp: _Stamp | None = None
        self._settled = False
        self._data: bytes | None = None
        self._refused: tuple[bytes, ValueError, float] | None = None
        self._value: T | None = initial
        self._complaint = ""
        #: Counts the changes of the value: equal numbers, equal values.
        self.generation = 0

    def get(self) -> T:
        """Return the value, read anew if the file has changed; raise OSError or ValueError if there never was one."""
        if self._patience and self._value is not None:
            now = time.monotonic()
            if now < self._next_look:
                return self._value
            self._next_look = now + self._patience / 1e9 * _LOOKS
        try:
            stamp = _stamp_from(os.stat(self.path))
        except OSError as error:
            return self._without(error)
        if stamp == self._stamp and self._settled and self._value is not None:
            return self._value
        if self._value is not None and 0 <= time.time_ns() - max(stamp[2], stamp[3]) < self._patience:
            return self._value
        with self._lock:
            return self._read()

    def _read(self) -> T:
        try:
            with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123  # fstat of the very file that is read
                before = _stamp_from(os.fstat(file.fileno()))
                data = file.readall()
                unchanged = _stamp_from(os.fstat(file.fileno())) == before
        except OSError as error:
            return self._without(error)
        if data != self._data or self._value is None:
            try:
                self._value, self._data = self._parsed(data), data
            except ValueError as error:
                return self._without(error)
            self.generation += 1
        self._complaint = ""
        self._stamp = before
        self._settled = unchanged and time.time_ns() - max(before[2], before[3]) > _SETTLED
        return self._value

    def _parsed(self, data: bytes) -> T:
        """Parse what the file says; what was refused just before is refused without another try."""
        now = time.monotonic()
        if self._refused and self._refused[0] == data and now < self._refused[2]:
            raise self._refused[1].with_traceback(None)  # it is raised often: do not let its traceback grow
        try:
            value = self._parse(data)
        except ValueError as error:
            self._refused = data, error, now + _AGAIN
            raise
        self._refused = None
        return value

    def _without(self, error: OSError | ValueError) -> T:
        """Fall back on what was good, or on what a missing file stands for."""
        if isinstance(error, FileNotFoundError) and self._missing is not None:
            if self._value is not self._missing:
                self._value, self._data = self._missing, None
                self.generation += 1
            return self._missing
        if self._value is None:
            raise error
        complaint = str(error)
        if complaint != self._complaint:
            self._complaint = complaint
            log.error("%s: %s; what it said before stays in force", self.path, complaint)
        return self._value


def _stamp_from(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
