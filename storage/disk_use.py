"""Disk use: what each repository of a store on local disk has, and what all of it takes, shared files counted once."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from storage.digest import ALGORITHMS, is_digest
from storage.layout import BIN, BLOBS, PRIVATE, UPLOADS

_BLOCK = 512  #: what st_blocks counts in, on every file system
_POOL = (PRIVATE, "pool")


@dataclass(slots=True, eq=False)
class File:
    """A file by its inode: its size, the bytes that it takes on the disk, and how many repositories' blobs it is."""

    size: int
    allocated: int
    repositories: int = 0


@dataclass(slots=True)
class RepositoryUse:
    """The files of one repository: of its blobs (manifests included), of its upload sessions, and of its bin."""

    name: str
    blobs: list[File] = field(default_factory=list)
    uploads: list[File] = field(default_factory=list)
    binned: list[File] = field(default_factory=list)

    @property
    def logical(self) -> int:
        """The bytes of its blobs, as if it shared none."""
        return size_of(self.blobs)

    @property
    def share(self) -> int:
        """The bytes of its blobs, each divided by the number of repositories that share it."""
        return round(sum(file.size / file.repositories for file in self.blobs))

    @property
    def own(self) -> int:
        """The bytes of the blobs that no other repository shares."""
        return sum(file.size for file in self.blobs if file.repositories == 1)


@dataclass(slots=True)
class Sum:
    """What some repositories come to, in bytes; only `allocated` is in whole blocks of the disk.

    `physical` counts the blobs' files once, `saved` is what sharing saves; `binned` and `uploads` are of files that
    are no repository's blobs.
    """

    logical: int
    physical: int
    binned: int
    uploads: int
    allocated: int

    @property
    def saved(self) -> int:
        """What it would take more, did each repository have files of its own."""
        return self.logical - self.physical


class DiskUse:
    """What lies in the directory of one store; `tell` hears of each repository as its blobs are looked at.

    `is_here` tells whether a name is served from this store; the files of others count as `rest`. `faults` says what
    could not be read.
    """

    def __init__(
        self, root: str, is_here: Callable[[str], bool], tell: Callable[[str], object] = lambda _: None
    ) -> None:
        """Walk over the whole store: which files are shared can only be told then."""
        self._root = root
        self._is_here = is_here
        self._tell = tell
        self._files: dict[tuple[int, int], File] = {}
        self._found: dict[str, RepositoryUse] = {}
        self._pool: list[File] = []
        self._rest: list[File] = []
        self.faults: list[OSError] = []
        self._walk()

    @property
    def repositories(self) -> list[RepositoryUse]:
        """All that have anything, by name."""
        return [use for _, use in sorted(self._found.items())]

    @property
    def pool_only(self) -> int:
        """The bytes of what only the pool has; the next collection takes it."""
        used = {id(file) for use in self._found.values() for file in (*use.blobs, *use.binned)}
        return sum(file.size for file in _distinct(self._pool) if id(file) not in used)

    @property
    def rest(self) -> int:
        """The bytes of indexes, locks, journals and whatever else there is."""
        return size_of(_distinct(self._rest))

    @property
    def allocated(self) -> int:
        """The bytes that all files take on the disk, without directories."""
        return sum(file.allocated for file in self._files.values())

    def total(self, repositories: Iterable[RepositoryUse]) -> Sum:
        """Add up repositories; what they share counts once."""
        chosen = list(repositories)
        blobs = _distinct(file for use in chosen for file in use.blobs)
        binned = [file for file in _distinct(file for use in chosen for file in use.binned) if not file.repositories]
        uploads = [file for use in chosen for file in use.uploads]
        allocated = sum(file.allocated for file in (*blobs, *binned, *uploads))
        logical = sum(use.logical for use in chosen)
        return Sum(logical, size_of(blobs), size_of(binned), size_of(uploads), allocated)

    def _walk(self) -> None:
        """Look at each file once; what goes meanwhile is not there."""
        todo: list[tuple[str, ...]] = [()]
        seen = {(status.st_dev, status.st_ino) for status in self._root_status()}
        while todo:
            parts = todo.pop()
            for entry in self._entries(parts):
                with suppress(FileNotFoundError):
                    status = entry.stat()  # a repository may be a link to another disk
                    place = (*parts, entry.name)
                    if stat.S_ISREG(status.st_mode):
                        self._add(place, status)
                    elif stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        todo.append(place)

    def _root_status(self) -> Iterator[os.stat_result]:
        with suppress(FileNotFoundError):
            yield os.stat(self._root)

    def _entries(self, parts: tuple[str, ...]) -> list[os.DirEntry[str]]:
        try:
            with os.scandir("/".join((self._root, *parts))) as entries:
                return list(entries)
        except FileNotFoundError:
            return []
        except OSError as error:
            self.faults.append(error)
            return []

    def _add(self, place: tuple[str, ...], status: os.stat_result) -> None:
        file = self._files.setdefault((status.st_dev, status.st_ino), File(status.st_size, status.st_blocks * _BLOCK))
        if place[:2] == _POOL:
            self._pool.append(file)
            return
        kind = next((part for part in place if part in (BLOBS, UPLOADS, BIN)), None)
        name, below = _split(place, kind)
        if not name or place[0] == PRIVATE or not self._is_here(name):
            self._rest.append(file)
        elif kind == BLOBS and below[0] in ALGORITHMS and is_digest(":".join(below)):
            self._use(name).blobs.append(file)
            file.repositories += 1
        elif kind == UPLOADS:
            self._use(name).uploads.append(file)
        elif kind == BIN:
            self._use(name).binned.append(file)
        else:
            self._rest.append(file)

    def _use(self, name: str) -> RepositoryUse:
        if name not in self._found:
            self._found[name] = RepositoryUse(name)
            self._tell(name)
        return self._found[name]


def size_of(files: Iterable[File]) -> int:
    """Add up the sizes of files."""
    return sum(file.size for file in files)


def _distinct(files: Iterable[File]) -> list[File]:
    return list({id(file): file for file in files}.values())


def _split(place: tuple[str, ...], kind: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the repository that a file belongs to ("" if none), and the rest of its path."""
    if kind is None:
        return "", place
    at = place.index(kind)
    return "/".join(place[:at]), place[at + 1 :]
