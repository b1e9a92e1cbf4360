"""The commands about whole repositories."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import NoReturn

import click

from registry.collecting import Stores
from registry.commands.common import (
    FAILED,
    check_names,
    config_option,
    dry_run_option,
    json_option,
    load_config,
    print_json,
    print_table,
    record,
    refuse,
)
from registry.commands.ownership import acting_as_owner
from registry.config import Config
from storage.backend import Backend
from storage.clock import timestamp
from storage.errors import RepositoryUnknown, StorageError
from storage.gc import Result
from storage.index import RepositoryIndex, pushed_at
from storage.layout import Layout
from storage.moving import NotMovable, move
from storage.sizes import show_size

_HEAD = ("REPOSITORY", "TAGS", "MANIFESTS", "SIZE", "PUSHED")


@dataclass(frozen=True, slots=True)
class _Row:
    """A repository: `manifests` that are listed by its index itself, `size` in bytes; None where that is damaged."""

    repository: str
    tags: int | None
    manifests: int | None
    size: int
    pushed: str | None


@click.group()
def repo() -> None:
    """List, delete and rename repositories."""


@repo.command()
@click.argument("prefix", required=False)
@config_option
@json_option
def ls(*, prefix: str | None, path: str | None, as_json: bool) -> None:
    """List the repositories, or PREFIX and those nested in it."""
    below = check_names([prefix]) if prefix else [""]
    controller = Stores(load_config(path)).controller
    names, _ = controller.repositories(below=below)
    rows = [_look(controller.store(name).backend, name) for name in names]
    if as_json:
        for row in rows:
            print_json(dataclasses.asdict(row))
    elif rows:
        print_table([_HEAD, *map(_cells, rows)])


@repo.command()
@click.argument("repositories", metavar="REPOSITORY...", nargs=-1, required=True)
@click.option("--purge", is_flag=True, help="Unlink the content at once: nothing can be restored.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@dry_run_option
@json_option
def rm(  # noqa: PLR0913
    *, repositories: tuple[str, ...], purge: bool, yes: bool, path: str | None, dry_run: bool, as_json: bool
) -> None:
    """Delete all tags and manifests of repositories; those nested in them stay.

    `pierhead restore` gives tags back for as long as storage.undo says. Exits with 1 if one is not there, or damaged.
    """
    names = list(dict.fromkeys(check_names(repositories)))
    config = load_config(path)
    stores = Stores(config)
    for name in names:
        if stores.controller.store(name).backend.index_version(name) is None:
            _fail(f"there is no repository {name}; nothing was changed")
    if not (dry_run or yes):
        _ask(names)
    for name in names:
        prefix = stores.controller.prefix(name)
        with acting_as_owner(Layout(config.stores[prefix].root_directory).private):
            row = _look(stores.controller.at(prefix).backend, name)
            if not dry_run:
                _remove(stores, prefix, name, purge)
                record(config, "delete repository", repository=name, purge=purge)
        if as_json:
            print_json(dataclasses.asdict(row) | {"purge": purge, "dryRun": dry_run})
        else:
            verb = "would be" if dry_run else "is"
            click.echo(f"{name} {verb} deleted: {row.tags} tags, {row.manifests} manifests")


@repo.command()
@click.argument("old")
@click.argument("new")
@config_option
@dry_run_option
@json_option
def mv(*, old: str, new: str, path: str | None, dry_run: bool, as_json: bool) -> None:
    """Give the repository OLD the name NEW, which must be free; those nested in OLD stay where they are.

    What was cut short can be done again. Exits with 1 if it cannot be moved; then nothing has changed.
    """
    source, target = check_names([old, new])
    if source == target:
        refuse(f"{source} has that name already")
    config = load_config(path)
    stores = Stores(config)
    with acting_as_owner(_private(config, stores, target)):
        try:
            blobs = move(stores.controller, source, target, dry_run=dry_run)
        except (StorageError, NotMovable, OSError) as error:
            _fail(f"{source} cannot be moved to {target}: {error}")
    if not dry_run:
        record(config, "move repository", repository=source, target=target)
    if as_json:
        print_json({"from": source, "to": target, "blobs": blobs, "dryRun": dry_run})
    else:
        click.echo(f"{source} {'would be' if dry_run else 'is'} {target} now: {blobs} blobs")


def _remove(stores: Stores, prefix: str, name: str, purge: bool) -> None:
    try:
        stores.controller.at(prefix).delete_repository(name)
    except (StorageError, OSError) as error:
        _fail(f"{name} cannot be deleted: {error}")
    if purge:
        result = Result()
        stores.collector(prefix).purge(name, result)
        if result.failed:
            _fail(f"{name} is deleted, but not all of its content is unlinked: run pierhead purge {name}")


def _ask(names: list[str]) -> None:
    if not sys.stdin.isatty():
        refuse("nobody can be asked here: say --yes")
    click.confirm(f"Delete {', '.join(names)}?", abort=True, err=True)


def _look(backend: Backend, name: str) -> _Row:
    size = sum(backend.contents(name).values())
    try:
        index = RepositoryIndex.parse(backend.read_index(name)[0])
    except RepositoryUnknown:
        return _Row(name, 0, 0, size, None)
    except StorageError:
        return _Row(name, None, None, size, None)
    pushed = max((at for at in map(pushed_at, index.entries) if at), default=None)
    return _Row(name, len(index.tags), len(index.by_digest), size, timestamp(pushed) if pushed else None)


def _cells(row: _Row) -> tuple[str, ...]:
    counts = ("damaged" if number is None else str(number) for number in (row.tags, row.manifests))
    return row.repository, *counts, show_size(row.size), row.pushed or "-"


def _private(config: Config, stores: Stores, name: str) -> str:
    return Layout(config.stores[stores.controller.prefix(name)].root_directory).private


def _fail(message: str) -> NoReturn:
    click.echo(message, err=True)
    raise click.exceptions.Exit(FAILED)
