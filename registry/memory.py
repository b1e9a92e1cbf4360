"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import time

_SECONDS = 5.0  #: between two times that it is given back

_M_ARENA_MAX = -8  #: of glibc's malloc.h

#: Of glibc alone; others give back by themselves what they can.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None)


def share_one_heap() -> None:
    """Let all threads allocate from one heap, for which the interpreter's lock makes them take turns anyway.

    With a heap for each, what one has freed is of no use to the others: 9 of 76 MB after three times 1,000 tags.
    """
    if _mallopt is not None:
        _mallopt(_M_ARENA_MAX, 1)


class Trimmer:
    """Let the C library give back, now and then, what threads have freed: by itself it keeps that for each of them."""

    def __init__(self) -> None:
        """Begin to count the seconds."""
        self._next = time.monotonic() + _SECONDS
        self._requests = 0

    def is_due(self, requests: int) -> bool:
        """Tell whether it is time, where so many requests were served in all; not if there were none since."""
        now = time.monotonic()
        if now < self._next or requests == self._requests:
            return False
        self._next, self._requests = now + _SECONDS, requests
        return True

    def trim(self) -> None:
        """Give back whole pages that hold nothing, wherever they are; takes milliseconds, without the interpreter."""
        if _malloc_trim is not None:
            _malloc_trim(0)
