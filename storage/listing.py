"""Which repositories there are: a walk over the directories that can be some, reading no more than is asked for."""

from __future__ import annotations

import io
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import TypeAlias

import orjson

from storage.cache import Cache
from storage.layout import BIN, BLOBS, INDEX, UPLOADS, Layout
from storage.names import is_component

_EMPTY_INDEX = 200  #: bytes that an index has at most, as written here, if it lists nothing; with an entry it has more
_LISTINGS = 100_000  #: directory names kept in memory, all together
_SETTLED = 2_000_000_000  #: nanoseconds after which a time stamp is not given out again

#: (inode, size, mtime in ns, ctime in ns)
Stamp: TypeAlias = tuple[int, int, int, int]
MISSING: Stamp = (0, 0, 0, 0)


class Listing:
    """The repositories of one store, in byte-lexical order. What a directory held is remembered while it stays so."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: Cache[str, tuple[Stamp, list[str]]] = Cache(_LISTINGS)

    def repositories(self, prefix: str, after: str) -> Iterator[str]:
        """Yield the repositories at and below a prefix that follow `after`."""
        return self._at_or_below(prefix, after, self._lists_something)

    def places(self, prefix: str, after: str) -> Iterator[str]:
        """Yield likewise the names whose directories hold anything of a repository."""
        return self._at_or_below(prefix, after, self._holds_anything)

    def _lists_something(self, name: str) -> bool:
        """Tell whether there is an index with anything in it; one that is damaged counts, too."""
        path = self._layout.index(name)
        try:
            if os.stat(path).st_size > _EMPTY_INDEX:
                return True
            with io.FileIO(path) as file:
                document = orjson.loads(file.readall())
        except (FileNotFoundError, NotADirectoryError):
            return False
        except orjson.JSONDecodeError:
            return True
        return not isinstance(document, dict) or bool(document.get("manifests", True))

    def _holds_anything(self, name: str) -> bool:
        """Tell whether a directory is more than a step to those that are nested in it."""
        directory = self._layout.repository(name)
        return any(os.path.lexists(f"{directory}/{part}") for part in (INDEX, BLOBS, UPLOADS, BIN))

    def _at_or_below(self, prefix: str, after: str, is_one: Callable[[str], object]) -> Iterator[str]:
        if prefix > after and is_one(prefix):
            yield prefix
        yield from self._below(f"{prefix}/" if prefix else "", after, is_one)

    def _below(self, parent: str, after: str, is_one: Callable[[str], object]) -> Iterator[str]:
        """Yield what `is_one` says is a repository, below `parent` (empty, or ending in a slash).

        `a-b` comes before `a/b` though `a` comes before both, so each directory stands in the order twice: as `a`, for
        itself, and as `a/`, for what is nested in it.
        """
        steps = self._steps(parent)
        first = max(bisect_right(steps, after) - 1, 0)  # the one before may be the `a/` in which `after` is nested
        for step in steps[first:]:
            if step[-1] == "/":
                if (step > after or after.startswith(step)) and self._steps(step):  # mostly nothing is nested
                    yield from self._below(step, after, is_one)
            elif step > after and is_one(step):
                yield step

    def _steps(self, parent: str) -> list[str]:
        """Return the sorted steps below `parent`, remembered while the directory has not changed."""
        path = self._layout.repository(parent)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        known = self._known.get(parent)
        if known and known[0] == stamp(status):
            return known[1]
        steps = sorted(step for name in _directories(path) for step in (parent + name, f"{parent}{name}/"))
        if _is_settled(status):
            self._known.put(parent, (stamp(status), steps), weight=len(steps) + 1)
        return steps


def settled(directory: str) -> Stamp | None:
    """Return what tells whether a directory has changed; None of one whose next change could bear the same time.

    One that is missing has a stamp of its own.
    """
    try:
        status = os.stat(directory)
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    return stamp(status) if _is_settled(status) else None


def _is_settled(status: os.stat_result) -> bool:
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED


def stamp(status: os.stat_result) -> Stamp:
    """Return what a file's or directory's status says of whether it has changed."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _directories(path: str) -> list[str]:
    """Return the names in a directory that repositories, or what they are nested in, can have."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if is_component(entry.name) and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
