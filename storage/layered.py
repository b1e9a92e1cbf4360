"""A mapping that is never changed, and of which a larger copy costs little, however large it is."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import TypeVar

V = TypeVar("V")

_MOST = 256  #: items that a copy has of its own before they are put together with those that it shares


class Layered(Mapping[str, V]):
    """What a dict holds, and a few items more, which come after it and hide those of the same key."""

    __slots__ = ("_base", "_over")

    def __init__(self, base: dict[str, V], over: dict[str, V] | None = None) -> None:
        """Take over both: nobody else may change them."""
        self._base = base
        self._over = over or {}

    def with_items(self, added: Mapping[str, V]) -> Layered[V]:
        """Return a mapping that has these items too."""
        over = {**self._over, **added}
        return Layered(self._base, over) if len(over) <= _MOST else Layered(self._base | over)

    def __getitem__(self, key: str) -> V:
        return self._over[key] if key in self._over else self._base[key]

    def __contains__(self, key: object) -> bool:
        return key in self._over or key in self._base

    def __iter__(self) -> Iterator[str]:
        yield from self._base
        yield from (key for key in self._over if key not in self._base)

    def __len__(self) -> int:
        return len(self._base) + sum(1 for key in self._over if key not in self._base)

    def items(self) -> ItemsView[str, V]:
        """Return the items, as of a dict."""
        return (self._base | self._over if self._over else self._base).items()
