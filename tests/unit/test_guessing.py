"""Guessing passwords: who is locked out, for how long, and who is not."""

from __future__ import annotations

import multiprocessing
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from registry.auth import guessing
from registry.auth.guessing import Guesses, GuessLimits
from registry.errors import RequestRefused
from registry.shared_table import SharedTable

WORKERS = multiprocessing.get_context("spawn")
SECOND = 1_000_000_000
MINUTE = 60.0
HERE, ELSEWHERE = "192.0.2.1", "198.51.100.1"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, seconds: float = 100_000) -> None:
        self.now = round(seconds * SECOND)

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guesses(tmp_path: Path, clock: Clock) -> Guesses:
    return Guesses(str(tmp_path), clock)


def wait_of(guesses: Guesses, user: str = "alice", address: str = HERE) -> int:
    """Tell for how many seconds somebody is locked out: 0 for not."""
    try:
        guesses.check(user, address)
    except RequestRefused as refused:
        assert (refused.code, refused.status) == ("TOOMANYREQUESTS", 429)
        assert refused.headers is not None
        seconds = int(refused.headers["Retry-After"])
        assert seconds >= 1
        return seconds
    return 0


def fail(guesses: Guesses, times: int = 1, user: str = "alice", address: str = HERE) -> None:
    for _ in range(times):
        guesses.failed(user, address)


def spray(guesses: Guesses, times: int, address: str = HERE, first: int = 0) -> None:
    """Fail as so many different users."""
    for number in range(first, first + times):
        guesses.failed(f"user{number}", address)


def attempt(guesses: Guesses, user: str, address: str = HERE) -> bool:
    """Fail unless that is refused, and tell whether the guess was made."""
    if wait_of(guesses, user, address):
        return False
    guesses.failed(user, address)
    return True


def test_whoever_never_failed_is_not_locked(guesses: Guesses) -> None:
    assert wait_of(guesses) == 0
    guesses.succeeded("alice", HERE)
    assert wait_of(guesses) == 0


def test_ten_failures_lock_for_a_minute(guesses: Guesses, clock: Clock) -> None:
    fail(guesses, 9)
    assert wait_of(guesses) == 0
    fail(guesses)
    assert wait_of(guesses) == 60
    clock.sleep(59.5)
    assert wait_of(guesses) == 1
    clock.sleep(0.5)
    assert wait_of(guesses) == 0


def test_each_failure_after_a_lock_doubles_it_up_to_a_quarter_of_an_hour(guesses: Guesses, clock: Clock) -> None:
    fail(guesses, 10)
    waits = []
    for _ in range(40):
        waits.append(wait_of(guesses))
        clock.sleep(waits[-1])
        assert wait_of(guesses) == 0
        fail(guesses)
    assert waits == [60, 120, 240, 480, *[900] * 36]


def test_nobody_is_locked_elsewhere(guesses: Guesses) -> None:
    """Whoever guesses alice's password does not keep alice from logging in from her own address."""
    for number in range(200):
        fail(guesses, 20, address=f"203.0.113.{number}")
    assert wait_of(guesses, address="203.0.113.7") > 0
    assert wait_of(guesses, address=ELSEWHERE) == 0


def test_other_users_at_the_address_are_not_locked_by_one_who_is(guesses: Guesses) -> None:
    fail(guesses, 10)
    assert wait_of(guesses, "bob") == 0


def test_one_client_with_an_old_password_never_locks_its_address(guesses: Guesses, clock: Clock) -> None:
    """What is refused during a lock is no failure, so that a forgotten job harms nobody but itself."""
    for _ in range(24 * 360):
        attempt(guesses, "ci")
        clock.sleep(10)
    assert wait_of(guesses, "ci") > 0
    assert wait_of(guesses, "bob") == 0


