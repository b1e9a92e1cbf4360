"""Garbage collection, run: over all stores of a configuration, on schedule or by a command, with a journal."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from registry.config import Config, StoreConfig
from registry.logs import json_line
from registry.stores import build_controller
from storage import locks
from storage.clock import timestamp
from storage.controller import StoreController
from storage.durable import Durable, replace_file
from storage.gc import Collector, Event, Result
from storage.image_store import ImageStore
from storage.layout import Layout
from storage.retention import due

log = logging.getLogger(__name__)

_JOURNAL_SIZE = 16 * 1024 * 1024
_LONGEST_PAUSE = 60.0  #: seconds between two looks at whether a collection is due


class Journal:
    """What was collected: a line of JSON for each event, in `gc/journal` of the store; the older part in `.1`."""

    def __init__(self, layout: Layout) -> None:
        self._path = Path(layout.gc) / "journal"
        self._durable = Durable(layout.root)

    def write(self, event: Event) -> None:
        """Append an event; where that fails, it is in the log only."""
        fields = {"repository": event.repository, "action": event.action, "what": event.what, "reason": event.reason}
        line = json_line({"time": timestamp(time.time()), **fields, "size": event.size})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(line.encode() + b"\n")
                full = file.tell() > _JOURNAL_SIZE
            if full:
                self._durable.rename(str(self._path), f"{self._path}.1")
        except OSError as error:
            log.error("the journal %s cannot be written: %s; it lacks %s", self._path, error.strerror, line)


class State:
    """When a store was last collected to its end, and after which repository a run that was cut short goes on."""

    def __init__(self, store: StoreConfig) -> None:
        self._path = f"{Layout(store.root_directory).gc}/state"

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


class Stores:
    """The stores of a configuration, each with what it takes to collect it."""

    def __init__(self, config: Config, controller: StoreController | None = None) -> None:
        self._config = config
        self.controller = controller or build_controller(config)

    def collector(
        self, prefix: str, *, dry_run: bool = False, tell: Callable[[Event], None] | None = None
    ) -> Collector:
        """Return what collects a store; its events go to the journal, and to `tell`."""
        store = self._config.stores[prefix]
        journal = Journal(Layout(store.root_directory))

        def happened(event: Event) -> None:
            if not dry_run:
                journal.write(event)
            if tell:
                tell(event)

        return Collector(
            self.controller.at(prefix).backend,
            delay=store.gc_delay,
            undo=store.undo,
            retain=partial(_retain, self.controller.at(prefix), store),
            sparse_indexes=self._config.server.sparse_indexes,
            dry_run=dry_run,
            tell=happened,
        )

    def collect(self, prefix: str, collector: Collector, result: Result, deadline: float = math.inf) -> None:
        """Collect a whole store, from where the last run was cut short, until a time of time.monotonic()."""
        store = self._config.stores[prefix]
        if not os.path.isdir(store.root_directory):
            return
        state = State(store)
        after = state.after
        for name in self.places(prefix, after):
            if time.monotonic() >= deadline:
                result.finished = False
                break
            collector.collect(name, result)
            after = name
        if result.finished:
            collector.sweep_pool(result)
        if not collector.dry_run:
            state.save(after="" if result.finished else after)

    def places(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield the names in a store that may hold something to collect."""
        for name in self.controller.at(prefix).backend.places(after):
            if self.controller.prefix(name) == prefix:
                yield name


def _retain(images: ImageStore, store: StoreConfig, repository: str, dry_run: bool) -> list[tuple[str, str]]:
    """Delete what the policies do not keep, or tell what that would be; return names and reasons."""
    only_told = store.retention is not None and store.retention.dry_run
    if not dry_run and not only_told:
        return [(verdict.name, verdict.reason) for verdict in images.retain(repository)]
    gone = due(images.verdicts(repository)) if images.backend.index_version(repository) else []
    if only_told and gone:
        log.info("retention.dryRun: of repository %s would go: %s", repository, ", ".join(one.name for one in gone))
    return [(verdict.name, verdict.reason) for verdict in gone] if dry_run else []


def collect_on_schedule(config: Config) -> None:
    """Start a thread of this process that collects each store when that is due, and nobody else is doing so."""
    for prefix, store in config.stores.items():
        if store.gc:
            threading.Thread(target=_keep_collecting, args=(config, prefix, store), daemon=True).start()


def _keep_collecting(config: Config, prefix: str, store: StoreConfig) -> None:
    """Look again and again whether a collection is due; a process that dies leaves its lock to the others."""
    started = time.time()
    pause = min(store.gc_interval, _LONGEST_PAUSE)
    while True:
        time.sleep(pause * random.uniform(0.5, 1.0))  # workers need not look all at once
        try:
            if max(State(store).finished, started) + store.gc_interval <= time.time():
                collect_alone(config, prefix, store)
        except Exception:
            log.exception("the scheduled collection of %s failed", store.root_directory)


def collect_alone(config: Config, prefix: str, store: StoreConfig) -> None:
    """Collect a store, unless somebody else is doing so or has just done it."""
    with suppress(BlockingIOError), locks.exclusive(f"{Layout(store.root_directory).gc}/lock", wait=False):
        if State(store).finished + store.gc_interval > time.time():
            return
        stores, result = Stores(config), Result()
        stores.collect(prefix, stores.collector(prefix), result)
        if result.deleted or result.binned or result.unlinked or result.dropped or result.failed:
            log.info(
                "collected %s: %d tags deleted, %d blobs set aside, %d blobs of %d bytes gone, %d repositories failed",
                store.root_directory,
                result.deleted,
                result.binned,
                result.unlinked,
                result.unlinked_bytes,
                len(result.failed),
            )
