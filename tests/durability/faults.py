"""Steps of storage/ that fail as the operating system lets them fail: once, or from one step on."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import storage
from tests.durability.disk import Disk

_STORAGE = str(Path(storage.__file__).parent)
_STEPS = {
    "open": errno.ENOSPC,
    "write": errno.ENOSPC,
    "pwrite": errno.ENOSPC,
    "mkdir": errno.ENOSPC,
    "link": errno.ENOSPC,
    "rename": errno.ENOSPC,
    "utime": errno.EIO,
    "fsync": errno.EIO,
}


class Faults:
    """Count the steps that change the disk; when `armed`, let the one with that number fail.

    A write that fails has written half. With `lasting`, all later steps fail too.
    """

    def __init__(self, disk: Disk, patch: pytest.MonkeyPatch) -> None:
        """Take the place of the functions of the module os."""
        self._disk = disk
        self._count = 0
        self._at = 0
        self._lasting = False
        self.fired = False
        for name in _STEPS:
            patch.setattr(os, name, self._failing(name, getattr(os, name)))
        patch.setattr(Path, "write_bytes", self._failing("write", Path.write_bytes))

    def arm(self, at: int, *, lasting: bool = False) -> None:
        """Let the step with this number, counted from 1 and from now on, fail."""
        self._count, self._at, self._lasting, self.fired = 0, at, lasting, False

    def disarm(self) -> None:
        """Let nothing fail any more."""
        self._at = 0

    def _failing(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            if self._at and _is_ours(sys._getframe(1)) and self._is_due():
                self._fail(name, original, args)
            return original(*args, **options)

        return step

    def _is_due(self) -> bool:
        self._count += 1
        due = self._count >= self._at if self._lasting else self._count == self._at
        self.fired = self.fired or due
        return due

    def _fail(self, name: str, original: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if name == "fsync":
            self._disk.fail(args[0])
        if name in ("write", "pwrite"):
            where, data, *offset = args
            original(where, bytes(data[: len(data) // 2]), *offset)
        raise OSError(_STEPS[name], os.strerror(_STEPS[name]))


def _is_ours(frame: FrameType | None) -> bool:
    """Tell whether the call comes from storage/, if need be by way of os.makedirs."""
    while frame is not None and frame.f_code.co_filename == os.__file__:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_STORAGE)
