"""`pierhead du`: what each repository has on the disk, what sharing saves, and how much of each quota is used."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from registry.commands.common import (
    FAILED,
    check_names,
    config_option,
    json_option,
    load_config,
    print_json,
    print_table,
    refuse,
)
from registry.commands.ownership import acting_as_owner
from registry.commands.progress import progress
from registry.config import Config
from registry.stores import build_quotas
from storage.disk_use import DiskUse, RepositoryUse
from storage.layout import Layout
from storage.names import lies_in, longest_prefix
from storage.sizes import show_size

_HEAD = ("REPOSITORY", "BLOBS", "LOGICAL", "SHARE", "OWN", "UPLOADS", "BIN")
_QUOTA_HEAD = ("QUOTA", "USED", "LIMIT", "FULL")


@dataclass(frozen=True, slots=True)
class _Store:
    """One store, and those of its repositories that were asked for; `whole` if that is all of them."""

    root: str
    disk: DiskUse
    chosen: list[RepositoryUse]
    whole: bool

    @property
    def fields(self) -> dict[str, int]:
        """What the repositories come to, in bytes; of a whole store, also what else it has."""
        total = self.disk.total(self.chosen)
        fields = {
            "repositories": len(self.chosen),
            "blobs": sum(len(use.blobs) for use in self.chosen),
            "logical": total.logical,
            "physical": total.physical,
            "saved": total.saved,
            "uploads": total.uploads,
            "bin": total.binned,
        }
        if not self.whole:
            return fields | {"allocated": total.allocated}
        rest = {"poolOnly": self.disk.pool_only, "other": self.disk.rest, "allocated": self.disk.allocated}
        return fields | rest | {"free": _free(self.root)}


@dataclass(frozen=True, slots=True)
class _Quota:
    """How much of a quota is used; `show` makes text of both."""

    name: str
    used: int
    limit: int
    show: Callable[[int], str]


@click.command()
@click.argument("names", metavar="[REPOSITORY]...", nargs=-1)
@config_option
@json_option
def du(*, names: tuple[str, ...], path: str | None, as_json: bool) -> None:
    """Show what the repositories with these names, and those nested in them, have on the disk; or what all have.

    LOGICAL is what the blobs come to; SHARE is that with each file divided between the repositories that share it; OWN
    is what nobody else shares. Exits with 0, with 1 if a part could not be read, with 2 if what was asked for is no
    good.
    """
    wanted = check_names(names)
    config = load_config(path)
    with progress("repositories measured") as advance:
        stores = [_measure(config, prefix, wanted, lambda name: advance(1, name)) for prefix in config.stores]
    for name in wanted:
        if not any(lies_in(use.name, name) for store in stores for use in store.chosen):
            refuse(f"no repository is called {name}, or lies in it")
    quotas = [] if wanted else list(_quotas(config))
    (_print_json if as_json else _print_text)(stores, quotas)
    faults = [fault for store in stores for fault in store.disk.faults]
    for fault in faults:
        click.echo(f"not counted: {fault.filename}: {fault.strerror}", err=True)
    sys.exit(FAILED if faults else 0)


def _measure(config: Config, prefix: str, wanted: Sequence[str], tell: Callable[[str], None]) -> _Store:
    """Walk over a store, and choose what was asked for."""
    root = config.stores[prefix].root_directory
    disk = DiskUse(root, lambda name: longest_prefix(name, config.stores) == prefix, tell)
    chosen = [use for use in disk.repositories if not wanted or any(lies_in(use.name, name) for name in wanted)]
    return _Store(root, disk, chosen, whole=not wanted)


def _quotas(config: Config) -> Iterator[_Quota]:
    """Yield how much of each quota is used, as the server decides on it."""
    quotas = build_quotas(config)
    with acting_as_owner(Layout(config.storage.root_directory).private):
        usages = quotas.usages()
    for usage in usages:
        yield _Quota(usage.prefix or "/", usage.used, usage.limit, show_size)
    if config.storage.max_repos:
        yield _Quota("maxRepos", quotas.count(), config.storage.max_repos, str)


def _free(root: str) -> int:
    """Return how many bytes the file system has left for the store, which need not be there yet."""
    while not os.path.isdir(root):
        root = os.path.dirname(root)
    return shutil.disk_usage(root).free


# what is told


def _print_json(stores: list[_Store], quotas: list[_Quota]) -> None:
    for store in stores:
        for use in store.chosen:
            print_json(_fields(use))
    for store in stores:
        print_json({"total": {"rootDirectory": store.root} | store.fields})
    for quota in quotas:
        print_json({"quota": {"name": quota.name, "used": quota.used, "limit": quota.limit}})


def _fields(use: RepositoryUse) -> dict[str, Any]:
    return {
        "repository": use.name,
        "blobs": len(use.blobs),
        "logical": use.logical,
        "share": use.share,
        "own": use.own,
        "uploads": sum(file.size for file in use.uploads),
        "bin": sum(file.size for file in use.binned),
    }


def _print_text(stores: list[_Store], quotas: list[_Quota]) -> None:
    rows = [list(_fields(use).values()) for store in stores for use in store.chosen]
    if rows:
        print_table([_HEAD, *([name, str(blobs), *map(show_size, sizes)] for name, blobs, *sizes in sorted(rows))])
    for store in stores:
        if store.chosen or store.whole:
            click.echo(f"\n{store.root}")
            print_table(list(_lines(store.fields)), indent="  ")
    if quotas:
        click.echo()
        print_table([_QUOTA_HEAD, *map(_row, quotas)])


def _lines(fields: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    """Yield name, size and meaning of each sum."""
    share = f"{100 * fields['saved'] // fields['logical']}%" if fields["logical"] else "nothing to save"
    meanings = {
        "logical": f"blobs: {fields['blobs']}, repositories: {fields['repositories']}",
        "physical": "their files, each counted once",
        "saved": f"by sharing them: {share}",
        "uploads": "under way, or given up",
        "bin": "set aside, or kept to be restored",
        "poolOnly": "no repository has it: the next collection takes it",
        "other": "indexes, locks, journals and the like",
        "allocated": "all these files, in blocks of the disk",
        "free": "left on the file system",
    }
    for name, meaning in meanings.items():
        if name in fields:
            yield "pool only" if name == "poolOnly" else name, show_size(fields[name]), f" {meaning}"


def _row(quota: _Quota) -> tuple[str, str, str, str]:
    return quota.name, quota.show(quota.used), quota.show(quota.limit), f"{100 * quota.used // quota.limit}%"
