"""Watched files whose time stamps do not tell, that go and come back, and that are broken twice in the same way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import watched
from registry.watched import WatchedFile

OLD = 10**18
Stamp = tuple[int, int, int, int]


@pytest.fixture
def stamped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Give a function that lets every file have these times of change, of its content and of itself."""

    def let(content: int, itself: int) -> None:
        def stamp(_status: os.stat_result) -> Stamp:
            return 1, 1, content, itself

        monkeypatch.setattr(watched, "_stamp_from", stamp)

    return let


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("young", ["content", "itself", "both"])
def test_a_young_file_is_read_though_its_stamp_is_the_same(
    path: Path, stamped: Callable[[int, int], None], young: str
) -> None:
    """A clock of coarse grain gives two changes one stamp, and whoever copies a file may give it any time of change."""
    now = time.time_ns()
    stamped(OLD if young == "itself" else now, OLD if young == "content" else now)
    path.write_text("1")
    file = WatchedFile(str(path), int)
    assert file.get() == 1
    path.write_text("2")
    assert file.get() == 2


def test_an_old_file_is_not_read_each_time(path: Path, stamped: Callable[[int, int], None]) -> None:
    stamped(OLD, OLD)
    path.write_text("1")
    file = WatchedFile(str(path), int)
    assert file.get() == 1
    path.write_text("2")
    assert file.get() == 1


def test_a_file_that_comes_back_as_it_was_holds_again(path: Path) -> None:
    path.write_text("1")
    file = WatchedFile(str(path), int, missing=0)
    seen = []
    for _ in range(3):
        seen.append((file.get(), file.generation))
        path.unlink()
        seen.append((file.get(), file.generation))
        path.write_text("1")
    assert [value for value, _ in seen] == [1, 0, 1, 0, 1, 0]
    assert [generation for _, generation in seen] == sorted({generation for _, generation in seen})


def test_the_same_fault_again_is_said_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("1")
    file = WatchedFile(str(path), int)
    file.get()
    for _ in range(2):
        path.write_text("x")
        assert [file.get() for _ in range(3)] == [1, 1, 1]
        path.write_text("1")
        assert file.get() == 1
    assert caplog.text.count("stays in force") == 2
