"""When manifests were last pulled: the times of empty files, which any number of workers set without a lock.

Nothing is ever synced here. What a power loss takes is known from a later moment on, and `since` says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress

from storage.cache import Cache
from storage.digest import Digest, is_digest
from storage.layout import Layout

_PAUSE = 60.0  #: seconds within which another pull of the same manifest is not written down by the same worker
_REMEMBERED = 10_000


class Pulls:
    """The times of the pulls from one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._recorded: Cache[tuple[str, str], float] = Cache(_REMEMBERED)

    def record(self, repository: str, digest: Digest) -> None:
        """Remember that a manifest is pulled now; a disk that is full or read-only makes no pull fail."""
        now = time.monotonic()
        last = self._recorded.get((repository, digest))
        if last is not None and now < last + _PAUSE:
            return
        self._recorded.put((repository, digest), now)
        with suppress(OSError):
            self.begin()
            _touch(self._layout.pull(repository, digest))

    def begin(self) -> None:
        """Let pulls be known from now on, if they are not yet."""
        if not os.path.exists(self._layout.pulls_since):
            _touch(self._layout.pulls_since)

    def since(self) -> float:
        """Return from what time on pulls are known, in seconds since the epoch."""
        try:
            return os.stat(self._layout.pulls_since).st_mtime
        except FileNotFoundError:
            return time.time()

    def times(self, repository: str) -> dict[str, float]:
        """Return when manifests were last pulled, by digest, in seconds since the epoch."""
        found = {}
        with suppress(FileNotFoundError), os.scandir(self._layout.pulls(repository)) as entries:
            for entry in entries:
                digest = entry.name.replace("-", ":", 1)
                with suppress(FileNotFoundError):
                    if is_digest(digest):
                        found[digest] = entry.stat().st_mtime
        return found

    def forget(self, repository: str, digests: Iterable[str]) -> None:
        """Drop the times of manifests that are gone."""
        for digest in digests:
            with suppress(FileNotFoundError):
                os.unlink(self._layout.pull(repository, Digest(digest)))
        with suppress(OSError):  # it is missing, or not empty
            os.rmdir(self._layout.pulls(repository))


def _touch(path: str) -> None:
    """Let a file be changed now; make it when it is missing."""
    try:
        os.utime(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
