"""The backends that the suite of the seam runs against: add a maker here and every test runs against it too."""

from __future__ import annotations

import io
from dataclasses import dataclass

from storage.backend import Backend, Redirect
from storage.digest import Digest
from storage.durable import Durable
from storage.local import LocalBackend


@dataclass(frozen=True)
class Local:
    """Open one place on local disk, as each worker process does for itself."""

    root: str
    dedupe: bool = True
    commit: bool = True

    def __call__(self) -> Backend:
        """Return a backend of its own, which shares nothing in memory with any other."""
        return LocalBackend(self.root, dedupe=self.dedupe, durable=Durable(self.root, commit=self.commit))


def push(backend: Backend, repository: str, data: bytes, algorithm: str = "sha256") -> Digest:
    """Upload a blob in one go."""
    session = backend.begin_upload(repository, algorithm)
    digest = Digest.of(data, algorithm)
    backend.commit_upload(repository, session, digest, io.BytesIO(data))
    return digest


def content(backend: Backend, repository: str, digest: Digest, start: int = 0, length: int | None = None) -> bytes:
    """Read a part of a blob to its end."""
    stream = backend.open_blob(repository, digest, start, length)
    assert not isinstance(stream, Redirect)
    try:
        return b"".join(iter(lambda: stream.read(7), b""))
    finally:
        stream.close()
