"""The files of a source, by name: those of a directory, or those of a tar archive, which is never unpacked.

Nothing is believed: a name may not lead out of the archive, a link in it is only followed within it, and what is read
whole is bounded.
"""

from __future__ import annotations

import gzip
import io
import os
import posixpath
import stat
import tarfile
import zlib
from types import TracebackType
from typing import Protocol, Self

from storage.transfer.errors import Missing, SourceError

MAX_DOCUMENT = 64 * 1024 * 1024  #: bytes that an index.json or a manifest.json may have
_MAX_HEADER = 1024 * 1024  #: bytes that the header of a member may have
_MAX_MEMBERS = 500_000
_MAX_LINKS = 16
_GZIP = b"\x1f\x8b"
_UNREADABLE = (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, OverflowError)


class _Bytes(Protocol):
    """A file that can be read from anywhere."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a byte, and return its number."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes."""

    def tell(self) -> int:
        """Return the number of the byte to be read next."""

    def close(self) -> None:
        """Let go of it."""


class File:
    """A part of an open file, to be read once; `descriptor` is of a file of its own that has nothing else."""

    def __init__(self, name: str, data: _Bytes, start: int, size: int, descriptor: int | None = None) -> None:
        self.name = name
        self.size = size
        self.descriptor = descriptor
        self._data = data
        self._next = start
        self._left = size

    def __enter__(self) -> Self:
        """Close it at the end if it is a file of its own."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.descriptor is not None:
            self._data.close()

    def read(self, size: int, /) -> bytes:
        """Return at least one and at most `size` bytes, or none at the end; raise SourceError if it ends too early."""
        if not self._left:
            return b""
        try:
            self._data.seek(self._next)
            chunk = self._data.read(min(size, self._left))
        except (*_UNREADABLE, OSError) as error:
            raise SourceError(f"{self.name} cannot be read: {_reason(error)}") from None
        if not chunk:
            raise SourceError(f"{self.name} is cut off: {self._left} of its {self.size} bytes are missing")
        self._next += len(chunk)
        self._left -= len(chunk)
        return chunk

    def read_all(self, limit: int) -> bytes:
        """Return all of it; raise SourceError if that is more than `limit` bytes."""
        if self.size > limit:
            raise SourceError(f"{self.name} has {self.size} bytes, more than the {limit} that it may have")
        return b"".join(iter(lambda: self.read(limit), b""))


class Files(Protocol):
    """Files to be read in any order, but at the least cost in that of their positions."""

    def open(self, name: str) -> File:
        """Open a file; raise Missing if there is none, and SourceError if it is something else."""

    def has(self, name: str) -> bool:
        """Tell whether there is something of this name."""

    def position(self, name: str) -> int:
        """Return where the file begins, in bytes; 0 where it does not matter or is not known."""


class Directory:
    """The files below a directory, which may change meanwhile."""

    def __init__(self, root: str) -> None:
        self.root = root

    def open(self, name: str) -> File:
        """Open a regular file; what else there is is not touched."""
        _check_inside(name)
        path = f"{self.root}/{name}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"{path} is missing") from None
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise SourceError(f"{path} is no file")
        return File(path, io.FileIO(descriptor), 0, status.st_size, descriptor)

    def has(self, name: str) -> bool:
        """Tell whether there is a file, or a directory, of this name."""
        return os.path.exists(f"{self.root}/{name}")

    def position(self, name: str) -> int:
        """Return 0: files of their own have no order."""
        return 0


class Tar:
    """The files in a tar archive, compressed by gzip or not, at their last version there.

    Of a compressed one, to go back means to read it again from its start.
    """

    def __init__(self, path: str) -> None:
        """List what is in the archive; raise SourceError if it is none, or has what no archive of images has."""
        self._path = path
        self._data = _open(path)
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._prefix = ""
        try:
            self._list()
        except BaseException:
            self._data.close()
            raise

    def open(self, name: str) -> File:
        """Open a regular file, or the one that a link in the archive leads to."""
        place = self._places.get(self._resolve(name))
        if place is None:
            raise Missing(f"{self._path} has no file {self._prefix}{name}")
        return File(f"{self._path}: {self._prefix}{name}", self._data, *place)

    def has(self, name: str) -> bool:
        """Tell whether there is a file, or a link, of this name."""
        return self._prefix + name in self._places or self._prefix + name in self._links

    def position(self, name: str) -> int:
        """Return where in the archive the file begins."""
        return self._places.get(self._resolve(name), (0, 0))[0]

    def enter(self, name: str) -> bool:
        """Take the one directory that has a file of this name for the top of the archive; tell whether there is one."""
        found = [path for path in self._places if posixpath.basename(path) == name]
        if len(found) == 1:
            self._prefix = found[0].removesuffix(name)
        return len(found) == 1

    def _resolve(self, name: str) -> str:
        name = posixpath.normpath(self._prefix + name)
        for _ in range(_MAX_LINKS):
            if name not in self._links:
                return name
            name = self._links[name]
        raise SourceError(f"{self._path}: {name} is a link that leads to links without end")

    def _list(self) -> None:
        try:
            with tarfile.open(fileobj=_Bounded(self._data, self._path), mode="r:") as archive:  # type: ignore[call-overload]
                for member in archive:
                    self._add(member)
                    archive.members.clear()  # it would keep them all, and they are large
        except _UNREADABLE as error:
            raise SourceError(f"{self._path} is no tar archive, or is cut off: {_reason(error)}") from None

    def _add(self, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(member.name)
        if member.name.startswith("/") or name.startswith(".."):
            raise SourceError(f"{self._path} has a member {member.name!r}, which leads out of the archive")
        if member.size < 0 or len(self._places) + len(self._links) >= _MAX_MEMBERS:
            raise SourceError(
                f"{self._path} is damaged at {member.name!r}, or has more members than any archive of images"
            )
        self._places.pop(name, None)
        self._links.pop(name, None)
        if member.isreg() and not member.issparse():
            self._places[name] = (member.offset_data, member.size)
        elif member.issym() or member.islnk():
            target = member.linkname if member.islnk() else posixpath.join(posixpath.dirname(name), member.linkname)
            self._links[name] = self._inside(member, posixpath.normpath(target))
        elif not member.isdir():
            raise SourceError(f"{self._path} has a member {member.name!r} that is no file, directory or link")

    def _inside(self, member: tarfile.TarInfo, target: str) -> str:
        if target.startswith(("/", "..")):
            raise SourceError(f"{self._path} has a link {member.name!r}, which leads out of the archive")
        return target


class _Bounded:
    """A file of which little is read at a time, whatever a header says of its own length."""

    def __init__(self, data: _Bytes, path: str) -> None:
        self._data = data
        self._path = path
        self.seek = data.seek
        self.tell = data.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise SourceError(f"{self._path} has a member whose header is too large")
        return self._data.read(size)


def read_document(files: Files, name: str, limit: int = MAX_DOCUMENT) -> bytes:
    """Return the whole content of a small file; raise SourceError."""
    with files.open(name) as file:
        return file.read_all(limit)


def _open(path: str) -> _Bytes:
    try:
        file = io.FileIO(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    start = file.read(len(_GZIP))
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if start == _GZIP else file


def _check_inside(name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(f"{name!r} leads out of the source")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
