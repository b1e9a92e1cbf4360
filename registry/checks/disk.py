"""Checks of a store's directory and of the file system that it lies on, by trying in a directory that goes again."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from registry.checks.check import Check, fail, ok, warn
from registry.config import StoreConfig
from storage.durable import Durable
from storage.layout import INDEX, Layout
from storage.names import MAX_NAME
from storage.pool import CANNOT_LINK
from storage.sizes import show_size

_LITTLE_SPACE = 1024**3
_LITTLE_SHARE = 0.05
_LOOKED_AT = 20_000  #: files and directories of a store whose owners and times are looked at
_FUTURE = 60.0  #: seconds by which a file's time may be ahead
_COARSE = 1_000_000_000
_SECOND = 1_000_000_000
#: File systems on which something of what a store needs is missing, slow or gone after a restart.
_DOUBTFUL = {
    "tmpfs": "it is memory: all is lost when the machine stops",
    "ramfs": "it is memory: all is lost when the machine stops",
    "overlay": "it is a container's own layer: all is lost with the container; mount a volume",
    "nfs": "locks and syncs are only as good as the server's; one machine alone may serve it",
    "nfs4": "locks and syncs are only as good as the server's; one machine alone may serve it",
    "cifs": "it has no hard links and no reliable locks",
    "9p": "its syncs may not reach the disk",
    "vfat": "it has no hard links, and times of two seconds",
    "exfat": "it has no hard links",
}


def check_store(store: StoreConfig) -> Iterator[Check]:
    """Look at one store; what is not there yet is looked at in the directory that it will be made in."""
    root = store.root_directory
    yield from _room(root)
    yield _file_system(root)
    if not store.commit:
        yield warn(root, "storage.commit", "is false: a power loss takes what was acknowledged last")
    place = _nearest(root)
    probe = f"{place}/.pierhead-doctor-{secrets.token_hex(4)}"
    try:
        os.mkdir(probe, 0o700)
    except OSError as error:
        yield fail(root, "writable", f"{place}: {error.strerror}")
        return
    try:
        yield ok(root, "writable", "directories and files can be made" + ("" if place == root else f" in {place}"))
        for name, check in _PROBES.items():
            yield _tried(root, name, check, probe)
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    if place == root:
        yield from _contents(root)


def _nearest(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _tried(root: str, name: str, check: Callable[[str, str, str], Check], probe: str) -> Check:
    try:
        return check(root, name, probe)
    except OSError as error:
        return fail(root, name, f"cannot be tried: {error.strerror}")


# the file system


def _room(root: str) -> Iterator[Check]:
    status = os.statvfs(_nearest(root))
    free, size = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    text = f"{show_size(free)} of {show_size(size)} are free"
    if free < _LITTLE_SPACE:
        yield (warn if free else fail)(
            root, "free space", f"{text}: collect garbage (pierhead gc), or get a larger disk"
        )
    else:
        yield ok(root, "free space", text)
    if not status.f_files:
        yield ok(root, "inodes", "this file system has no fixed number of them")
        return
    text = f"{status.f_favail} of {status.f_files} are free"
    if status.f_favail < _LITTLE_SHARE * status.f_files:
        advice = "each blob, tag lock and upload needs one: make a file system with more"
        yield (warn if status.f_favail else fail)(root, "inodes", f"{text}: {advice}")
    else:
        yield ok(root, "inodes", text)


def _file_system(root: str) -> Check:
    kind = _kind(os.path.realpath(_nearest(root)))
    if kind in _DOUBTFUL or kind.startswith("fuse"):
        return warn(
            root, "file system", f"{kind}: {_DOUBTFUL.get(kind, 'see what it says about links, locks and fsync')}"
        )
    return ok(root, "file system", kind)


def _kind(path: str) -> str:
    """Return the type of the file system that a path lies on, as proc(5) has it in mountinfo; the last mount counts."""
    best, kind = "", "unknown"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            point = left.split()[4].encode().decode("unicode_escape")
            if len(point) >= len(best) and f"{path}/".startswith(point.rstrip("/") + "/"):
                best, kind = point, right.split()[0]
    return kind


# what is tried


def _hard_links(root: str, name: str, probe: str) -> Check:
    source = _file(probe, "linked")
    try:
        Durable(probe).link(source, f"{probe}/link")
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        return warn(root, name, f"{error.strerror}: equal content is stored once for each repository")
    return ok(root, name, "equal content is stored once")


def _fsync(root: str, name: str, probe: str) -> Check:
    durable, started = Durable(probe), time.monotonic()
    with open(_file(probe, "synced"), "wb") as file:  # noqa: PTH123
        file.write(b"x")
        file.flush()
        durable.sync_file(file.fileno())
    durable.sync_directory(probe)
    return ok(root, name, f"a file and its directory are synced in {(time.monotonic() - started) * 1000:.1f} ms")


def _times(root: str, name: str, probe: str) -> Check:
    """Find by how much a file's time must grow to be another: what tells versions of index.json apart."""
    path = _file(probe, "times")
    start, step = os.stat(path).st_mtime_ns, 1
    while step <= 10 * _SECOND:
        os.utime(path, ns=(start + step, start + step))
        if os.stat(path).st_mtime_ns > start:
            text = f"times differ by {step} ns"
            return ok(root, name, text) if step < _COARSE else warn(root, name, f"{text}: that is coarse")
        step *= 10
    return fail(root, name, "a file's time cannot be set: changes of index.json would not be noticed")


