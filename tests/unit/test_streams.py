"""How much of a blob is in memory at once, where the kernel does not move it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from registry import create_app
from registry.config import default_config
from storage.local import FileStream, LocalBackend
from tests.unit.backends import content, push

MOST = 10 * 1024 * 1024
DATA = bytes(MOST + 1024 * 1024)


def test_a_blob_is_sent_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without `sendfile`, such as Flask's test client, reads a piece at a time."""
    digest = push(LocalBackend(str(tmp_path)), "team/app", DATA)
    pieces: list[int] = []

    class Noting(FileStream):
        def read(self, size: int = -1) -> bytes:
            data = super().read(size)
            pieces.append(len(data))
            return data

    monkeypatch.setattr("storage.local.FileStream", Noting)
    config = default_config()
    app = create_app(replace(config, storage=replace(config.storage, root_directory=str(tmp_path))))
    assert app.test_client().get(f"/v2/team/app/blobs/{digest}").data == DATA
    assert sum(pieces) == len(DATA)
    assert max(pieces) <= MOST


def test_a_blob_is_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that may not link copies a piece at a time."""
    backend = LocalBackend(str(tmp_path), dedupe=False)
    digest = push(backend, "team/app", DATA)
    pieces: list[int] = []

    class Noting(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            pieces.append(len(data))
            return data

    with monkeypatch.context() as patched:
        patched.setattr(io, "FileIO", Noting)
        backend.link_blob("team/app", "team/other", digest)
    assert content(backend, "team/other", digest, length=7) == DATA[:7]
    assert backend.blob_size("team/other", digest) == len(DATA)
    assert sum(pieces) == len(DATA)
    assert max(pieces) <= MOST
