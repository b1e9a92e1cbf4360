"""The command about what retention keeps."""

from __future__ import annotations

import math

import click

from registry.collecting import Stores
from registry.commands.common import (
    FAILED,
    check_names,
    config_option,
    json_option,
    load_config,
    print_json,
    refuse,
)
from registry.config import Config
from storage.clock import timestamp
from storage.errors import StorageError
from storage.retention import Retention, Verdict, is_due


@click.group()
def retention() -> None:
    """See what the policies of storage.retention keep, and until when; `pierhead gc` carries them out."""


@retention.command()
@click.argument("repository")
@config_option
@json_option
def explain(*, repository: str, path: str | None, as_json: bool) -> None:
    """List each tag of a repository, and each manifest without one, with the rule that keeps or drops it."""
    (name,) = check_names([repository])
    config = load_config(path)
    number, settings = _policy(config, stores := Stores(config), name)
    store = stores.controller.store(name)
    try:
        verdicts = store.verdicts(name)
    except (StorageError, OSError) as error:
        click.echo(f"{name}: {error}", err=True)
        raise click.exceptions.Exit(FAILED) from None
    for verdict in sorted(verdicts, key=lambda one: (-one.pushed, one.name)):
        if as_json:
            print_json(_as_json(verdict, number))
        else:
            click.echo(f"{verdict.name}  {_fate(verdict)}  ({verdict.reason})")
    if not as_json:
        since = timestamp(store.backend.pulls_known_since())
        click.echo(f"policies[{number}] decides for {name}; pulls are known since {since}", err=True)
        if settings.dry_run:
            click.echo("retention.dryRun is set: nothing is removed", err=True)


def _policy(config: Config, stores: Stores, name: str) -> tuple[int, Retention]:
    """Return the number of the policy that decides for a repository; end if there is none."""
    settings = config.stores[stores.controller.prefix(name)].retention
    policy = settings.policy(name) if settings else None
    if settings is None or policy is None:
        refuse(f"no policy of storage.retention is about {name}: it keeps everything")
    return settings.policies.index(policy), settings


def _fate(verdict: Verdict) -> str:
    if verdict.until == math.inf:
        return "stays"
    if is_due(verdict):
        return "goes with the next collection"
    return f"stays until {timestamp(verdict.until)}"


def _as_json(verdict: Verdict, policy: int) -> dict[str, object]:
    endless = verdict.until == math.inf
    return {
        "tag": verdict.tag,
        "digest": verdict.digest,
        "kept": not is_due(verdict),
        "until": None if endless or is_due(verdict) else timestamp(verdict.until),
        "rule": verdict.reason,
        "policy": policy,
        "pushed": timestamp(verdict.pushed),
        "pulled": None if verdict.pulled is None else timestamp(verdict.pulled),
    }
