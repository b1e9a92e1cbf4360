"""Dedupe by hard links, without a database: the pool holds one more link to each blob's inode."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import suppress

from storage.backend import Identity
from storage.content import Content, is_same
from storage.digest import ALGORITHMS, Digest, is_digest
from storage.durable import Durable
from storage.layout import Layout
from storage.quarantine import identity_of

#: What keeps two names from sharing an inode: another file system, too many links, or a file system without links.
CANNOT_LINK = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP})


class Pool:
    """The pool of one store. It is derived: losing any of it loses only sharing, so nothing that comes is synced."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._layout = layout
        self._durable = durable

    def has(self, digest: Digest) -> bool:
        """Tell whether there is a copy."""
        return os.path.exists(self._layout.pooled(digest))

    def size(self, digest: Digest) -> int | None:
        """Return the size of the copy, or None if there is none."""
        try:
            return os.stat(self._layout.pooled(digest)).st_size
        except FileNotFoundError:
            return None

    def take(self, digest: Digest, target: str, content: Content | None = None) -> bool:
        """Link the pool's copy to `target`, if there is one (of that content); tell whether it is there now.

        A damaged copy, or one that has all the links it can have, goes, so that the next can take its place.
        Raises FileExistsError where the target is taken.
        """
        source = self._layout.pooled(digest)
        try:
            if content and not _has_content(source, content):
                os.unlink(source)
                self._durable.sync_directory(os.path.dirname(source))  # what is damaged must not come back
                return False
            self._durable.link(source, target)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
            if error.errno == errno.EMLINK:
                with suppress(FileNotFoundError):
                    os.unlink(source)
            return False
        return True

    def offer(self, path: str, digest: Digest) -> bool:
        """Let a file that is complete and synced be the pool's copy; tell whether it was too late for that."""
        target = self._layout.pooled(digest)
        try:
            try:
                self._durable.link(path, target)
            except FileNotFoundError:  # it may be the directory that is missing
                os.makedirs(os.path.dirname(target), exist_ok=True)
                self._durable.link(path, target)
        except FileExistsError:  # another worker offered its own at the same time
            return True
        except FileNotFoundError:  # somebody has just taken it away
            return False
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
        return False

    def release(self, digest: Digest) -> None:
        """Drop the pool's link if it is the last one; who links it meanwhile keeps the content."""
        with suppress(FileNotFoundError):
            _drop_last_link(self._layout.pooled(digest))

    def drop(self, digest: Digest, identity: Identity) -> None:
        """Drop the pool's link, be it the last one or not, if it is one of the file with this identity.

        Durable on return: what is damaged must not come back.
        """
        path = self._layout.pooled(digest)
        with suppress(FileNotFoundError):
            if identity_of(os.stat(path)) == identity:
                os.unlink(path)
                self._durable.sync_directory(os.path.dirname(path))

    def sweep(self) -> Iterator[tuple[Digest, int]]:
        """Drop every link that is the last one; yield the digests and sizes of those that went."""
        for algorithm in ALGORITHMS:
            for directory in _listed(f"{self._layout.pool}/{algorithm}"):
                for name in _listed(directory.path):
                    with suppress(FileNotFoundError):
                        size = name.stat().st_size
                        if is_digest(digest := f"{algorithm}:{name.name}") and _drop_last_link(name.path):
                            yield Digest(digest), size


def _has_content(path: str, content: Content) -> bool:
    with io.FileIO(path) as file:
        return is_same(file.fileno(), content)


def _drop_last_link(path: str) -> bool:
    if os.stat(path).st_nlink > 1:
        return False
    os.unlink(path)
    return True


def _listed(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
