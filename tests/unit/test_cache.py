"""The cache: bounded by weight, forgetting what was not used for longest."""

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from storage.cache import Cache


def test_what_was_put_is_there_until_it_is_dropped() -> None:
    cache: Cache[str, int] = Cache(10)
    assert cache.get("a") is None
    cache.put("a", 1)
    cache.put("a", 2)
    assert cache.get("a") == 2
    cache.drop("a")
    cache.drop("a")
    assert cache.get("a") is None


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache: Cache[str, int] = Cache(4)
    for key in "abcd":
        cache.put(key, 1)
    cache.get("a")
    cache.put("e", 1)
    assert [key for key in "abcde" if cache.get(key)] == ["a", "c", "d", "e"]


def test_a_value_that_weighs_more_than_the_budget_is_kept_alone() -> None:
    cache: Cache[str, int] = Cache(8)
    cache.put("a", 1, weight=2)
    cache.put("b", 1, weight=9)
    assert (cache.get("a"), cache.get("b")) == (None, 1)
    cache.put("a", 1, weight=2)
    assert (cache.get("a"), cache.get("b")) == (1, None)


def test_a_value_that_became_too_heavy_is_not_served_as_it_was() -> None:
    cache: Cache[str, int] = Cache(8)
    cache.put("a", 1)
    cache.put("a", 2, weight=9)
    assert cache.get("a") == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50))))
def test_the_weights_exceed_the_budget_for_a_value_alone_only(puts: list[tuple[int, int]]) -> None:
    cache: Cache[int, int] = Cache(40)
    weights: dict[int, int] = {}
    for key, weight in puts:
        cache.put(key, weight, weight=weight)
        weights[key] = weight
    held = [key for key in weights if cache.get(key) is not None]
    assert sum(weights[key] for key in held) <= 40 or len(held) == 1
    assert all(cache.get(key) == weights[key] for key in held)


def test_threads_share_it() -> None:
    cache: Cache[int, int] = Cache(64)
    start = threading.Barrier(8)

    def use(thread: int) -> None:
        start.wait(30)
        for number in range(2000):
            cache.put(number % 100, thread)
            cache.get((number + thread) % 100)
            cache.drop((number + 50) % 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    for key in range(100):
        cache.drop(key)
    for key in range(64):
        cache.put(key, key)
    assert all(cache.get(key) == key for key in range(64))
