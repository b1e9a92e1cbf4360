"""Work that is done again and again while the registry serves: by one process at a time, whichever is alive."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import orjson

from storage import locks
from storage.durable import replace_file

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0  #: seconds between two looks at whether work is due


class State:
    """When some work was last done to its end, and after which repository a run that was cut short goes on."""

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/state"

    def read(self) -> dict[str, Any]:
        """Return the state; an empty one where it is missing or damaged."""
        with suppress(OSError, ValueError):
            state = orjson.loads(Path(self._path).read_bytes())
            if isinstance(state, dict):
                return state
        return {}

    @property
    def finished(self) -> float:
        """When a run last came to its end, in seconds since the epoch; 0 if none ever did."""
        finished = self.read().get("finished")
        return float(finished) if isinstance(finished, int | float) else 0.0

    @property
    def after(self) -> str:
        """The name after which to go on."""
        return str(self.read().get("after", ""))

    def save(self, *, after: str = "") -> None:
        """Keep where to go on; without a name, that all is done."""
        state = self.read() | {"after": after} | ({} if after else {"finished": time.time()})
        replace_file(self._path, orjson.dumps(state))


class Run(Protocol):
    """What a run comes to."""

    finished: bool  #: false if time ran out before all was seen


def in_turn(
    names: Callable[[str], Iterable[str]], state: State, run: Run, *, deadline: float, keep: bool
) -> Iterator[str]:
    """Yield the names that follow where the last run was cut short, until a time of time.monotonic().

    `names` takes the name to go on after. Where this run ends is written down if it is to be kept.
    """
    after = state.after
    for name in names(after):
        if time.monotonic() >= deadline:
            run.finished = False
            break
        yield name
        after = name
    if keep:
        state.save(after="" if run.finished else after)


def keep_doing(work: Callable[[], None], directory: str, interval: float) -> None:
    """Start a thread of this process that does some work when that is due: `interval` seconds after its last end.

    What the processes of all workers share is in `directory`; one that dies leaves the work to the others. The work
    keeps its own State there.
    """
    threading.Thread(target=_keep_doing, args=(work, directory, interval), daemon=True).start()


def _keep_doing(work: Callable[[], None], directory: str, interval: float) -> None:
    started = time.time()
    pause = min(interval, _LONGEST_PAUSE)
    while True:
        time.sleep(pause * random.uniform(0.5, 1.0))  # workers need not look all at once
        try:
            if max(State(directory).finished, started) + interval <= time.time():
                do_alone(work, directory, interval)
        except Exception:
            log.exception("the scheduled work of %s failed", directory)


def do_alone(work: Callable[[], None], directory: str, interval: float) -> None:
    """Do some work, unless somebody else is doing so or has just done it."""
    with suppress(BlockingIOError), locks.exclusive(f"{directory}/lock", wait=False):
        if State(directory).finished + interval <= time.time():
            work()
