"""A bounded cache, shared by a worker's threads, that forgets what was not used for longest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Keep values whose weights add up to at most `budget`, or the last one alone if that weighs more."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._weight = 0
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return the value, or None."""
        with self._lock:
            item = self._items.get(key)
            if item is None:
                return None
            self._items.move_to_end(key)
            return item[0]

    def put(self, key: K, value: V, weight: int = 1) -> None:
        """Keep a value, in place of any that had the key."""
        with self._lock:
            self._drop(key)
            self._items[key] = (value, weight)
            self._weight += weight
            while self._weight > self._budget and len(self._items) > 1:
                self._weight -= self._items.popitem(last=False)[1][1]

    def drop(self, key: K) -> None:
        """Forget a value, if it is there."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: K) -> None:
        item = self._items.pop(key, None)
        if item is not None:
            self._weight -= item[1]
