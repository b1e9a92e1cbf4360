"""A disk that keeps only what was synced: what a power loss at this moment would leave of a directory tree."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import storage

_STORAGE = str(Path(storage.__file__).parent)
_OWN = frozenset({"sync_file", "sync_directory"})


class Disk:
    """Stand in for the disk under `anchor`, a directory that is empty and durable, by taking the place of os.fsync.

    A file's content is what it was at its last fsync, a directory's names what they were at its own. What was never
    synced is zeros of the right length, the worst of what file systems leave.
    """

    def __init__(self, anchor: Path) -> None:
        """Begin with an empty directory."""
        anchor.mkdir()
        self.anchor = anchor
        self.sites: set[str] = set()  #: where in storage/ fsync was called from
        self.ignored: str | None = None  #: the site whose calls shall do nothing
        self.on_step: Callable[[], None] = lambda: None  #: called before and after each fsync
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, os.stat_result]] = {}
        self._lost: set[int] = set()
        self._kept: list[int] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._kept:
            os.close(descriptor)
        self._kept.clear()

    def fsync(self, descriptor: int) -> None:
        """Record what is durable from now on."""
        site = _site(sys._getframe(1))
        self.sites.add(site)
        self.on_step()
        if site != self.ignored:
            with self._lock:
                self._record(descriptor)
        self.on_step()

    def settle(self) -> None:
        """Let all names be durable that are there by now, as after a while they are on any disk."""
        with self._lock:
            for directory, _, _ in os.walk(self.anchor):
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._record(descriptor)
                os.close(descriptor)

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Call nobody before and after what is synced in the block."""
        on_step, self.on_step = self.on_step, lambda: None
        try:
            yield
        finally:
            self.on_step = on_step

    def damage(self, path: Path) -> None:
        """Let the disk give something else than what was written to it from now on."""
        with path.open("r+b") as file, self._lock:
            file.write(b"damage")
            file.flush()
            self._record(file.fileno())

    def fail(self, descriptor: int) -> None:
        """Fail as an fsync does that could not write: the kernel drops what it could not, and says so only once."""
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._keep(descriptor)
            self._lost.add(os.fstat(descriptor).st_ino)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _record(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        inode = status.st_ino
        if inode in self._lost:
            return
        if inode not in self._contents and inode not in self._names:
            self._keep(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._names[inode] = _listing(descriptor)
        else:
            self._contents[inode] = os.pread(descriptor, status.st_size, 0)

    def _keep(self, descriptor: int) -> None:
        """Hold the file open, so that no other one gets its inode number; a descriptor of its own has no locks."""
        self._kept.append(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC))

    def after_power_loss(self, target: Path, *, all_names: bool = False) -> None:
        """Build the tree that is left; with `all_names`, the one where every name reached the disk unasked."""
        with self._lock:
            self._build(self.anchor, self.anchor.stat().st_ino, target, all_names, {})

    def _build(self, source: Path, inode: int, target: Path, all_names: bool, built: dict[int, Path]) -> None:
        target.mkdir()
        names = _listing(source) if all_names else self._names.get(inode, {})
        for name, status in names.items():
            path = target / name
            if stat.S_ISDIR(status.st_mode):
                self._build(source / name, status.st_ino, path, all_names, built)
            elif status.st_ino in built:
                path.hardlink_to(built[status.st_ino])
            else:
                path.write_bytes(self._contents.get(status.st_ino, bytes(status.st_size)))
                built[status.st_ino] = path


def _listing(directory: int | Path) -> dict[str, os.stat_result]:
    """Return what a directory holds; a file that vanishes meanwhile was not there."""
    with os.scandir(directory) as entries:
        return {entry.name: status for entry in entries for status in _status(entry)}


def _status(entry: os.DirEntry[str]) -> Iterator[os.stat_result]:
    try:
        yield entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return


def _site(frame: FrameType) -> str:
    """Say which line of storage/ wanted a sync, and for a step of durable.py on whose behalf."""
    lines: list[str] = []
    for name, where, line in _callers(frame):
        if name in _OWN:
            continue
        if f"{where}:{name}" not in [known.rpartition(":")[0] for known in lines]:
            lines.append(f"{where}:{name}:{line}")
        if where != "durable.py":
            break
    return " for ".join(lines)


def _callers(frame: FrameType | None) -> Iterator[tuple[str, str, int]]:
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_STORAGE):
            yield frame.f_code.co_name, Path(path).name, frame.f_lineno
        frame = frame.f_back
