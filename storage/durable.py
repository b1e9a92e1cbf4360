"""The whole vocabulary of durability: nothing else calls fsync, link or rename.

A file's content survives a power loss once `sync_file` returned, its name once `sync_directory` of its directory
did, and a directory's own name likewise in its parent. What is not promised: the order in which unsynced changes
reach the disk, and anything at all on a disk that lies about its cache.
"""

from __future__ import annotations

import errno
import os

#: What keeps a directory from being synced: it may not be read, or its file system has no sync.
_CANNOT_SYNC = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS})
_KNOWN = 4096  #: how many directories are remembered as durable before all are forgotten


class Durable:
    """Carry out the steps that decide what survives a power loss, for one store.

    With `commit` false no step waits for the disk: faster, and what was acknowledged last may be lost.
    """

    def __init__(self, root: str, commit: bool = True) -> None:
        self._root = root
        self._commit = commit
        self._known: dict[str, int] = {}

    def sync_file(self, descriptor: int) -> None:
        """Return when the content of the open file is on the disk."""
        if self._commit:
            os.fsync(descriptor)

    def sync_directory(self, path: str) -> None:
        """Return when the names in the directory are on the disk."""
        if not self._commit:
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        """Give the file its name, in place of any that had it; durable with the next `sync_directory`."""
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """Give the file one more name; raise FileExistsError if it is taken. Durable with the next `sync_directory`."""
        os.link(source, target, follow_symlinks=False)

    def make_directory(self, path: str) -> None:
        """Make sure that the directory is there, and that its name and its parents' names are on the disk.

        A directory that another process has just made may not be durable yet, so an existing one is synced too,
        once for each process: it is remembered by its inode number.
        """
        inode = _inode(path)
        if inode is not None and self._known.get(path) == inode:
            return
        parent = os.path.dirname(path)
        if parent != path:
            self.make_directory(parent)
        if inode is None:
            _mkdir(path)
        try:
            self.sync_directory(parent)
        except OSError as error:  # what lies above the store is not ours
            if error.errno not in _CANNOT_SYNC or path.startswith(self._root + "/"):
                raise
        self._remember(path)

    def _remember(self, path: str) -> None:
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[path] = os.stat(path).st_ino


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:  # another worker was faster
        return
