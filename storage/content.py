"""Content that is known to be right, to compare with what lies on the disk: damage is not seen by its size."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

#: Returns at most so many bytes from an offset, as `os.pread` does; none where the content has ended.
Content: TypeAlias = Callable[[int, int], bytes]

_CHUNK = 1024 * 1024


def of_bytes(data: bytes) -> Content:
    """Return what is in memory as content."""
    return lambda size, offset: data[offset : offset + size]


def of_file(descriptor: int) -> Content:
    """Return what is in an open file as content."""
    return partial(os.pread, descriptor)


def is_same(descriptor: int, content: Content) -> bool:
    """Tell whether an open file has this content; one that the disk cannot read has not."""
    offset = 0
    while True:
        right = content(_CHUNK, offset)
        try:
            found = os.pread(descriptor, _CHUNK, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        if found != right:
            return False
        if not right:
            return True
        offset += len(right)
