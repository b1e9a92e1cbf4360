"""Quotas: how many bytes the repositories of a prefix may hold, and how many repositories there may be.

What a prefix uses is looked up on disk, never kept count of: the bytes of the distinct blobs of its repositories, of
the upload sessions under way, and what pushes under way have reserved. To look costs a few system calls for each
repository of the prefix, so what was found is noted, and so is what was granted since: as long as both together leave
room, nobody has to look again. Deletions only make that bound too high, and what comes by other ways than a push (an
operator's tools, a blob that is taken back from the bin) is seen when the note has grown old; nothing is refused but
after a look.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import orjson

from storage import locks
from storage.backend import Backend, Source, Version, has_blob
from storage.digest import Digest
from storage.errors import QuotaExceeded, UploadOutOfOrder, UploadUnknown
from storage.names import lies_in, longest_prefix
from storage.reservations import Claim, Reservation, Reservations
from storage.sizes import show_size

_STEP = 4 * 1024 * 1024  #: bytes that are reserved at a time for a body whose length nobody knows
_OLD = 60.0  #: seconds after which what was found to be used is looked up again


@runtime_checkable
class Measured(Protocol):
    """A source that may know how much is still to come."""

    @property
    def left(self) -> int | None:
        """Return how many bytes `read` will still return, or None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the repositories of a prefix ("" for all) use, and may use, in bytes."""

    prefix: str
    used: int
    limit: int


class Quotas:
    """The quotas of a registry, for all its stores and all its workers.

    `directory` is for what the workers share; `limits` are bytes by prefix, of which each that covers a repository
    counts; `stores` are the backends by the prefixes of their repositories' names.
    """

    def __init__(
        self,
        directory: str,
        limits: Mapping[str, int],
        max_repositories: int | None,
        stores: Mapping[str, Backend],
    ) -> None:
        self._lock = f"{directory}/lock"
        self._bounds = _Bounds(f"{directory}/usage")
        self._reservations = Reservations(f"{directory}/pushes")
        self._limits = dict(sorted(limits.items()))
        self._max_repositories = max_repositories
        self._stores = stores

    def covering(self, repository: str) -> list[str]:
        """Return the prefixes whose quotas count for a repository, the widest first."""
        return [prefix for prefix in self._limits if lies_in(repository, prefix)]

    def usages(self) -> list[Usage]:
        """Look up what each prefix with a quota uses, pushes under way included."""
        if not os.path.exists(self._lock):  # nobody has pushed yet
            return [Usage(prefix, self._used(prefix, [])[0], limit) for prefix, limit in self._limits.items()]
        with locks.exclusive(self._lock):
            claims = self._reservations.claims()
            return [Usage(prefix, self._used(prefix, claims)[0], limit) for prefix, limit in self._limits.items()]

    # bytes

    @contextmanager
    def reserve(self, claim: Claim, held: int = 0) -> Iterator[Push]:
        """Reserve while the block runs what a push claims, of which `held` bytes are used already; QuotaExceeded."""
        with ExitStack() as stack:
            with locks.exclusive(self._lock):
                reservation = stack.enter_context(self._reservations.hold())
                push = Push(self, reservation, replace(claim, id=reservation.id, size=held))
                self.grant(push, claim.size)
            yield push

    def extend(self, push: Push, size: int) -> None:
        """Reserve `size` bytes in all for a push of unknown length, and some more where there is room for it."""
        with locks.exclusive(self._lock):
            try:
                self.grant(push, size + _STEP, open_ended=True)
            except QuotaExceeded:
                self.grant(push, size, open_ended=True)

    def grant(self, push: Push, size: int, *, open_ended: bool = False) -> None:
        """Let a push have `size` bytes in all; the lock is held. Raises QuotaExceeded, and nothing has changed then."""
        before, wanted = push.claim.size, replace(push.claim, size=size)
        push.reservation.write(wanted)
        try:
            for prefix in self.covering(wanted.repository) if size > before else ():
                if not self._bounds.add(prefix, size - before, self._limits[prefix]):
                    self._look(prefix, wanted, before, open_ended)
        except BaseException:
            push.reservation.write(push.claim)
            raise
        push.claim = wanted

    def _look(self, prefix: str, wanted: Claim, before: int, open_ended: bool) -> None:
        """Decide by what is used now; a push that costs a full prefix nothing is let through."""
        limit = self._limits[prefix]
        others, cost = self._used(prefix, self._reservations.claims(), wanted)
        if others + cost > limit and cost > before:
            raise _exceeded(prefix, others, limit, cost, open_ended)
        self._bounds.start(prefix, others + cost)

    def _used(self, prefix: str, claims: list[Claim], mine: Claim | None = None) -> tuple[int, int]:
        """Return the bytes that a prefix uses, without those of a claim of one's own, and what that one costs.

        A session is looked at before its repository's blobs, and the claims before both: what moves on meanwhile is
        seen at least once. What is seen twice is told by its session or its digest.
        """
        sessions: dict[str, int] = {}
        contents: dict[Digest, int] = {}
        for backend, name in self._places(prefix):
            sessions.update(backend.uploads(name))
            contents.update(backend.contents(name))
        used = sum(contents.values())
        others = [claim for claim in claims if lies_in(claim.repository, prefix) and (not mine or claim.id != mine.id)]
        costs = [_cost(claim, sessions, contents) for claim in others]
        cost = _cost(mine, sessions, contents) if mine else 0
        claimed = {claim.session for claim in (*others, *((mine,) if mine else ()))}
        waiting = sum(size for session, size in sessions.items() if session not in claimed)
        return used + waiting + sum(costs), cost

    def _places(self, prefix: str) -> Iterator[tuple[Backend, str]]:
        """Yield the names that lie in a prefix and may hold anything, each with the backend that holds it."""
        for store, backend in self._stores.items():
            if lies_in(store, prefix) or lies_in(prefix, store):
                for name in backend.places(prefix=max(store, prefix, key=len)):
                    if longest_prefix(name, self._stores) == store:
                        yield backend, name

    # repositories

    @contextmanager
    def making(self, repository: str) -> Iterator[None]:
        """Let nobody else make a repository while the block makes this one; raise QuotaExceeded if there is no room."""
        if self._max_repositories is None:
            yield
            return
        with locks.exclusive(self._lock):
            self.check_room(repository)
            yield

    def check_room(self, repository: str) -> None:
        """Raise QuotaExceeded if the repository does not exist, and there are as many as there may be."""
        most = self._max_repositories
        if most is None or self._exists(repository):
            return
        if self.count(most) >= most:
            raise QuotaExceeded(
                f"this registry may have {most} repositories, and has them: {repository} would be one more",
                repositories=most,
                limit=most,
            )

    def count(self, most: int | None = None) -> int:
        """Return how many repositories there are, or `most` if there are more."""
        return sum(1 for _ in islice(self._repositories(), most))

    def _exists(self, repository: str) -> bool:
        backend = self._stores[longest_prefix(repository, self._stores)]
        return backend.index_version(repository) is not None

    def _repositories(self) -> Iterator[str]:
        for store, backend in self._stores.items():
            for name in backend.repositories(store):
                if longest_prefix(name, self._stores) == store:
                    yield name


class Push:
    """A push under way, with what is reserved for it."""

    def __init__(self, quotas: Quotas, reservation: Reservation, claim: Claim) -> None:
        self._quotas = quotas
        self.reservation = reservation
        self.claim = claim

    def grow_to(self, size: int) -> None:
        """Make sure that so many bytes are reserved; raise QuotaExceeded."""
        if size > self.claim.size:
            self._quotas.extend(self, size)


def guarded(below: Backend, quotas: Quotas) -> Backend:
    """Return a backend that refuses what passes a quota."""
    return QuotaBackend(below, quotas)  # type: ignore[abstract]  # `__getattr__` does the rest


if TYPE_CHECKING:
    _Wrapped = Backend
else:
    _Wrapped = object


class QuotaBackend(_Wrapped):
    """A backend that refuses what passes a quota; what is not here, the backend below does."""

    def __init__(self, below: Backend, quotas: Quotas) -> None:
        self._below = below
        self._quotas = quotas

    def __getattr__(self, name: str) -> Any:
        """Hand on what quotas have nothing to do with."""
        return getattr(self._below, name)

    def begin_upload(self, repository: str, algorithm: str) -> str:
        """Start an upload, unless its repository cannot be made."""
        self._quotas.check_room(repository)
        return self._below.begin_upload(repository, algorithm)

    def append_upload(self, repository: str, session: str, body: Source, start: int | None = None) -> int:
        """Append as much as there is room for; raise QuotaExceeded, after which the session is gone."""
        with self._receiving(repository, session, body, start) as measured:
            return self._below.append_upload(repository, session, measured, start)

    def commit_upload(
        self, repository: str, session: str, digest: Digest, body: Source, start: int | None = None
    ) -> None:
        """Append the last of an upload and make it a blob; raise QuotaExceeded, after which the session is gone."""
        with self._receiving(repository, session, body, start, digest) as measured:
            self._below.commit_upload(repository, session, digest, measured, start)

    def put_blob(self, repository: str, digest: Digest, data: bytes) -> None:
        """Store a small blob if there is room for it."""
        with self._adding(repository, digest, len(data)):
            self._below.put_blob(repository, digest, data)

    def link_blob(self, source: str, target: str, digest: Digest) -> None:
        """Mount a blob if there is room for it."""
        with self._adding(target, digest, self._below.blob_size(source, digest)):
            self._below.link_blob(source, target, digest)

    def adopt_file(self, repository: str, digest: Digest, descriptor: int, body: Source) -> bool:
        """Link a file if there is room for it."""
        with self._adding(repository, digest, os.fstat(descriptor).st_size):
            return self._below.adopt_file(repository, digest, descriptor, body)

    def find_blob(self, target: str, digest: Digest) -> bool:
        """Mount a blob that is anywhere, if there is room for it."""
        size = self._below.findable(digest)
        if size is None:
            return False
        with self._adding(target, digest, size):
            return self._below.find_blob(target, digest)

    def swap_index(self, repository: str, data: bytes, expected: Version | None) -> Version:
        """Replace the index; the first one makes a repository, for which there must be room."""
        if expected is not None:
            return self._below.swap_index(repository, data, expected)
        with self._quotas.making(repository):
            return self._below.swap_index(repository, data, expected)

    @contextmanager
    def _adding(self, repository: str, digest: Digest, size: int) -> Iterator[None]:
        """Reserve room for a blob of a known size while the block stores it."""
        self._quotas.check_room(repository)
        if self._quotas.covering(repository) and not has_blob(self._below, repository, digest):
            with self._quotas.reserve(Claim("", repository, size, digest=digest)):
                yield
        else:
            yield

    @contextmanager
    def _receiving(
        self, repository: str, session: str, body: Source, start: int | None, digest: Digest | None = None
    ) -> Iterator[Source]:
        """Reserve room for what a session holds and the body brings; drop the session if there is none."""
        if not self._quotas.covering(repository):
            yield body
            return
        held = self._below.upload_size(repository, session)
        left = body.left if isinstance(body, Measured) else None
        claim = Claim("", repository, held + (left or 0), session, digest)
        try:
            with self._quotas.reserve(claim, held) as push:
                yield _Metered(body, push, held)
        except QuotaExceeded:
            if start is None or start == held:  # else it is not this request's turn
                with suppress(UploadUnknown, UploadOutOfOrder):
                    self._below.abort_upload(repository, session)
            raise


class _Metered:
    """A body that reserves room as it is read."""

    def __init__(self, body: Source, push: Push, size: int) -> None:
        self._body = body
        self._push = push
        self._size = size

    def read(self, size: int, /) -> bytes:
        """Return what the body has; raise QuotaExceeded once that is more than there is room for."""
        data = self._body.read(size)
        self._size += len(data)
        self._push.grow_to(self._size)
        return data


class _Bounds:
    """What each prefix uses at most, noted for all workers: what was found by a look, and what was granted since."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def start(self, prefix: str, used: int) -> None:
        """Note what a look has found."""
        self._write(prefix, {"at": time.time(), "most": used})

    def add(self, prefix: str, size: int, limit: int) -> bool:
        """Note that more is granted, if it is sure that there is room for it; tell whether it was."""
        note = self._read(prefix)
        age, most = time.time() - note.get("at", -math.inf), note.get("most", 0) + size
        if not 0 <= age < _OLD or most > limit:
            return False
        self._write(prefix, {**note, "most": most})
        return True

    def _read(self, prefix: str) -> dict[str, float]:
        """Return the note; an empty one where it is missing, or was cut off by a crash."""
        try:
            with open(self._path(prefix), "rb") as file:  # noqa: PTH123
                note: dict[str, float] = orjson.loads(file.read())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}
        return note

    def _write(self, prefix: str, note: dict[str, float]) -> None:
        os.makedirs(self._directory, exist_ok=True)
        with open(self._path(prefix), "wb") as file:  # noqa: PTH123
            file.write(orjson.dumps(note))

    def _path(self, prefix: str) -> str:
        return f"{self._directory}/{prefix.replace('/', '%') or '%'}"


def _cost(claim: Claim, sessions: Mapping[str, int], contents: Mapping[Digest, int]) -> int:
    """Return what a push adds to a prefix: nothing where that has the very content already."""
    size = max(claim.size, sessions.get(claim.session or "", 0))
    return max(size - contents.get(claim.digest, 0), 0) if claim.digest else size


def _exceeded(prefix: str, used: int, limit: int, asked: int, open_ended: bool) -> QuotaExceeded:
    where = f"the quota of {prefix}" if prefix else "the quota of this registry"
    more = " or more" if open_ended else ""
    return QuotaExceeded(
        f"{where} is {show_size(limit)}, of which {show_size(used)} are used: this push needs {show_size(asked)}{more}",
        prefix=prefix or "/",
        used=used,
        limit=limit,
        asked=asked,
    )
