"""The counters: summed over workers, kept over restarts, and no reason to fail."""

from __future__ import annotations

import errno
import mmap
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from registry.metrics import COUNTERS, Metrics

WORKERS = multiprocessing.get_context("spawn")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / ".pierhead" / "metrics"


def count(directory: str, times: int, ready: Any, over: Any) -> None:
    """Count as a worker does, and live until all are done."""
    metrics = Metrics(directory)
    for _ in range(times):
        metrics.add("requests")
        metrics.add("bytes_stored", 10)
    ready.release()
    over.wait(60)


@pytest.fixture
def run_workers(directory: Path) -> Callable[..., dict[str, int]]:
    """Give a function that lets workers count together, and gives the totals that another process sees meanwhile."""

    reader = Metrics(str(directory))

    def run_workers(*times: int) -> dict[str, int]:
        ready, over = WORKERS.Semaphore(0), WORKERS.Event()
        workers = [WORKERS.Process(target=count, args=(str(directory), number, ready, over)) for number in times]
        for worker in workers:
            worker.start()
        for _ in workers:
            assert ready.acquire(timeout=60)
        totals = reader.totals()
        over.set()
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
        return totals

    return run_workers


def test_all_counters_are_there_from_the_start(directory: Path) -> None:
    assert Metrics(str(directory)).totals() == dict.fromkeys(COUNTERS, 0)


def test_nothing_is_made_before_something_is_counted(directory: Path) -> None:
    Metrics(str(directory))
    assert not directory.exists()


def test_an_unknown_counter_is_a_bug(directory: Path) -> None:
    with pytest.raises(KeyError):
        Metrics(str(directory)).add("nonsense")


def test_counts_are_summed_over_processes_and_outlive_them(
    directory: Path, run_workers: Callable[..., dict[str, int]]
) -> None:
    totals = run_workers(100, 11)
    assert (totals["requests"], totals["bytes_stored"]) == (111, 1110)
    totals = run_workers(9)
    assert (totals["requests"], totals["bytes_stored"]) == (120, 1200)


def test_there_are_no_more_files_than_workers_at_once(
    directory: Path, run_workers: Callable[..., dict[str, int]]
) -> None:
    for _ in range(2):
        run_workers(1)
    assert len(list(directory.iterdir())) <= 2


def test_threads_lose_no_count(directory: Path) -> None:
    metrics = Metrics(str(directory))
    start = threading.Barrier(8)

    def add(_thread: int) -> None:
        start.wait(30)
        for _ in range(2000):
            metrics.add("requests")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert metrics.totals()["requests"] == 16_000


def test_without_a_directory_to_write_a_worker_counts_for_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    metrics = Metrics(str(tmp_path / "file" / "metrics"))
    metrics.add("requests", 3)
    assert metrics.totals()["requests"] == 3
    assert Metrics(str(tmp_path / "file" / "metrics")).totals()["requests"] == 0


def test_a_file_has_its_place_on_disk_before_it_is_written_to(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole would be filled when it is written to, and on a full disk that ends the process."""
    blocks: list[int] = []

    class Noting(mmap.mmap):
        def __new__(cls, descriptor: int, length: int) -> Self:
            blocks.append(os.fstat(descriptor).st_blocks)
            return super().__new__(cls, descriptor, length)

    monkeypatch.setattr(mmap, "mmap", Noting)
    Metrics(str(directory)).add("requests")
    assert len(blocks) == 1
    assert blocks[0] > 0


def test_on_a_full_disk_a_worker_counts_for_itself(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    metrics = Metrics(str(directory))
    metrics.add("requests", 3)
    assert metrics.totals()["requests"] == 3


def test_a_file_that_has_just_been_made_counts_nothing(directory: Path) -> None:
    metrics = Metrics(str(directory))
    metrics.add("requests", 2)
    (directory / "7").write_bytes(b"")
    (directory / "other").write_bytes(b"not a counter")
    assert metrics.totals()["requests"] == 2


def test_counters_that_a_later_version_added_are_ignored(directory: Path) -> None:
    metrics = Metrics(str(directory))
    metrics.add("requests", 2)
    (directory / "8").write_bytes((5).to_bytes(8, "little") + bytes(2000) + b"\xff")
    assert metrics.totals()["requests"] == 7
