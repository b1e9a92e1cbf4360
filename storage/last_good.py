"""A copy of each repository's last good index, for the reads of one whose index.json is damaged.

A checksum stands for durability: the copy is never synced, and is only for the worst case. Of an index to which entries
were appended only these are hashed, and written.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from storage import locks
from storage.cache import Cache
from storage.durable import write_at
from storage.layout import Layout

if TYPE_CHECKING:
    from _hashlib import HASH

_END = 2  #: bytes of an index behind its last entry: what is appended comes before them
_HEAD = 65  #: bytes of a copy before the index: its SHA-256 in hexadecimal, and a line's end
_REMEMBERED = 64 * 1024 * 1024  #: bytes of indexes whose hashes one worker can go on with


class _Hashed(NamedTuple):
    """An index, the state of its hash before its end, and the head that a copy of it has."""

    data: bytes
    hasher: HASH
    head: bytes


class LastGood:
    """The copies of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._hashed: Cache[str, _Hashed] = Cache(_REMEMBERED)

    def read(self, repository: str) -> bytes | None:
        """Return the copy, if there is one and it is whole."""
        try:
            with io.FileIO(self._layout.last_good_index(repository)) as file:
                copy = file.readall()
        except FileNotFoundError:
            return None
        data = copy[_HEAD:]
        return data if copy[:_HEAD] == _hash(data).head else None

    def keep(
        self, repository: str, data: bytes, *, wait: bool = True, is_newest: Callable[[], bool] = lambda: True
    ) -> None:
        """Let `data` be the copy, if it still `is_newest` once nobody else writes it; without `wait`, if nobody does.

        It is only for the worst case, so what fails about it is nothing to fail for.
        """
        before = self._hashed.get(repository)
        now = _hash(data, before)
        self._hashed.put(repository, now, weight=len(data))
        with suppress(OSError), locks.exclusive(self._layout.last_good_index(repository), wait=wait) as copy:
            if is_newest():
                _write(copy, now, before)


def _hash(data: bytes, before: _Hashed | None = None) -> _Hashed:
    """Hash an index, going on from one that is its beginning."""
    hasher, start, end = hashlib.sha256(), 0, max(len(data) - _END, 0)
    if before is not None and _goes_on(before.data, data):
        hasher, start = before.hasher.copy(), len(before.data) - _END
    hasher.update(memoryview(data)[start:end])
    whole = hasher.copy()
    whole.update(data[end:])
    return _Hashed(data, hasher, whole.hexdigest().encode() + b"\n")


def _goes_on(before: bytes, data: bytes) -> bool:
    """Tell whether an index is another one with entries appended."""
    return _END <= len(before) <= len(data) and data.startswith(memoryview(before)[:-_END])


def _write(copy: int, now: _Hashed, before: _Hashed | None) -> None:
    """Write a copy: all of it, or what it has more than what is there already."""
    head, size = os.pread(copy, _HEAD, 0), os.fstat(copy).st_size - _HEAD
    if (head, size) == (now.head, len(now.data)):
        return
    start = 0
    if before is not None and (head, size) == (before.head, len(before.data)) and _goes_on(before.data, now.data):
        start = size - _END
    write_at(copy, memoryview(now.data)[start:], _HEAD + start)
    write_at(copy, now.head, 0)
    if size > len(now.data):
        os.ftruncate(copy, _HEAD + len(now.data))
