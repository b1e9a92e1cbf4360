"""Garbage collection, run: over all stores of a configuration, on schedule or by a command, with a journal."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from registry.config import Config, StoreConfig
from registry.logs import json_line
from registry.schedule import State, in_turn, keep_doing
from registry.stores import build_controller
from storage.clock import timestamp
from storage.controller import StoreController
from storage.durable import Durable
from storage.gc import Collector, Event, Result
from storage.image_store import ImageStore
from storage.layout import Layout
from storage.retention import due

log = logging.getLogger(__name__)

_JOURNAL_SIZE = 16 * 1024 * 1024


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


class Stores:
    """The stores of a configuration, each with what it takes to collect it."""

    def __init__(self, config: Config, controller: StoreController | None = None) -> None:
        self.config = config
        self.controller = controller or build_controller(config)

    def collector(
        self, prefix: str, *, dry_run: bool = False, tell: Callable[[Event], None] | None = None
    ) -> Collector:
        """Return what collects a store; its events go to the journal, and to `tell`."""
        store = self.config.stores[prefix]
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
            sparse_indexes=self.config.server.sparse_indexes,
            dry_run=dry_run,
            tell=happened,
        )

    def collect(
        self,
        prefix: str,
        collector: Collector,
        result: Result,
        deadline: float = math.inf,
        seen: Callable[[int, str], None] = lambda *_: None,
    ) -> None:
        """Collect a whole store, from where the last run was cut short, until a time of time.monotonic().

        `seen` is told, with the number one, of each repository that is done.
        """
        root = self.config.stores[prefix].root_directory
        if not os.path.isdir(root):
            return
        state = State(Layout(root).gc)
        places = partial(self.places, prefix)
        for name in in_turn(places, state, result, deadline=deadline, keep=not collector.dry_run):
            collector.collect(name, result)
            seen(1, name)
        if result.finished:
            collector.sweep_pool(result)

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
    """Have each store collected when that is due."""
    for prefix, store in config.stores.items():
        if store.gc:
            keep_doing(partial(collect, config, prefix), Layout(store.root_directory).gc, store.gc_interval)


def collect(config: Config, prefix: str) -> None:
    """Collect a store, and log what that came to."""
    stores, result = Stores(config), Result()
    stores.collect(prefix, stores.collector(prefix), result)
    if result.deleted or result.binned or result.unlinked or result.dropped or result.failed:
        log.info(
            "collected %s: %d tags deleted, %d blobs set aside, %d blobs of %d bytes gone, %d repositories failed",
            config.stores[prefix].root_directory,
            result.deleted,
            result.binned,
            result.unlinked,
            result.unlinked_bytes,
            len(result.failed),
        )
