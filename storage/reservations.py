"""Reservations: what pushes under way will come to, for all workers to see.

Each is a file that the process which serves the push holds locked, so that a reservation ends with its process, however
that ends. Whoever makes, changes or lists reservations holds the one lock of the quotas; to end one takes no lock.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import orjson

from storage import locks
from storage.digest import Digest


@dataclass(frozen=True, slots=True)
class Claim:
    """What one push may come to: `size` bytes in all; it may have an upload session, and a digest that is known."""

    id: str
    repository: str
    size: int
    session: str | None = None
    digest: Digest | None = None


class Reservations:
    """The reservations of one registry, in a directory of their own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    @contextmanager
    def hold(self) -> Iterator[Reservation]:
        """Yield a reservation of nothing, which ends with the block. Entered while the lock of the quotas is held."""
        os.makedirs(self._directory, exist_ok=True)
        name = str(uuid.uuid4())
        path = f"{self._directory}/{name}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            locks.try_exclusive(descriptor)
            yield Reservation(name, descriptor)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.close(descriptor)

    def claims(self) -> list[Claim]:
        """Return what is reserved; remove what processes that have died left behind."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return [claim for name in names if (claim := self._read(f"{self._directory}/{name}"))]

    def _read(self, path: str) -> Claim | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # it has just ended
            return None
        try:
            if not locks.try_exclusive(descriptor):
                return _parse(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
            with suppress(FileNotFoundError):
                os.unlink(path)
            return None
        finally:
            os.close(descriptor)


class Reservation:
    """A reservation of this process."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.id = name
        self._descriptor = descriptor

    def write(self, claim: Claim) -> None:
        """Reserve this from now on."""
        data = orjson.dumps(claim)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)


def _parse(data: bytes) -> Claim | None:
    """Return a claim; None of a file that is only just being made, or that a full disk has cut off."""
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return Claim(**fields)