def _clock(root: str, name: str, probe: str) -> Check:
    path = f"{probe}/clock"
    before = time.time()
    Path(path).write_bytes(b"x")
    apart = os.stat(path).st_mtime - before
    if abs(apart) > 2:  # noqa: PLR2004
        return warn(root, name, f"the file system's clock is {apart:+.0f} s apart from this machine's: set both (NTP)")
    return ok(root, name, "the file system's is this machine's")


def _locks(root: str, name: str, probe: str) -> Check:
    path = _file(probe, "lock")
    with open(path, "rb") as one, open(path, "rb") as other:  # noqa: PTH123
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ok(root, name, "flock keeps others out")
    return fail(root, name, "flock keeps nobody out: acknowledged tags could be lost; use another file system")


def _long_names(root: str, name: str, probe: str) -> Check:
    try:
        _file(probe, "n" * MAX_NAME)
    except OSError as error:
        return warn(root, name, f"{error.strerror}: repositories cannot have names of {MAX_NAME} characters")
    return ok(root, name, f"names of {MAX_NAME} characters can be stored")


def _file(probe: str, name: str) -> str:
    path = f"{probe}/{name}"
    Path(path).touch()
    return path


_PROBES: dict[str, Callable[[str, str, str], Check]] = {
    "hard links": _hard_links,
    "fsync": _fsync,
    "time stamps": _times,
    "clock": _clock,
    "locks": _locks,
    "long names": _long_names,
}


# what is there


def _contents(root: str) -> Iterator[Check]:
    """Look at what a store holds: owners, modes, times, and file systems that are mounted in it."""
    service, device = os.stat(root).st_uid, os.stat(root).st_dev
    foreign, closed, future, mounted = list[str](), list[str](), list[str](), list[str]()
    for path, status in islice(_walk(root), _LOOKED_AT):
        if status.st_uid != service:
            foreign.append(path)
        elif stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            closed.append(path)
        if status.st_mtime > time.time() + _FUTURE and path.endswith(INDEX):
            future.append(path)
        if status.st_dev != device:
            mounted.append(path)
    secret = [path for path, status in _walk(Layout(root).auth) if _is_open(status)]
    findings: dict[str, tuple[list[str], Callable[[str, str, str], Check], str, str]] = {
        "owners": (foreign, fail, f"do not belong to user {service}, as {root} does: chown them", "all has one owner"),
        "permissions": (closed, fail, "are closed to their owner: chmod u+rwx", "directories can be written to"),
        "future": (future, warn, "are from the future: was the clock wrong?", "no index is from the future"),
        "mounts": (mounted, warn, "lie on another file system, where content is copied", "all is one file system"),
        "secrets": (secret, fail, "can be read by others: chmod 600", "what is secret is its owner's alone"),
    }
    for name, (paths, make, wrong, right) in findings.items():
        if paths:
            yield make(root, name, f"{len(paths)} files or directories {wrong}; such as {paths[0]}")
        else:
            yield ok(root, name, right)


def _is_open(status: os.stat_result) -> bool:
    return bool(status.st_mode & 0o077) and not stat.S_ISDIR(status.st_mode)


def _walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all below a directory, with its own status and not that of what a link leads to."""
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            with suppress(FileNotFoundError):
                path = f"{directory}/{name}"
                yield path, os.lstat(path)
