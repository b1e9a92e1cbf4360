"""Requests per second and client: what is allowed, what is counted together, and what the refused are told."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from registry.config_auth import RateLimitConfig
from registry.errors import RequestRefused
from registry.ratelimit import RateLimit, client

WORKERS = multiprocessing.get_context("spawn")
SECOND = 1_000_000_000
HERE = "192.0.2.1"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000 * SECOND

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Limited:
    """A limit, and what it lets through."""

    def __init__(self, directory: Path, clock: Clock, rate: float | None = None, **methods: float) -> None:
        self.limit = RateLimit(RateLimitConfig(rate, MappingProxyType(methods)), str(directory), clock)

    def allows(self, method: str = "GET", address: str = HERE) -> bool:
        return self.refusal(method, address) is None

    def refusal(self, method: str = "GET", address: str = HERE) -> RequestRefused | None:
        try:
            self.limit.check(method, address)
        except RequestRefused as refused:
            return refused
        return None

    def passed(self, times: int, method: str = "GET", address: str = HERE) -> int:
        """Tell how many of so many requests at once get through."""
        return sum(self.allows(method, address) for _ in range(times))


@pytest.mark.parametrize(
    ("rate", "burst"), [(0.5, 1), (0.001, 1), (1, 1), (1.5, 1), (2, 2), (2.9, 2), (3, 3), (10, 10), (100, 100)]
)
def test_a_second_s_worth_may_come_at_once_and_then_no_more_than_the_rate(
    tmp_path: Path, clock: Clock, rate: float, burst: int
) -> None:
    limited = Limited(tmp_path, clock, rate)
    assert limited.passed(burst + 20) == burst
    for _ in range(5):
        clock.sleep(1.0001 / rate)
        assert limited.passed(20) == 1
    clock.sleep(burst * 1.0001 / rate)
    assert limited.passed(burst + 20) == burst


def test_the_idle_save_up_no_more_than_one_burst(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, 5)
    limited.passed(1)
    clock.sleep(100_000)
    assert limited.passed(50) == 5


def test_the_refused_are_not_counted(tmp_path: Path, clock: Clock) -> None:
    """Whoever goes on asking gets through at the rate all the same."""
    limited = Limited(tmp_path, clock, 10)
    passed = 0
    for _ in range(1000):
        passed += limited.allows()
        clock.sleep(0.01)
    assert 108 <= passed <= 110


def test_even_requests_at_the_rate_all_pass(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, 3)
    for _ in range(100):
        assert limited.allows()
        clock.sleep(1 / 3 + 1e-6)


@pytest.mark.parametrize(("rate", "seconds"), [(100, 1), (1, 1), (0.5, 2), (0.3, 4), (0.001, 1000), (1e-300, 86_400)])
def test_the_refused_are_told_when_to_come_again(tmp_path: Path, clock: Clock, rate: float, seconds: int) -> None:
    limited = Limited(tmp_path, clock, rate)
    limited.passed(200)
    refused = limited.refusal()
    assert refused is not None
    assert (refused.code, refused.status) == ("TOOMANYREQUESTS", 429)
    assert refused.headers == {"Retry-After": str(seconds)}
    clock.sleep(seconds)
    assert limited.allows()


@pytest.mark.parametrize("rate", [1_000_000, 1e12, 1e300])
def test_a_rate_beyond_reach_limits_nobody(tmp_path: Path, clock: Clock, rate: float) -> None:
    assert Limited(tmp_path, clock, rate).passed(1000) == 1000


def test_clients_do_not_disturb_each_other(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, 2)
    assert limited.passed(9, address="192.0.2.1") == 2
    assert limited.passed(9, address="192.0.2.2") == 2
    assert limited.passed(9, address="2001:db8::1") == 2


def test_methods_without_a_rate_of_their_own_are_counted_together(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, 4)
    assert [limited.allows(method) for method in ("GET", "HEAD", "PUT", "ODD", "DELETE")] == [True] * 4 + [False]


def test_a_rate_of_its_own_stands_for_the_other_one(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, 2, GET=5, DELETE=1)
    assert limited.passed(9, "GET") == 5
    assert limited.passed(9, "DELETE") == 1
    assert limited.passed(5, "PUT") + limited.passed(5, "POST") == 2


def test_head_is_not_get(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, None, GET=1)
    assert limited.passed(9, "GET") == 1
    assert limited.passed(9, "HEAD") == 9


def test_without_a_general_rate_other_methods_are_free(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, None, PUT=1)
    assert limited.passed(99, "GET") == 99
    assert limited.passed(9, "PUT") == 1


def test_a_method_is_counted_by_its_exact_name(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, 1, PUT=3)
    assert limited.passed(9, "put") == 1
    assert limited.passed(9, "PUT") == 3


def test_another_rate_after_a_restart_begins_anew(tmp_path: Path, clock: Clock) -> None:
    """Nobody waits for a day because the rate was once one request in a day."""
    assert Limited(tmp_path, clock, 1 / 86_400).passed(9) == 1
    assert Limited(tmp_path, clock, 10).passed(20) == 10


def test_a_clock_that_went_back_keeps_nobody_out(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, 1)
    limited.passed(9)
    clock.sleep(-500)
    assert limited.passed(9) == 1


def test_nothing_is_limited_over_a_restart_that_was_not_before(tmp_path: Path, clock: Clock) -> None:
    assert Limited(tmp_path, clock, 2).passed(9) == 2
    assert Limited(tmp_path, clock, 2).passed(9) == 0


def test_threads_get_no_more_than_the_burst(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, 100)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(limited.passed, [50] * 8)) == 100


def ask(directory: str, start: Any, passed: Any) -> None:
    """Ask as a worker does."""
    limited = Limited(Path(directory), Clock(), 100)
    start.wait(60)
    passed.put(limited.passed(80))


def test_workers_get_no_more_than_the_burst(tmp_path: Path) -> None:
    start, passed = WORKERS.Barrier(3), WORKERS.Queue()
    workers = [WORKERS.Process(target=ask, args=(str(tmp_path), start, passed)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert sum(passed.get(timeout=60) for _ in workers) == 100
    for worker in workers:
        worker.join(60)


def test_where_nothing_can_be_written_a_worker_limits_by_itself(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("in the way")
    assert Limited(tmp_path / "file", clock, 3).passed(9) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("192.0.2.1", "192.0.2.1:49152"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("2001:db8:1:2::1", "2001:DB8:1:2:0::9"),
        ("2001:db8:1:2::1", "[2001:db8:1:2::1]:49152"),
        ("2001:db8:1:2::1", "[2001:db8:1:2::1]"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_addresses_of_one_client(one: str, other: str) -> None:
    assert client(one) == client(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8:1:2::1", "2001:db8:1:3::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("", "192.0.2.1"),
        ("unknown", "_hidden"),
        ("AAAA", "65.65.65.65"),
    ],
)
def test_addresses_of_different_clients(one: str, other: str) -> None:
    assert client(one) != client(other)


@pytest.mark.parametrize(
    "text", ["", "unix:", "unknown", "1.2.3.4, 5.6.7.8", "[", "[]:1", "1.2.3.4:", ":::", "\udcff\0\n", "9" * 10_000]
)
def test_what_is_no_address_is_limited_all_the_same(tmp_path: Path, clock: Clock, text: str) -> None:
    assert Limited(tmp_path, clock, 2).passed(9, address=text) == 2


def test_addresses_without_number_take_no_room(tmp_path: Path, clock: Clock) -> None:
    limited = Limited(tmp_path, clock, 1)
    limited.allows()
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    for number in range(3000):
        assert limited.allows(address=f"2001:db8:0:{number:x}::{os.getpid():x}")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == size