def test_a_hundred_failures_of_any_users_lock_the_address(guesses: Guesses, clock: Clock) -> None:
    spray(guesses, 99)
    assert wait_of(guesses) == 0
    spray(guesses, 1, first=99)
    assert wait_of(guesses, "somebody else") == 60
    assert wait_of(guesses, address=ELSEWHERE) == 0
    clock.sleep(60)
    assert wait_of(guesses) == 0
    spray(guesses, 1, first=100)
    assert wait_of(guesses) == 120


def test_the_longer_of_two_locks_is_told(guesses: Guesses, clock: Clock) -> None:
    spray(guesses, 90)
    fail(guesses, 10)
    clock.sleep(60)
    fail(guesses)
    assert wait_of(guesses, "bob") == 120
    clock.sleep(120)
    fail(guesses, user="bob")
    assert (wait_of(guesses), wait_of(guesses, "bob")) == (240, 240)


def test_the_right_password_clears_the_user_s_failures(guesses: Guesses) -> None:
    for _ in range(9):
        fail(guesses, 9)
        guesses.succeeded("alice", HERE)
    assert wait_of(guesses) == 0
    fail(guesses, 9)
    assert wait_of(guesses) == 0


def test_the_right_password_of_one_clears_nothing_of_another(guesses: Guesses) -> None:
    fail(guesses, 10)
    guesses.succeeded("bob", HERE)
    guesses.succeeded("alice", ELSEWHERE)
    assert wait_of(guesses) == 60


def test_an_account_of_one_s_own_clears_nothing_of_the_address(guesses: Guesses) -> None:
    for number in range(100):
        guesses.failed(f"victim{number}", HERE)
        guesses.succeeded("mallory", HERE)
    assert wait_of(guesses, "mallory") == 60


def test_asking_during_a_lock_never_makes_it_longer(guesses: Guesses, clock: Clock) -> None:
    fail(guesses, 10)
    for left in range(60, 0, -1):
        assert wait_of(guesses) == left
        clock.sleep(1)
    assert wait_of(guesses) == 0


def test_failures_that_were_under_way_when_the_lock_came_do_not_count(guesses: Guesses, clock: Clock) -> None:
    """A client with ten connections and a mistyped password fails ten times at once, and is locked for a minute."""
    fail(guesses, 30)
    assert wait_of(guesses) == 60
    clock.sleep(60)
    assert wait_of(guesses) == 0


@pytest.mark.parametrize("start", [0, 0.1, 37, 59.9, 299, 100_000])
def test_ten_failures_anywhere_within_five_minutes_lock(tmp_path: Path, start: float) -> None:
    clock = Clock(start)
    guesses = Guesses(str(tmp_path), clock)
    for _ in range(9):
        fail(guesses)
        clock.sleep(299 / 9)
    assert wait_of(guesses) == 0
    fail(guesses)
    assert wait_of(guesses) == 60


def test_failures_are_forgotten(guesses: Guesses, clock: Clock) -> None:
    for _ in range(20):
        fail(guesses, 9)
        clock.sleep(6 * MINUTE)
        assert wait_of(guesses) == 0


def test_rare_failures_never_lock(guesses: Guesses, clock: Clock) -> None:
    """Who mistypes once in 45 seconds for hours has at most eight failures in six minutes."""
    for _ in range(500):
        fail(guesses)
        assert wait_of(guesses) == 0
        clock.sleep(45)


def test_locks_are_forgotten_some_time_after_they_end(guesses: Guesses, clock: Clock) -> None:
    fail(guesses, 10)
    clock.sleep(60)
    fail(guesses)
    assert wait_of(guesses) == 120
    clock.sleep(120 + 6 * MINUTE)
    fail(guesses, 9)
    assert wait_of(guesses) == 0
    fail(guesses)
    assert wait_of(guesses) == 60


def test_a_long_lock_is_remembered_when_its_failures_are_not(guesses: Guesses, clock: Clock) -> None:
    fail(guesses, 10)
    for _ in range(5):
        clock.sleep(wait_of(guesses))
        fail(guesses)
    clock.sleep(900 + 4 * MINUTE)
    fail(guesses)
    assert wait_of(guesses) == 900


