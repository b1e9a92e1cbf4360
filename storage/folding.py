"""Fold the writers that wait for one repository into one replacement of its document."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

S = TypeVar("S")


class _Change(Generic[S]):
    """One writer's wish: a function from the state to the next, and what became of it."""

    def __init__(self, apply: Callable[[S], S]) -> None:
        self.apply = apply
        self.done = False
        self.error: BaseException | None = None


class _Queue(Generic[S]):
    """The wishes that wait for one repository; who holds `turn` carries out all of them."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.waiting: list[_Change[S]] = []


class Folding(Generic[S]):
    """Apply changes to the state behind a key, as few times as the writers' arrival allows.

    `transact(key, apply)` must load the state, hand it to `apply`, and store what that returns; it is called by one
    thread of this process at a time for each key.
    """

    def __init__(self, transact: Callable[[str, Callable[[S], S]], None]) -> None:
        self._transact = transact
        self._queues: WeakValueDictionary[str, _Queue[S]] = WeakValueDictionary()
        self._guard = threading.Lock()

    def change(self, key: str, apply: Callable[[S], S]) -> None:
        """Return when the change is stored; raise what `apply` raised for it, or what kept it from being stored."""
        change = _Change(apply)
        with self._guard:
            queue = self._queues.setdefault(key, _Queue())
            queue.waiting.append(change)
        with queue.turn:
            if not change.done:
                self._carry_out(key, queue, change)
        if change.error is not None:
            raise change.error

    def _carry_out(self, key: str, queue: _Queue[S], own: _Change[S]) -> None:
        """Store what waits once the state is at hand: who comes while it is waited for is not too late."""
        batch: list[_Change[S]] = []

        def fold(state: S) -> S:
            with self._guard:
                batch[:], queue.waiting = queue.waiting, []
            return _fold(batch, state)

        try:
            self._transact(key, fold)
        except BaseException as error:
            if not batch:  # the state could not be had; the others try for themselves
                with self._guard:
                    queue.waiting.remove(own)
                batch.append(own)
            for change in batch:
                change.error = change.error or error
        finally:
            for change in batch:
                change.done = True


def _fold(batch: list[_Change[S]], state: S) -> S:
    """Apply each change to what the ones before it left; one that fails leaves the state to the others."""
    for change in batch:
        try:
            state = change.apply(state)
        except Exception as error:
            change.error = error
    return state
