"""Folding: writers that wait are carried out together, and an error reaches whom it concerns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.folding import Folding

State = tuple[str, ...]


class Store:
    """A state that counts its replacements, and lets a test stop the first of them."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.replacements = 0
        self.failure: Exception | None = None
        self.unreadable: Exception | None = None
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.folding: Folding[State] = Folding(self.transact)

    def transact(self, key: str, apply: Callable[[State], State]) -> None:
        first = not self.begun.is_set()
        self.begun.set()
        if first:
            assert self.go_on.wait(30)
        if self.unreadable:
            raise self.unreadable
        state = apply(self.states.get(key, ()))
        if self.failure:
            raise self.failure
        self.states[key] = state
        self.replacements += 1

    def add(self, text: str, key: str = "key") -> None:
        self.folding.change(key, lambda state: (*state, text))

    def fail(self) -> None:
        def refuse(_state: State) -> State:
            raise KeyError("refused")

        self.folding.change("key", refuse)


@pytest.fixture
def store() -> Store:
    return Store()


def wait_for(store: Store, count: int) -> None:
    """Return once so many writers wait, the one that is stopped among them."""
    for _ in range(3000):
        if len(store.folding._queues["key"].waiting) == count:
            return
        time.sleep(0.01)
    pytest.fail("the writers did not come")


def test_one_change_is_stored_on_return(store: Store) -> None:
    store.go_on.set()
    store.add("a")
    store.add("b")
    assert store.states == {"key": ("a", "b")}
    assert store.replacements == 2


def test_those_who_wait_are_folded_into_one(store: Store) -> None:
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(store.add, "first")
        assert store.begun.wait(30)
        others = [pool.submit(store.add, str(number)) for number in range(10)]
        wait_for(store, 11)
        store.go_on.set()
        for writer in (first, *others):
            writer.result(30)
    assert store.replacements == 1
    assert store.states["key"][0] == "first"
    assert sorted(store.states["key"][1:]) == sorted(map(str, range(10)))


def test_an_error_reaches_only_its_own_writer(store: Store) -> None:
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(store.add, "first")
        assert store.begun.wait(30)
        good = [pool.submit(store.add, str(number)) for number in range(3)]
        bad = [pool.submit(store.fail) for _ in range(2)]
        wait_for(store, 6)
        store.go_on.set()
        for writer in (first, *good):
            writer.result(30)
        for writer in bad:
            assert isinstance(writer.exception(30), KeyError)
    assert len(store.states["key"]) == 4


def test_a_failing_store_reaches_all_and_passes(store: Store) -> None:
    store.failure = OSError("disk full")
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(store.add, "first")
        assert store.begun.wait(30)
        others = [pool.submit(store.add, str(number)) for number in range(3)]
        bad = pool.submit(store.fail)
        wait_for(store, 5)
        store.go_on.set()
        assert {str(writer.exception(30)) for writer in (first, *others)} == {"disk full"}
        assert isinstance(bad.exception(30), KeyError)
    store.failure = None
    store.add("again")
    assert store.states == {"key": ("again",)}


def test_a_state_that_cannot_be_had_fails_each_for_itself(store: Store) -> None:
    store.unreadable = OSError("no lock")
    with ThreadPoolExecutor(20) as pool:
        writers = [pool.submit(store.add, str(number)) for number in range(5)]
        assert store.begun.wait(30)
        wait_for(store, 5)
        store.go_on.set()
        assert {str(writer.exception(30)) for writer in writers} == {"no lock"}
    store.unreadable = None
    store.add("again")
    assert store.states == {"key": ("again",)}


def test_another_repository_does_not_wait(store: Store) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.add, "first")
        assert store.begun.wait(30)
        store.add("x", "other")
        assert store.states == {"other": ("x",)}
        store.go_on.set()
        first.result(30)


def test_nothing_is_kept_of_who_is_done(store: Store) -> None:
    store.go_on.set()
    store.add("a")
    assert len(store.folding._queues) == 0


def test_many_writers_at_once_lose_nothing(store: Store) -> None:
    store.go_on.set()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(store.add, map(str, range(500))))
    assert sorted(store.states["key"]) == sorted(map(str, range(500)))
    assert store.replacements <= 500