@pytest.mark.parametrize("pause", [5, 20, 33, 60, 299, 301, 361])
def test_no_pace_gives_more_guesses_than_nine_in_a_window(guesses: Guesses, clock: Clock, pause: float) -> None:
    """Guess as often as one is let, with a pause after each burst of nine, for some hours."""
    made, start, hours = 0, clock.now, 6
    while clock.now < start + hours * 3600 * SECOND:
        for _ in range(9):
            made += attempt(guesses, "alice")
        clock.sleep(pause)
    assert made <= 9 * (hours * 3600 / 300 + 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [("alice", "Alice"), ("alice", " ALICE "), ("al ice", "al   ice"), ("alice", "\uff41lice"), ("a" * 300, "a" * 301)],
)
def test_one_name_written_in_many_ways_is_worth_no_more_guesses(guesses: Guesses, one: str, other: str) -> None:
    """To a directory these are one user."""
    fail(guesses, 5, user=one)
    fail(guesses, 5, user=other)
    assert wait_of(guesses, one) == wait_of(guesses, other) == 60


@pytest.mark.parametrize(
    ("one", "other"), [("2001:db8:1:2::1", "2001:db8:1:2:9::1"), ("192.0.2.9", "::ffff:192.0.2.9")]
)
def test_one_host_has_one_address(guesses: Guesses, one: str, other: str) -> None:
    fail(guesses, 5, address=one)
    fail(guesses, 5, address=other)
    assert wait_of(guesses, address=one) == 60


@pytest.mark.parametrize(
    "user", ["", "\0", "a\nb", "\udcff", "\ufdfa" * 30_000, "%s{0}", "x" * 100_000, "\u0300" * 300, "👩‍👩‍👧"]
)
@pytest.mark.parametrize("address", [HERE, "", "not an address\r\n\udc80"])
def test_any_name_and_address_will_do(guesses: Guesses, user: str, address: str) -> None:
    fail(guesses, 10, user=user, address=address)
    assert wait_of(guesses, user, address) == 60
    assert wait_of(guesses, "bob", address) == 0


def test_the_refusal_and_the_log_tell_no_name(guesses: Guesses, caplog: pytest.LogCaptureFixture) -> None:
    """What was typed as the name may have been the password; and it is the same whether there is such a user."""
    fail(guesses, 10, user="hunter2", address="192.0.2.1\n2026 forged line")
    with pytest.raises(RequestRefused) as refused:
        guesses.check("hunter2", "192.0.2.1\n2026 forged line")
    shown = f"{refused.value.message} {refused.value.detail} {refused.value.headers} {caplog.text}"
    assert "hunter2" not in shown
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()


def test_a_lock_is_logged_once_with_the_address(guesses: Guesses, caplog: pytest.LogCaptureFixture) -> None:
    fail(guesses, 30)
    assert [HERE in record.getMessage() for record in caplog.records] == [True]
    spray(guesses, 200)
    assert [HERE in record.getMessage() for record in caplog.records] == [True, True]


# Restarts, workers, threads.


def test_a_lock_outlives_a_restart(tmp_path: Path, clock: Clock, guesses: Guesses) -> None:
    fail(guesses, 10)
    assert wait_of(Guesses(str(tmp_path), clock)) == 60


def test_a_clock_that_went_back_keeps_nobody_out(guesses: Guesses, clock: Clock) -> None:
    fail(guesses, 20)
    clock.sleep(-50_000)
    assert wait_of(guesses) == 0
    fail(guesses, 10)
    assert wait_of(guesses) == 60


def test_threads_count_together(guesses: Guesses) -> None:
    start = threading.Barrier(9)

    def work(_thread: int) -> None:
        start.wait(30)
        guesses.failed("alice", HERE)
        spray(guesses, 10)

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(work, range(9)))
    assert (wait_of(guesses), wait_of(guesses, "user1")) == (0, 0)
    fail(guesses)
    assert (wait_of(guesses), wait_of(guesses, "bob")) == (60, 60)


