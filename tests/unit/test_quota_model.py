"""Whatever is done to a store, what a quota finds used is what a walk over the disk does, and within the limit."""

from __future__ import annotations

import io
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage.digest import Digest
from storage.errors import QuotaExceeded, StorageError
from storage.image_store import ImageStore
from storage.local import LocalBackend
from storage.names import lies_in
from storage.quota import Quotas, guarded

LIMITS = {"": 40, "a": 25, "a/b": 12}
REPOSITORIES = ("a", "a/b", "ab", "c")
BLOBS = [bytes([number]) * size for number, size in enumerate((0, 1, 5, 8, 12, 13, 25))]

repositories = st.sampled_from(REPOSITORIES)
blobs = st.sampled_from(BLOBS)


def walked(root: Path, prefix: str) -> int:
    """Add up, in the plainest way, the distinct blobs and the sessions of the repositories of a prefix."""
    found: dict[str, int] = {}
    for name in REPOSITORIES:
        if lies_in(name, prefix):
            files = [*(root / name).glob("blobs/*/*"), *(root / name).glob(".uploads/*")]
            found.update({path.name: path.stat().st_size for path in files if path.suffix != ".note"})
    return sum(found.values())


class Pushing(RuleBasedStateMachine):
    """Two workers on one store, which take turns."""

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.workers = [self.open() for _ in range(2)]
        self.turn = 0
        self.sessions: list[tuple[str, str, bytes]] = []

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def open(self) -> tuple[Quotas, ImageStore]:
        backend = LocalBackend(str(self.root))
        quotas = Quotas(str(self.root / ".pierhead/quotas"), LIMITS, None, {"": backend})
        return quotas, ImageStore(guarded(backend, quotas))

    @property
    def store(self) -> ImageStore:
        self.turn += 1
        return self.workers[self.turn % 2][1]

    def room(self, repository: str) -> int:
        return min(limit - walked(self.root, prefix) for prefix, limit in LIMITS.items() if lies_in(repository, prefix))

    @rule(repository=repositories, data=blobs)
    def push(self, repository: str, data: bytes) -> None:
        room = self.room(repository)
        try:
            self.store.push_blob(repository, Digest.of(data), io.BytesIO(data))
        except QuotaExceeded:
            assert len(data) > room, "what has room is not refused"

    @rule(repository=repositories, source=repositories, data=blobs, named=st.booleans())
    def mount(self, repository: str, source: str, data: bytes, named: bool) -> None:
        with suppress(QuotaExceeded):
            self.store.mount(repository, Digest.of(data), source if named else None)

    @rule(repository=repositories, data=blobs)
    def delete(self, repository: str, data: bytes) -> None:
        with suppress(StorageError):
            self.store.delete_blob(repository, Digest.of(data))

    @rule(repository=repositories, data=blobs)
    def begin(self, repository: str, data: bytes) -> None:
        self.sessions.append((repository, self.store.begin_upload(repository, "sha256"), data))

    @rule(number=st.integers(0, 3), part=st.integers(1, 6))
    def append(self, number: int, part: int) -> None:
        for repository, session, data in self.sessions[number : number + 1]:
            with suppress(StorageError):
                done = self.store.upload_size(repository, session)
                self.store.append_upload(repository, session, io.BytesIO(data[done : done + part]))

    @rule(number=st.integers(0, 3), finish=st.booleans())
    def end(self, number: int, finish: bool) -> None:
        for repository, session, data in self.sessions[number : number + 1]:
            self.sessions.pop(number)
            with suppress(StorageError):
                if finish:
                    done = self.store.upload_size(repository, session)
                    self.store.finish_upload(repository, session, Digest.of(data), io.BytesIO(data[done:]))
                else:
                    self.store.cancel_upload(repository, session)

    @invariant()
    def what_is_used_is_what_lies_there_and_within_the_limit(self) -> None:
        for quotas, _ in self.workers:
            for usage in quotas.usages():
                assert usage.used == walked(self.root, usage.prefix)
                assert usage.used <= usage.limit

    @invariant()
    def nothing_stays_reserved(self) -> None:
        assert list((self.root / ".pierhead/quotas/pushes").glob("*")) == []


Pushing.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPushing = Pushing.TestCase
