"""Scrubbing, run: over all stores of a configuration, on schedule or by a command."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from functools import partial

from registry.collecting import Stores
from registry.config import Config
from registry.schedule import State, in_turn, keep_doing
from storage.layout import Layout
from storage.scrub import Finding, Result, Scrubber

log = logging.getLogger(__name__)


def scrubbing(
    stores: Stores, prefix: str, scrubber: Scrubber, result: Result, deadline: float = math.inf
) -> Iterator[str]:
    """Scrub a whole store, from where the last run was cut short, until a time of time.monotonic(); yield names."""
    root = stores.config.stores[prefix].root_directory
    if not os.path.isdir(root):
        return
    state = State(Layout(root).scrub)
    places = partial(stores.places, prefix)
    for name in in_turn(places, state, result, deadline=deadline, keep=not scrubber.dry_run):
        scrubber.scrub(name, result)
        yield name
    if result.finished and not scrubber.dry_run:
        scrubber.tidy()


def scrub_on_schedule(config: Config) -> None:
    """Have each store scrubbed when that is due, if that is wanted at all."""
    scrub = config.extensions.scrub
    if scrub and scrub.enable:
        for prefix, store in config.stores.items():
            keep_doing(partial(_scrub, config, prefix), Layout(store.root_directory).scrub, scrub.interval)


def _scrub(config: Config, prefix: str) -> None:
    stores, result = Stores(config), Result()
    scrubber = Scrubber(stores.controller.at(prefix).backend, speed=config.extensions.scrub_speed, tell=_log)
    for _ in scrubbing(stores, prefix, scrubber, result):
        pass
    log.info(
        "scrubbed %s: %d repositories, %d blobs, %d bytes read, %d problems",
        config.stores[prefix].root_directory,
        result.repositories,
        result.blobs,
        result.size,
        result.problems,
    )


def _log(finding: Finding) -> None:
    log.error("scrub: %s", describe(finding))


def describe(finding: Finding) -> str:
    """Say in a line what is wrong, what it breaks, and what was done about it."""
    broken = ", ".join(
        f"{repository}{':' if ':' not in image else '@'}{image}"
        for repository, images in finding.images.items()
        for image in images
    )
    where = "" if finding.problem in ("index", "failed") else f" in {', '.join(finding.images)}"
    moved = finding.quarantined and finding.problem != "missing"
    done = ("; it is in quarantine" if moved else "") + (
        f"; {', '.join(finding.healed)} has a good copy again" if finding.healed else ""
    )
    detail = f": {finding.detail}" if finding.detail else ""
    effect = f"it breaks {broken}" if broken else "no image needs it"
    return f"{finding.what} is {finding.problem}{where}{detail}{done}; {effect}"