def fail_in_a_worker(directory: str, times: int) -> None:
    fail(Guesses(directory, Clock()), times)


def test_workers_count_together(tmp_path: Path, guesses: Guesses) -> None:
    workers = [WORKERS.Process(target=fail_in_a_worker, args=(str(tmp_path), 3)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert wait_of(guesses) == 0
    fail(guesses)
    assert wait_of(guesses) == 60


def test_where_nothing_can_be_written_a_worker_counts_for_itself(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("in the way")
    guesses = Guesses(str(tmp_path / "file"), clock)
    fail(guesses, 10)
    assert wait_of(guesses) == 60


# What an attacker can do to the table.


@pytest.fixture
def small(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Guesses:
    """Give guesses with a table for 128 records: what takes thousands of requests takes fewer here."""
    monkeypatch.setattr(guessing, "SharedTable", partial(SharedTable, buckets=16))
    return Guesses(str(tmp_path), clock)


def test_failures_as_many_users_wash_nobody_s_record_out(small: Guesses) -> None:
    """Of many times more records than there is room for, the one with many failures stays."""
    fail(small, 9)
    for number in range(2000):
        small.failed(f"user{number}", f"203.0.113.{number % 250}")
    fail(small)
    assert wait_of(small) == 60


def test_an_address_is_locked_though_its_pairs_were_washed_out(small: Guesses) -> None:
    spray(small, 1000)
    assert wait_of(small, "anybody") == 60


def test_the_file_stays_as_large_as_it_was(small: Guesses, tmp_path: Path) -> None:
    fail(small)
    size = (tmp_path / "guesses").stat().st_size
    for number in range(2000):
        small.failed(f"user{number}", f"2001:db8:0:{number:x}::1")
    assert (tmp_path / "guesses").stat().st_size == size


@pytest.mark.parametrize("seed", range(20))
def test_damaged_records_raise_nothing_and_lock_nobody_for_long(tmp_path: Path, clock: Clock, seed: int) -> None:
    guesses = Guesses(str(tmp_path), clock)
    chance = random.Random(seed)
    odd = [0, 1, -1, clock.now, clock.now // SECOND, 2**63 - 1, -(2**63), clock.now // (60 * SECOND)]
    table = SharedTable(str(tmp_path / "guesses"))
    for key in (guessing._pair_key("alice", HERE), guessing._address_key(HERE)):
        a, b, c, d, e = (chance.choice([*odd, chance.randrange(-(2**63), 2**63)]) for _ in range(5))
        table.update(key, lambda _, record=(a, b, c, d, e): record)  # type: ignore[misc]
    assert wait_of(guesses) <= 900
    fail(guesses, 20)
    assert 0 < wait_of(guesses) <= 900
    clock.sleep(900)
    assert wait_of(guesses) == 0
    guesses.succeeded("alice", HERE)


def test_the_numbers_can_be_set(tmp_path: Path, clock: Clock) -> None:
    limits = GuessLimits(pair_failures=2, address_failures=4, window=10, first_lock=1, longest_lock=3)
    guesses = Guesses(str(tmp_path), clock, limits)
    fail(guesses, 2)
    waits = []
    for _ in range(4):
        waits.append(wait_of(guesses))
        clock.sleep(waits[-1])
        fail(guesses)
    assert waits == [1, 2, 3, 3]
    assert wait_of(guesses, "bob") > 0


@pytest.mark.parametrize("operation", [Guesses.check, Guesses.succeeded])
def test_what_is_asked_of_everybody_takes_no_room(
    guesses: Guesses, tmp_path: Path, operation: Callable[[Guesses, str, str], None]
) -> None:
    fail(guesses, 9)
    before = (tmp_path / "guesses").read_bytes()
    for number in range(100):
        operation(guesses, f"user{number}", HERE)
    assert (tmp_path / "guesses").read_bytes() == before
