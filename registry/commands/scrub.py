"""The command that reads everything again."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from functools import partial

import click

from registry.collecting import Stores
from registry.commands.common import (
    FAILED,
    check_names,
    check_there,
    config_option,
    dry_run_option,
    json_option,
    load_config,
    print_json,
    record,
    refuse,
)
from registry.commands.ownership import acting_as_owner
from registry.commands.progress import progress, telling
from registry.config import Config
from registry.config_values import speed as parse_speed
from registry.scrubbing import describe, scrubbing
from storage.layout import Layout
from storage.scrub import Finding, Result, Scrubber


@click.command()
@click.argument("repositories", metavar="[REPOSITORY]...", nargs=-1)
@config_option
@dry_run_option
@click.option("--speed", metavar="SIZE", help="Read so much in a second at most, such as 50MB; 0 for no limit.")
@click.option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Stop then; the next run goes on.")
@json_option
def scrub(  # noqa: PLR0913
    *,
    repositories: tuple[str, ...],
    path: str | None,
    dry_run: bool,
    speed: str | None,
    max_seconds: float | None,
    as_json: bool,
) -> None:
    """Read all content again, of these repositories or of all; name what is damaged or missing, and what it breaks.

    A damaged blob is moved into quarantine, from which it comes back when it is pushed again. Exits with 0, with 1 if
    anything is wrong, with 2 if what was asked for is no good.
    """
    names = check_names(repositories)
    config = load_config(path)
    stores, rate = Stores(config), _speed(config, speed)
    check_there(stores, names)
    result = Result()
    deadline = time.monotonic() + max_seconds if max_seconds else math.inf
    with (
        telling(partial(_tell, config, as_json=as_json, dry_run=dry_run)) as tell,
        progress("repositories scrubbed", len(names) or None) as advance,
    ):
        for prefix, store in config.stores.items():
            scrubber = Scrubber(stores.controller.at(prefix).backend, speed=rate, dry_run=dry_run, tell=tell)
            with acting_as_owner(Layout(store.root_directory).private):
                if not names:
                    for name in scrubbing(stores, prefix, scrubber, result, deadline):
                        advance(1, name)
                for name in _in_store(stores, prefix, names, result, deadline):
                    scrubber.scrub(name, result)
                    advance(1, name)
    _finish(result, as_json, dry_run)


def _in_store(stores: Stores, prefix: str, names: list[str], result: Result, deadline: float) -> Iterator[str]:
    """Yield those of the names that lie in a store, as long as there is time."""
    for name in names:
        if stores.controller.prefix(name) == prefix:
            if time.monotonic() >= deadline:
                result.finished = False
                return
            yield name


def _speed(config: Config, text: str | None) -> float:
    if text is None:
        return config.extensions.scrub_speed
    try:
        return parse_speed(text)
    except ValueError as error:
        refuse(f"--speed: {error}")


def _tell(config: Config, finding: Finding, *, as_json: bool, dry_run: bool) -> None:
    """Tell what is wrong, and write down what was moved for it."""
    if finding.quarantined and finding.problem != "missing":
        record(config, "quarantine", digest=finding.what, repositories=list(finding.images))
    if as_json:
        print_json(dataclasses.asdict(finding) | {"dryRun": dry_run})
    else:
        click.echo(describe(finding))


def _finish(result: Result, as_json: bool, dry_run: bool) -> None:
    """Tell what a run came to, and end with the code for it."""
    if as_json:
        print_json({"summary": dataclasses.asdict(result) | {"dryRun": dry_run}})
    else:
        click.echo(
            f"{result.repositories} repositories: {result.blobs} blobs looked at, {result.size} bytes read, "
            f"{result.problems} problems"
        )
        if not result.finished:
            click.echo("time ran out; the next run goes on from here")
    if result.problems:
        raise click.exceptions.Exit(FAILED)
