"""The steps of storage/ that change the disk, one of which fails, or is the last one that its process takes."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import pytest

import storage
from tests.durability.disk import Disk

_STORAGE = os.path.dirname(storage.__file__)
_NAMES = ("open", "write", "fchown", "fchmod", "fsync", "rename", "mkdir")
_ALL_NAMES = (*_NAMES, "link", "unlink", "rmdir", "utime")

#: What happens instead of a step: told its name, the function and its arguments.
Instead = Callable[[str, Callable[..., Any], tuple[Any, ...]], NoReturn]


class Steps:
    """Count the steps; at the one with the number, or from it on, something else happens instead."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        number: int,
        instead: Instead,
        *,
        lasting: bool = False,
        names: Sequence[str] = _NAMES,
    ) -> None:
        """Take the place of the functions of the module os with these names."""
        self.fired = False
        self._left = number
        self._instead = instead
        self._lasting = lasting
        for name in names:
            patch.setattr(os, name, partial(self._step, name, getattr(os, name)))

    def _step(self, name: str, original: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if sys._getframe(1).f_code.co_filename.startswith(_STORAGE):
            self._left -= 1
            if self._left == 0 or (self._lasting and self._left < 0):
                self.fired = True
                self._instead(name, original, args)
        return original(*args, **options)


def fail(disk: Disk, error: int, name: str, original: Callable[..., Any], args: tuple[Any, ...]) -> NoReturn:
    """Fail as the operating system does: a write has written half, and an fsync says only once that it failed."""
    if name == "fsync" and stat.S_ISREG(os.fstat(args[0]).st_mode):
        disk.fail(args[0])
    _write_half(name, original, args)
    raise OSError(error, os.strerror(error))


def die(name: str, original: Callable[..., Any], args: tuple[Any, ...]) -> NoReturn:
    """End this process as kill -9 does, a write in the middle."""
    _write_half(name, original, args)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def dies_at(number: int, write: Callable[[], object]) -> bool:
    """Carry a write out in a process of its own that is killed at the step with this number; tell whether it was."""
    pid = os.fork()
    if pid == 0:
        try:
            Steps(pytest.MonkeyPatch(), number, die, names=_ALL_NAMES)
            write()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def _write_half(name: str, original: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if name == "write":
        descriptor, data = args
        original(descriptor, bytes(data[: len(data) // 2]))
