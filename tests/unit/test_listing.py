"""When the local backend remembers what is in a directory: never where a change could escape it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.local import LocalBackend

SECOND = 1_000_000_000


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(str(tmp_path))


@pytest.fixture
def let_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give a function that moves the clock on."""

    def let_pass(seconds: float) -> None:
        now = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: now() + int(seconds * SECOND))

    return let_pass


def create(backend: LocalBackend, repository: str) -> None:
    with backend.lock(repository):
        backend.swap_index(repository, b"{}", None)


def test_a_change_within_one_tick_of_the_clock_is_seen(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that changes twice in a moment may bear the same time stamps after both changes."""
    monkeypatch.setattr("storage.listing.stamp", lambda status: (status.st_ino, 0, status.st_mtime_ns, 0))
    create(backend, "first")
    assert list(backend.repositories()) == ["first"]
    listed = tmp_path.stat()
    create(backend, "second")
    os.utime(tmp_path, ns=(listed.st_atime_ns, listed.st_mtime_ns))
    assert list(backend.repositories()) == ["first", "second"]


def test_a_directory_that_has_settled_is_not_read_again(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, let_pass: Callable[[float], None]
) -> None:
    create(backend, "first")
    let_pass(10)
    assert list(backend.repositories()) == ["first"]
    scandir = os.scandir
    read: list[str] = []

    def note(path: str) -> object:
        read.append(os.path.normpath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", note)
    assert list(backend.repositories()) == ["first"]
    assert read == []
    create(backend, "second")
    assert list(backend.repositories()) == ["first", "second"]
    assert str(tmp_path) in read
