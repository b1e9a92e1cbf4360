"""Files that are read again when they change, and what stays in force when they are broken."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from registry.watched import WatchedFile


def number(data: bytes) -> int:
    return int(data.decode())


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    file = WatchedFile(str(path), number)
    assert (file.get(), file.generation) == (1, 1)
    assert (file.get(), file.generation) == (1, 1)
    path.write_text("2")
    assert (file.get(), file.generation) == (2, 2)


def test_a_change_that_no_time_stamp_shows_is_seen(tmp_path: Path) -> None:
    """Two writes within the clock's grain leave equal stamps, and equal sizes."""
    path = tmp_path / "file"
    for value in range(10, 99):
        path.write_text(str(value))
        os.utime(path, ns=(10**18, 10**18))
        file = WatchedFile(str(path), number)
        file.get()
        path.write_text(str(value + 1))
        os.utime(path, ns=(10**18, 10**18))
        assert file.get() == value + 1


def test_what_was_refused_is_not_parsed_at_each_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But again after a while: what it was refused for may lie in another file."""
    path, parsed, good = tmp_path / "file", list[bytes](), False

    def parse(data: bytes) -> int:
        parsed.append(data)
        return 2 if good else number(data)

    path.write_text("1")
    file = WatchedFile(str(path), parse)
    file.get()
    path.write_text("x")
    assert [file.get() for _ in range(5)] == [1] * 5
    assert parsed == [b"1", b"x"]
    assert len(caplog.records) == 1
    good, now = True, time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2.1)
    assert file.get() == 2


def test_a_replaced_file_is_read_again_though_it_is_old(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("1")
    other.write_text("2")
    for each in (path, other):
        os.utime(each, ns=(10**18, 10**18))
    file = WatchedFile(str(path), number)
    file.get()
    other.rename(path)
    assert file.get() == 2


def test_what_was_good_stays_and_the_fault_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    file = WatchedFile(str(path), number)
    file.get()
    with caplog.at_level(logging.ERROR):
        path.write_text("x")
        assert [file.get() for _ in range(3)] == [1, 1, 1]
        path.unlink()
        assert [file.get() for _ in range(3)] == [1, 1, 1]
    assert len(caplog.records) == 2
    path.write_text("3")
    assert file.get() == 3


def test_what_never_was_good_raises(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = WatchedFile(str(path), number)
    with pytest.raises(FileNotFoundError):
        file.get()
    path.write_text("x")
    with pytest.raises(ValueError, match="invalid literal"):
        file.get()


def test_what_somebody_read_before_stays_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    assert WatchedFile(str(path), number, initial=7).get() == 7


def test_a_missing_file_can_say_something(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = WatchedFile(str(path), number, missing=-1)
    assert file.get() == -1
    path.write_text("1")
    assert file.get() == 1
    before = file.generation
    path.unlink()
    assert file.get() == -1
    assert file.generation == before + 1


def test_threads_see_each_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("0")
    file = WatchedFile(str(path), number)
    seen: list[int] = []

    def read() -> None:
        seen.extend(file.get() for _ in range(200))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for value in range(1, 50):
        temporary = path.with_suffix(".new")
        temporary.write_text(str(value))
        temporary.rename(path)
        assert file.get() >= value
    for thread in threads:
        thread.join()
    assert set(seen) <= set(range(50))
