"""Each repository's bin: blobs that nothing referenced when they were looked at, and notes of what its index has lost.

A blob comes here by a rename, and leaves by one as soon as anybody asks for it; whoever of the two is late finds
nothing to rename, so neither needs a lock for being right. A note is written before the index changes.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache

from storage.backend import Binned
from storage.digest import ALGORITHMS, Digest, is_digest
from storage.durable import Durable, write_new
from storage.layout import Layout

_BATCH = "%Y%m%dT%H%M%SZ"


class Bin:
    """The bins of one store's repositories."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._layout = layout
        self._durable = durable

    # blobs

    def put(self, repository: str, digests: list[Digest], now: float) -> list[Binned]:
        """Move blobs into the bin, and tell which were there to be moved."""
        since = float(math.ceil(now))
        batch = datetime.fromtimestamp(since, UTC).strftime(_BATCH)
        moved = []
        for digest in digests:
            target = self._layout.binned(repository, batch, digest)
            self._durable.make_directory(os.path.dirname(target))
            with suppress(FileNotFoundError):
                self._move(self._layout.blob(repository, digest), target)
                moved.append(Binned(digest, batch, since, os.stat(target).st_size))
        return moved

    def _move(self, source: str, target: str) -> None:
        """Rename a file, or drop the link of it that the bin has already: to rename one onto another does nothing.

        Which it is has to be known before: after a rename, two links would be those of who has just taken it back.
        """
        if os.path.exists(target) and os.path.samefile(source, target):
            os.unlink(source)
        else:
            self._durable.rename(source, target)

    def take_back(self, repository: str, digest: Digest) -> bool:
        """Give a blob its place again if it is in the bin; tell whether it was."""
        for batch in self._batches(repository):
            with suppress(FileNotFoundError):
                self._durable.rename(
                    self._layout.binned(repository, batch, digest), self._layout.blob(repository, digest)
                )
                return True
        return False

    def forget(self, repository: str, digest: Digest) -> bool:
        """Unlink a blob that is in its place from the bin, too; tell whether it was there."""
        found = False
        for batch in self._batches(repository):
            with suppress(FileNotFoundError):
                os.unlink(self._layout.binned(repository, batch, digest))
                found = True
        return found

    def blobs(self, repository: str) -> Iterator[Binned]:
        """Yield the blobs in the bin; the caller may move or remove them meanwhile."""
        for batch in self._batches(repository):
            since = datetime.strptime(batch, _BATCH).replace(tzinfo=UTC).timestamp()
            for algorithm in ALGORITHMS:
                directory = f"{self._layout.bin(repository)}/{batch}/{algorithm}"
                with suppress(FileNotFoundError), os.scandir(directory) as entries:
                    for entry in entries:
                        if is_digest(name := f"{algorithm}:{entry.name}"):
                            with suppress(FileNotFoundError):
                                yield Binned(Digest(name), batch, since, entry.stat().st_size)

    def is_empty(self, repository: str) -> bool:
        """Tell whether no blob can be in the bin."""
        return not self._batches(repository)

    def drop(self, repository: str, blob: Binned) -> bool:
        """Unlink a blob for good, unless somebody has just taken it back; tell whether it went."""
        try:
            os.unlink(self._layout.binned(repository, blob.batch, blob.digest))
        except FileNotFoundError:
            return False
        return True

    def tidy(self, repository: str) -> None:
        """Remove the parts of the bin that are empty."""
        for batch in self._batches(repository):
            path = f"{self._layout.bin(repository)}/{batch}"
            for directory in (*(f"{path}/{algorithm}" for algorithm in ALGORITHMS), path):
                with suppress(OSError):  # it is missing, or not empty
                    os.rmdir(directory)

    def sync(self, repository: str) -> None:
        """Make what has come into the bin durable there: its old place may be forgotten at any moment."""
        for batch in self._batches(repository):
            for algorithm in ALGORITHMS:
                with suppress(FileNotFoundError):
                    self._durable.sync_directory(f"{self._layout.bin(repository)}/{batch}/{algorithm}")

    def _batches(self, repository: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._layout.bin(repository)) if _is_batch(name))
        except (FileNotFoundError, NotADirectoryError):
            return []

    # notes

    def note(self, repository: str, data: bytes) -> None:
        """Write down what the index is about to lose; durable on return."""
        directory = self._layout.undo(repository)
        self._durable.make_directory(directory)
        write_new(self._durable, f"{directory}/{time.time_ns():020d}-{secrets.token_hex(4)}.json", data)

    def notes(self, repository: str) -> list[tuple[str, bytes]]:
        """Return the notes with their names, oldest first; who removes one meanwhile is not waited for."""
        directory, found = self._layout.undo(repository), []
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(directory)):
                with suppress(FileNotFoundError), open(f"{directory}/{name}", "rb") as file:  # noqa: PTH123
                    found.append((name, file.read()))
        return found

    def drop_note(self, repository: str, name: str) -> None:
        """Remove a note, if it is still there."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self._layout.undo(repository)}/{name}")


@lru_cache(maxsize=1024)
def _is_batch(name: str) -> bool:
    try:
        datetime.strptime(name, _BATCH).replace(tzinfo=UTC)
    except ValueError:
        return False
    return True
