"""The table that workers share: exact over threads and processes, bounded, and harmed by no death and no damage."""

from __future__ import annotations

import errno
import mmap
import multiprocessing
import os
import random
import signal
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from registry.shared_table import NOTHING, Record, SharedTable

WORKERS = multiprocessing.get_context("spawn")
KEYS = [b"key %d" % number for number in range(5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".pierhead" / "limits" / "things"


def one_more(record: Record) -> Record:
    return record[0] + 1, record[1] - 1, 0, 0, 0


def worth(number: int) -> Record:
    return number, number, number, number, number


def put(table: SharedTable, key: bytes, record: Record) -> None:
    table.update(key, lambda _: record)


def count(path: str, start: Any, threads: int, times: int) -> None:
    """Count as a worker does that has an application of its own, with several threads."""
    table = SharedTable(path)
    start.wait(60)

    def work(_thread: int) -> None:
        for number in range(times):
            table.update(KEYS[number % len(KEYS)], one_more)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


@contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """Run `work` in a forked process while the block lasts; it is killed in the end, if it still lives."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_an_unknown_key_has_nothing(path: Path) -> None:
    assert SharedTable(str(path)).get(b"key") == NOTHING


@pytest.mark.parametrize("record", [(1, 2, 3, 4, 5), (2**63 - 1, -(2**63), 0, -1, 7), (0, 0, 0, 0, 1)])
def test_a_record_is_kept(path: Path, record: Record) -> None:
    table = SharedTable(str(path))
    assert table.update(b"key", lambda _: record) == record
    assert table.get(b"key") == record
    assert table.get(b"other") == NOTHING
    assert SharedTable(str(path)).get(b"key") == record


def test_a_change_sees_what_was_there(path: Path) -> None:
    table = SharedTable(str(path))
    put(table, b"key", worth(4))
    assert table.update(b"key", one_more)[:2] == (5, 3)


def test_nothing_takes_a_record_out(path: Path) -> None:
    table = SharedTable(str(path), buckets=1)
    for number in range(8):
        put(table, b"%d" % number, worth(10 + number))
    put(table, b"5", NOTHING)
    assert table.get(b"5") == NOTHING
    put(table, b"new", worth(1))
    assert [table.get(b"%d" % number)[0] for number in (0, 4, 6, 7)] == [10, 14, 16, 17]


@pytest.mark.parametrize("key", [b"", b"\0", b"x" * 100_000, bytes(range(256))])
def test_any_key_will_do(path: Path, key: bytes) -> None:
    table = SharedTable(str(path))
    put(table, key, worth(3))
    assert table.get(key) == worth(3)


@pytest.mark.parametrize("record", [(2**63, 0, 0, 0, 0), (0, 0, 0, 0, -(2**63) - 1)])
def test_a_number_too_large_is_a_bug_and_changes_nothing(path: Path, record: Record) -> None:
    table = SharedTable(str(path))
    put(table, b"key", worth(3))
    with pytest.raises(struct.error):
        put(table, b"key", record)
    assert table.get(b"key") == worth(3)


def test_a_change_that_fails_changes_nothing_and_holds_no_lock(path: Path) -> None:
    table = SharedTable(str(path))
    put(table, b"key", worth(3))

    def fail(record: Record) -> Record:
        raise LookupError(record)

    with pytest.raises(LookupError):
        table.update(b"key", fail)
    assert table.get(b"key") == worth(3)
    assert SharedTable(str(path)).get(b"key") == worth(3)


# What is bounded.


def test_the_least_worth_gives_way_in_a_full_bucket(path: Path) -> None:
    table = SharedTable(str(path), buckets=1)
    for number in (30, 10, 20, 70, 50, 60, 40, 80):
        put(table, b"%d" % number, worth(number))
    put(table, b"5", worth(5))
    assert table.get(b"10") == NOTHING
    put(table, b"90", worth(90))
    assert table.get(b"5") == NOTHING
    assert [table.get(b"%d" % number)[0] for number in range(20, 100, 10)] == list(range(20, 100, 10))


def test_the_file_never_grows(path: Path) -> None:
    table = SharedTable(str(path), buckets=16)
    put(table, b"key", worth(1))
    size = path.stat().st_size
    for number in range(1000):
        put(table, b"%d" % number, worth(number))
    assert path.stat().st_size == size
    assert 100 < sum(table.get(b"%d" % number) != NOTHING for number in range(1000)) <= 16 * 8


def test_nobody_can_know_which_keys_share_a_bucket(tmp_path: Path) -> None:
    """What survives differs from table to table: the hash has a key."""
    survivors = []
    for name in ("one", "two"):
        table = SharedTable(str(tmp_path / name), buckets=16)
        for number in range(1000):
            put(table, b"%d" % number, worth(1 + number % 10))
        survivors.append([table.get(b"%d" % number) for number in range(1000)])
    assert survivors[0] != survivors[1]


# Threads and processes.


def test_threads_lose_no_count(path: Path) -> None:
    table = SharedTable(str(path))
    start = threading.Barrier(8)

    def work(_thread: int) -> None:
        start.wait(30)
        for _ in range(2000):
            table.update(b"key", one_more)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert table.get(b"key") == (16_000, -16_000, 0, 0, 0)


def test_processes_that_come_at_once_lose_no_count(path: Path) -> None:
    start = WORKERS.Barrier(4)
    workers = [WORKERS.Process(target=count, args=(str(path), start, 4, 1000)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    table = SharedTable(str(path))
    assert [table.get(key)[0] for key in KEYS] == [3200] * 5


def test_a_process_forked_from_one_that_uses_the_table_excludes_it(path: Path) -> None:
    table = SharedTable(str(path))
    table.update(b"key", one_more)
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            for _ in range(3000):
                table.update(b"key", one_more)
            os._exit(0)
        pids.append(pid)
    for _ in range(3000):
        table.update(b"key", one_more)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
    assert table.get(b"key")[0] == 12_001


def test_two_tables_on_one_file_in_one_process_exclude_each_other(path: Path) -> None:
    tables = [SharedTable(str(path)) for _ in range(4)]

    def work(table: SharedTable) -> None:
        for _ in range(2000):
            table.update(b"key", one_more)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, tables))
    assert tables[0].get(b"key")[0] == 8000


def test_whoever_is_killed_while_holding_a_lock_holds_it_no_more(path: Path) -> None:
    table = SharedTable(str(path), buckets=1)
    put(table, b"key", worth(3))
    held, holding = os.pipe()

    def hold(_record: Record) -> Record:
        os.write(holding, b"x")
        time.sleep(600)
        return NOTHING

    with child(lambda: SharedTable(str(path), buckets=1).update(b"key", hold)) as pid:
        os.read(held, 1)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(table.get, b"key")
            time.sleep(0.05)
            assert not waiting.done()
            os.kill(pid, signal.SIGKILL)
            assert waiting.result(60) == worth(3)
    os.close(held)
    os.close(holding)


def test_a_death_in_the_middle_of_a_write_leaves_a_whole_record_or_none(path: Path) -> None:
    """Records of five equal numbers: whenever their writer is killed, there are no others, and others can go on."""
    table = SharedTable(str(path), buckets=2)

    def write() -> None:
        own = SharedTable(str(path), buckets=2)
        for number in range(10**9):
            own.update(b"%d" % (number % 40), lambda record: worth(record[0] + 1))

    chance = random.Random(3)
    for turn in range(40):
        with child(write), child(write):
            time.sleep(chance.random() / 30)
        for number in range(40):
            record = table.get(b"%d" % number)
            assert record == worth(record[0])
        put(table, b"after", worth(turn + 10**9))
        assert table.get(b"after") == worth(turn + 10**9)
        put(table, b"after", NOTHING)


def test_records_outlive_their_writer(path: Path) -> None:
    with child(lambda: put(SharedTable(str(path)), b"key", worth(7))) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert SharedTable(str(path)).get(b"key") == worth(7)


# The file.


def test_nothing_is_made_before_the_table_is_used(path: Path) -> None:
    SharedTable(str(path))
    assert not path.parent.exists()


def test_the_file_is_for_nobody_else(path: Path) -> None:
    SharedTable(str(path)).get(b"key")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_keys_are_not_written_down(path: Path) -> None:
    put(SharedTable(str(path)), b"a name that is not to be read", worth(1))
    assert b"name" not in path.read_bytes()


def test_a_table_lets_go_of_its_file(path: Path) -> None:
    def held() -> int:
        return sum(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())

    table = SharedTable(str(path))
    table.get(b"key")
    assert held() > 0
    del table
    assert held() == 0


def test_the_file_has_its_place_on_disk_before_it_is_written_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole would be filled when it is written to, and on a full disk that ends the process."""
    blocks: list[int] = []

    class Noting(mmap.mmap):
        def __new__(cls, descriptor: int, length: int) -> Self:
            blocks.append(os.fstat(descriptor).st_blocks * 512 - length)
            return super().__new__(cls, descriptor, length)

    monkeypatch.setattr(mmap, "mmap", Noting)
    SharedTable(str(path)).get(b"key")
    assert len(blocks) == 1
    assert blocks[0] >= 0


def damaged_head(data: bytes) -> bytes:
    return data[:70] + bytes([data[70] ^ 1]) + data[71:]


@pytest.mark.parametrize(
    "damage",
    [
        damaged_head,
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:10],
        lambda data: bytes(len(data)),
        lambda data: b"x",
        lambda _: b"",
    ],
    ids=["head", "short", "long", "shorter than the head", "unfinished", "a byte", "empty"],
)
def test_a_damaged_file_is_made_anew(path: Path, damage: Callable[[bytes], bytes]) -> None:
    put(SharedTable(str(path)), b"key", worth(3))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    table = SharedTable(str(path))
    assert table.get(b"key") == NOTHING
    put(table, b"key", worth(4))
    assert SharedTable(str(path)).get(b"key") == worth(4)
    assert path.stat().st_size == len(whole)


def test_a_file_of_another_boot_is_made_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("registry.shared_table._boot", lambda: b"b" * 36)
        put(SharedTable(str(path)), b"key", worth(3))
        assert SharedTable(str(path)).get(b"key") == worth(3)
    assert SharedTable(str(path)).get(b"key") == NOTHING


def test_a_file_of_another_size_is_made_anew_and_stays_whole_for_who_has_it(path: Path) -> None:
    old = SharedTable(str(path), buckets=32)
    put(old, b"key", worth(3))
    new = SharedTable(str(path), buckets=16)
    assert new.get(b"key") == NOTHING
    put(new, b"key", worth(4))
    assert old.get(b"key") == worth(3)
    assert SharedTable(str(path), buckets=16).get(b"key") == worth(4)


def test_damaged_records_are_no_reason_to_fail(path: Path) -> None:
    put(SharedTable(str(path), buckets=2), b"key", worth(3))
    chance = random.Random(1)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + chance.randbytes(len(data) - 4096))
    table = SharedTable(str(path), buckets=2)
    for number in range(100):
        put(table, b"%d" % number, worth(number))
    assert path.stat().st_size == len(data)


