"""Whose the files are that a command writes: what root writes for a service must stay readable to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def acting_as_owner(path: str) -> Iterator[None]:
    """Be the owner of the directory that `path` lies in while the block runs, if we are root and they are not.

    New files are theirs then, and no symbolic link of theirs leads root astray. Where `path` is a link of root's, the
    directory is the one that it leads to. For commands only: it holds for all threads of the process.
    """
    directories = [_nearest(os.path.dirname(name)) for name in (os.path.abspath(path), os.path.realpath(path))]
    owner = next((status for status in map(os.stat, directories) if status.st_uid != 0), None)
    if os.geteuid() != 0 or owner is None:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    try:
        # Root without its privileges, as in some containers, can neither do this nor give files away.
        with suppress(PermissionError):
            os.setgroups([])
            os.setegid(owner.st_gid)
            os.seteuid(owner.st_uid)
        yield
    finally:
        with suppress(PermissionError):
            os.seteuid(0)
            os.setegid(group)
            os.setgroups(groups)


def _nearest(directory: str) -> str:
    """Find the directory, else the nearest one above it that is there."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory
