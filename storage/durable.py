"""The whole vocabulary of durability: nothing else calls fsync, link or rename.

A file's content survives a power loss once `sync_file` returned, its name once `sync_directory` of its directory
did, and a directory's own name likewise in its parent. What is not promised: the order in which unsynced changes
reach the disk, and anything at all on a disk that lies about its cache.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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

    def link_open(self, descriptor: int, target: str) -> None:
        """Give the very file that is open one more name, whatever has happened to the names it had; as `link` does."""
        directory = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(str(descriptor), target, src_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(directory)

    def make_directory(self, path: str, mode: int = 0o777) -> None:
        """Make sure that the directory is there, and that its name and its parents' names are on the disk.

        `mode` is for the directory itself, if it has to be made.

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
            _mkdir(path, mode)
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


def write_new(durable: Durable, path: str, data: bytes) -> None:
    """Write a small file that must not be there yet, in a durable directory; durable on return, and whole or missing.

    A reader that comes too early may find it incomplete: write what can be checked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, data)
        durable.sync_file(descriptor)
        durable.sync_directory(os.path.dirname(path))
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


#: For what may lie outside the stores; which directories are durable is remembered for all of it.
_ANYWHERE = Durable("/")


def replace_file(path: str, data: bytes) -> None:
    """Make `data` the whole content of a small file, durably; at every moment it has its old content or its new one.

    A new file is its owner's alone, and so is its directory if it has to be made; a file that is replaced leaves its
    mode, and where that is allowed its owner, to the new one. A symbolic link stays one.
    """
    path = os.path.realpath(path)
    make_private_directory(os.path.dirname(path))
    with replacing(path) as descriptor:
        write_all(descriptor, data)


@contextmanager
def replacing(path: str) -> Iterator[int]:
    """Open a new file beside `path` that takes its place, durably, when the block ends, or goes if it raises.

    The directory must be there; what is said of modes and links is as for `replace_file`.
    """
    path = os.path.realpath(path)
    temporary = f"{path}.tmp-{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with suppress(FileNotFoundError):
            _resemble(descriptor, os.stat(path))
        yield descriptor
        os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    _ANYWHERE.sync_directory(os.path.dirname(path))


def make_private_directory(path: str) -> None:
    """Make a directory that only its owner may enter, if it is missing; on return its name is on the disk."""
    _ANYWHERE.make_directory(path, 0o700)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it where the open file stands."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of it from byte `offset` of the open file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _resemble(descriptor: int, old: os.stat_result) -> None:
    """Give the new file the owner, the group and the mode of the old one; where its group is refused, none to any."""
    mode = old.st_mode & 0o777
    try:
        os.fchown(descriptor, old.st_uid, old.st_gid)
    except PermissionError:
        try:
            os.fchown(descriptor, -1, old.st_gid)
        except PermissionError:
            mode &= ~0o070
    os.fchmod(descriptor, mode)


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def _mkdir(path: str, mode: int) -> None:
    try:
        os.mkdir(path, mode)
    except FileExistsError:  # another worker was faster
        return
