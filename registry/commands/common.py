"""What the commands share: their options, reading the configuration, and ending on what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NoReturn

import click

from registry.audit import Audit, local_entry
from registry.collecting import Stores
from registry.config import Config, ConfigError, load, load_from_environment
from storage.errors import NameInvalid
from storage.names import check_name

#: Something could not be done, or was found to be wrong.
FAILED = 1
#: Bad input: nothing was changed.
BAD_INPUT = 2

config_option = click.option(
    "--config", "path", type=click.Path(), help="The configuration; else what PIERHEAD_CONFIG names."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer with JSON objects, one on each line.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Change nothing; tell what would be done.")


def record(config: Config, action: str, **fields: object) -> None:
    """Write down in the audit log, if there is one, what a command has done."""
    if config.log.audit:
        Audit(config.log.audit).write(local_entry(action, **fields))


def load_config(path: str | None, *, code: int = BAD_INPUT) -> Config:
    """Load a file, else what PIERHEAD_CONFIG names, else the defaults; end with a line for each problem of it."""
    try:
        return load(path) if path else load_from_environment()
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        raise click.exceptions.Exit(code) from None


def check_names(repositories: Iterable[str]) -> list[str]:
    """Return the names that were given; end on one that no repository can have."""
    try:
        return [check_name(name) for name in repositories]
    except NameInvalid as error:
        refuse(str(error))


def check_there(stores: Stores, repositories: Iterable[str]) -> None:
    """End on a repository of which nothing is there, not even what it has lost."""
    for name in repositories:
        if next(stores.controller.store(name).backend.places(prefix=name), None) != name:
            refuse(f"there is no repository {name}; nothing was changed")


def refuse(message: str) -> NoReturn:
    """End because what was asked for is no good."""
    click.echo(message, err=True)
    raise click.exceptions.Exit(BAD_INPUT)


def print_json(answer: object) -> None:
    """Print one line of JSON."""
    click.echo(json.dumps(answer))


def print_table(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Print rows: the first column to the left, numbers and sizes to the right, what begins with a space as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [
            cell if cell.startswith(" ") else cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)
        ]
        click.echo(f"{indent}{first.ljust(widths[0])}  {'  '.join(cells)}".rstrip())
