"""Locks that hold across threads and processes: flock on files that are never unlinked.

flock, not lockf: its locks belong to the open file, so that two threads exclude each other too, and closing some
other descriptor of the same file does not drop them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exclusive(path: str, *, wait: bool = True) -> Iterator[int]:
    """Hold the lock on the file at `path`, made when missing, while the block runs; yield its descriptor.

    Without `wait`, raises BlockingIOError if somebody else has it.
    """
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


def try_exclusive(descriptor: int) -> bool:
    """Lock an open file if nobody else has it, until it is closed; tell whether that worked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o644)
