"""How far long work has come: a bar on a terminal, now and then a line where there is none. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import click

T = TypeVar("T")

_PAUSE = 5.0  #: seconds between two lines


class Advance(Protocol):
    """Tells that more steps are done."""

    def __call__(self, steps: int, name: str = "") -> None:
        """Take how many, and what they were about, such as a repository's name."""


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Advance]:
    """Show how far the work in the block has come; yield what it calls as it goes.

    `label` says what is done, such as "repositories checked"; `total` is the number of steps, None if it is not known.
    What is not a terminal gets at most a line each five seconds, and one at the end unless the block raises.
    """
    if sys.stderr.isatty():
        with _bar(label, total) as advance:
            yield advance
        return
    lines = _Lines(label, total)
    yield lines.advance
    lines.write()


@contextmanager
def telling(tell: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """Yield what tells of a thing as it happens; where a bar is drawn, only at the end of the block.

    Open it around `progress`, so that the bar is done by then.
    """
    if not sys.stderr.isatty():
        yield tell
        return
    held: list[T] = []
    try:
        yield held.append
    finally:
        for thing in held:
            tell(thing)


@contextmanager
def _bar(label: str, total: int | None) -> Iterator[Advance]:
    """Draw click's bar; without a total it only counts."""
    current = ""
    with click.progressbar(  # type: ignore[var-annotated]
        length=total or 0,
        label=label,
        file=sys.stderr,
        show_eta=total is not None,
        show_percent=False,
        show_pos=True,
        item_show_func=lambda _: current,
    ) as bar:

        def advance(steps: int, name: str = "") -> None:
            nonlocal current
            current = name
            if total is None:
                bar.length = bar.pos + steps
            bar.update(steps)

        yield advance


class _Lines:
    """Write plain lines, seldom."""

    def __init__(self, label: str, total: int | None) -> None:
        self._label = label
        self._of = "" if total is None else f" of {total}"
        self._done = 0
        self._next = time.monotonic() + _PAUSE

    def advance(self, steps: int, name: str = "") -> None:
        """Count steps; write a line if the last one is long ago."""
        self._done += steps
        if time.monotonic() >= self._next:
            self.write(name)
            self._next = time.monotonic() + _PAUSE

    def write(self, name: str = "") -> None:
        """Write how many steps are done."""
        click.echo(f"{self._label}: {self._done}{self._of}{f' ({name})' if name else ''}", err=True)
