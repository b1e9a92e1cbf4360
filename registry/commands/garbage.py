"""The commands about what repositories have lost: collect it, look at it, restore it, or make an end of it."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

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
from storage import gc as marking
from storage import undo
from storage.clock import timestamp
from storage.digest import Digest, parse_digest
from storage.errors import BlobUnknown, DigestInvalid, StorageError
from storage.gc import Event, Result
from storage.image_store import ImageStore
from storage.layout import Layout


@click.command()
@click.argument("repositories", metavar="[REPOSITORY]...", nargs=-1)
@config_option
@dry_run_option
@click.option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Stop then; the next run goes on.")
@click.option("--explain", metavar="DIGEST", help="Collect nothing; tell what keeps this content, or why nothing does.")
@json_option
def gc(  # noqa: PLR0913
    *,
    repositories: tuple[str, ...],
    path: str | None,
    dry_run: bool,
    max_seconds: float | None,
    explain: str | None,
    as_json: bool,
) -> None:
    """Collect the garbage of these repositories, or of all; the server may serve meanwhile.

    What no manifest needs, and is older than gcDelay, is set aside; after gcDelay there it is gone for good. Exits with
    0, with 1 if a repository could not be collected, with 2 if what was asked for is no good.
    """
    names = check_names(repositories)
    config, stores = _open(path)
    check_there(stores, names)
    if explain is not None:
        _explain(config, stores, names, _digest(explain), as_json)
        return
    result = Result()
    deadline = time.monotonic() + max_seconds if max_seconds else math.inf
    with (
        telling(_teller(as_json, dry_run)) as tell,
        progress("repositories collected", len(names) or None) as advance,
    ):
        for prefix, store in config.stores.items():
            with acting_as_owner(Layout(store.root_directory).private):
                collector = stores.collector(prefix, dry_run=dry_run, tell=tell)
                if not names:
                    stores.collect(prefix, collector, result, deadline, advance)
                for name in names:
                    if stores.controller.prefix(name) == prefix and _in_time(deadline, result):
                        collector.collect(name, result)
                        advance(1, name)
    _finish(config, "gc", result, as_json, dry_run)


@click.command()
@click.argument("repositories", metavar="[REPOSITORY]...", nargs=-1)
@config_option
@dry_run_option
@json_option
def purge(*, repositories: tuple[str, ...], path: str | None, dry_run: bool, as_json: bool) -> None:
    """Unlink at once all that could be restored, and all that was set aside, in these repositories or in all.

    For a leaked secret: delete its manifests first. What a manifest still needs stays.
    """
    names = check_names(repositories)
    config, stores = _open(path)
    check_there(stores, names)
    result = Result()
    with (
        telling(_teller(as_json, dry_run)) as tell,
        progress("repositories purged", len(names) or None) as advance,
    ):
        for prefix, store in config.stores.items():
            with acting_as_owner(Layout(store.root_directory).private):
                collector = stores.collector(prefix, dry_run=dry_run, tell=tell)
                for name in names or stores.places(prefix):
                    if stores.controller.prefix(name) == prefix:
                        collector.purge(name, result)
                        advance(1, name)
    _finish(config, "purge", result, as_json, dry_run)


@click.command()
@click.argument("repository")
@config_option
@json_option
def history(*, repository: str, path: str | None, as_json: bool) -> None:
    """List what a repository has lost and can be restored: the time, the tag, and the digest that it had until then."""
    (name,) = check_names([repository])
    _, stores = _open(path)
    check_there(stores, [name])
    for lost in undo.history(stores.controller.store(name).backend, name):
        when = timestamp(lost.time)
        if as_json:
            print_json({"time": when, "tag": lost.tag, "digest": lost.digest, "mediaType": lost.media_type})
        else:
            click.echo(f"{when}  {lost.tag or '-'}  {lost.digest}")


@click.command()
@click.argument("repository")
@click.argument("what", metavar="TAG[@TIME]")
@config_option
@dry_run_option
@json_option
def restore(*, repository: str, what: str, path: str | None, dry_run: bool, as_json: bool) -> None:
    """Give a tag back the manifest that it had before its last change, or at TIME; or give back a deleted DIGEST.

    TIME is as `pierhead history` shows it. Where content is gone for good, it is named and nothing is changed.
    """
    (name,) = check_names([repository])
    reference, at = _reference(what)
    config, stores = _open(path)
    store = stores.controller.store(name)
    lost = undo.find(store.backend, name, reference, at)
    if lost is None:
        refuse(f"{name} has lost no {what} that is still known: see pierhead history {name}")
    with acting_as_owner(Layout(config.stores[stores.controller.prefix(name)].root_directory).private):
        also = _restore(store, name, lost, dry_run)
    if not dry_run:
        record(config, "restore", repository=name, reference=reference, digest=lost.digest)
    if as_json:
        digests = [other.digest for other in also]
        print_json({"tag": lost.tag, "digest": lost.digest, "referrers": digests, "dryRun": dry_run})
        return
    verb = "would be" if dry_run else "is"
    click.echo(f"{name}:{lost.tag} {verb} {lost.digest} again" if lost.tag else f"{lost.digest} {verb} back")
    for other in also:
        click.echo(f"{other.digest}, which refers to it, {verb} back too")


def _restore(store: ImageStore, name: str, lost: undo.Removed, dry_run: bool) -> list[undo.Removed]:
    try:
        return undo.restore(store, name, lost, dry_run=dry_run)
    except undo.NotRestorable as error:
        for digest in error.missing:
            click.echo(f"{digest} is gone for good; nothing was changed", err=True)
    except (StorageError, OSError) as error:
        click.echo(f"{lost.digest} could not be restored: {error}", err=True)
    raise click.exceptions.Exit(FAILED)


# what was asked for


def _digest(text: str) -> Digest:
    try:
        return parse_digest(text)
    except DigestInvalid as error:
        refuse(str(error))


def _reference(text: str) -> tuple[str, float | None]:
    """Take a tag or digest apart from the time behind it."""
    reference, sign, when = text.partition("@")
    if not sign:
        return reference, None
    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        refuse(f"{when!r} is no time such as 2030-01-31T12:00:00Z")
    return reference, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _open(path: str | None) -> tuple[Config, Stores]:
    config = load_config(path)
    return config, Stores(config)


# what is told


def _in_time(deadline: float, result: Result) -> bool:
    result.finished = result.finished and time.monotonic() < deadline
    return result.finished


def _teller(as_json: bool, dry_run: bool) -> Callable[[Event], None]:
    """Return what writes a line about each event."""

    def tell(event: Event) -> None:
        if as_json:
            print_json(dataclasses.asdict(event) | {"dryRun": dry_run})
        else:
            where = f"{event.repository}: " if event.repository else ""
            size = f" ({event.size} bytes)" if event.size else ""
            click.echo(f"{where}{event.action} {event.what}{size}: {event.reason}", err=event.action == "failed")

    return tell


def _finish(config: Config, action: str, result: Result, as_json: bool, dry_run: bool) -> None:
    """Tell what a run came to, and end with the code for it."""
    summary = dataclasses.asdict(result)
    if not dry_run and (result.deleted or result.binned or result.unlinked or result.dropped):
        record(
            config,
            action,
            deleted=result.deleted,
            binned=result.binned,
            unlinked=result.unlinked,
            bytes=result.unlinked_bytes,
        )
    if as_json:
        print_json({"summary": summary | {"dryRun": dry_run}})
    else:
        would = "would be " if dry_run else ""
        by_retention = f" {result.deleted} tags {would}deleted by retention," if result.deleted else ""
        click.echo(
            f"{result.repositories} repositories:{by_retention}"
            f" {result.binned} blobs {would}set aside ({result.binned_bytes} bytes),"
            f" {result.unlinked} {would}unlinked ({result.unlinked_bytes} bytes), {result.dropped} leftovers dropped"
        )
        if not result.finished:
            click.echo("time ran out; the next run goes on from here")
    sys.exit(FAILED if result.failed else 0)


def _explain(config: Config, stores: Stores, names: list[str], digest: Digest, as_json: bool) -> None:
    found = False
    for prefix in config.stores:
        for name in names or stores.places(prefix):
            if stores.controller.prefix(name) == prefix:
                for answer in _answers(config, stores, name, digest):
                    found = True
                    click.echo(json.dumps(answer) if as_json else _as_text(answer))
    if not found and not as_json:
        click.echo("no repository has this content")


def _answers(config: Config, stores: Stores, name: str, digest: Digest) -> Iterator[dict[str, Any]]:
    """Say, for one repository, what keeps some content; nothing if it does not have it."""
    backend = stores.controller.store(name).backend
    delay = config.stores[stores.controller.prefix(name)].gc_delay
    aside = next((blob for blob in backend.binned_blobs(name) if blob.digest == digest), None)
    try:
        path = marking.explain(backend, name, digest)
        size = aside.size if aside else backend.blob_size(name, digest)
    except BlobUnknown:
        return
    except (StorageError, OSError) as error:
        yield {"repository": name, "kept": None, "reason": f"cannot be told: {error}", "path": []}
        return
    if path:
        yield {"repository": name, "kept": True, "size": size, "reason": path[0], "path": path[1:]}
    elif aside:
        gone = timestamp(aside.since + delay)
        reason = f"nothing references it; it was set aside at {timestamp(aside.since)}, and goes after {gone}"
        yield {"repository": name, "kept": False, "size": size, "reason": reason, "path": []}
    else:
        reason = "nothing references it; it is set aside once it is older than gcDelay"
        yield {"repository": name, "kept": False, "size": size, "reason": reason, "path": []}


def _as_text(answer: dict[str, Any]) -> str:
    return " -> ".join([f"{answer['repository']}: {answer['reason']}", *answer["path"]])