@pytest.mark.parametrize("what", ["file in the way", "directory in its place", "pipe in its place"])
def test_without_a_file_a_worker_has_a_table_for_itself(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "limits" / "things"
    if what == "file in the way":
        path.parent.write_text("")
    else:
        path.parent.mkdir()
        path.mkdir() if what.startswith("directory") else os.mkfifo(path)
    table = SharedTable(str(path))
    put(table, b"key", worth(3))
    assert table.get(b"key") == worth(3)
    assert SharedTable(str(path)).get(b"key") == NOTHING
    assert str(path) in caplog.text


def test_on_a_full_disk_a_worker_has_a_table_for_itself_until_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, _start: int, _length: int) -> None:
        os.ftruncate(descriptor, 5000)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", fail)
        table = SharedTable(str(path))
        put(table, b"key", worth(3))
        assert table.get(b"key") == worth(3)
    put(SharedTable(str(path)), b"key", worth(4))
    assert SharedTable(str(path)).get(b"key") == worth(4)
    assert table.get(b"key") == worth(3)


def test_threads_of_a_table_for_itself_lose_no_count(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    table = SharedTable(str(tmp_path / "file" / "things"))
    start = threading.Barrier(4)

    def work(_thread: int) -> None:
        start.wait(30)
        for _ in range(2000):
            table.update(b"key", one_more)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert table.get(b"key")[0] == 8000


def test_a_peek_sees_what_was_written_and_never_fails(tmp_path: Path) -> None:
    table = SharedTable(str(tmp_path / "table"))
    assert table.peek(b"key") == NOTHING
    table.update(b"key", lambda _: (1, 1, 1, 1, 1))
    assert table.peek(b"key") == (1, 1, 1, 1, 1)
    assert SharedTable(str(tmp_path / "table")).peek(b"key") == (1, 1, 1, 1, 1)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            table.update(b"key", lambda record: (record[0] + 1,) * 5)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5000):
            assert len(table.peek(b"key")) == 5
    finally:
        done.set()
        writer.join()
    assert table.peek(b"key") == table.get(b"key")
