"""The commands that bring images in from files, and give them out as files."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import click

from registry.commands.common import (
    BAD_INPUT,
    FAILED,
    check_names,
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
from registry.stores import build_controller
from storage.controller import StoreController
from storage.digest import parse_digest
from storage.durable import replacing, write_all
from storage.errors import DigestInvalid, IndexDamaged, NameInvalid, StorageError, TagInvalid
from storage.layout import Layout
from storage.names import check_name, check_tag
from storage.transfer.detect import detect
from storage.transfer.errors import Damaged, Missing, SourceError
from storage.transfer.exporting import Platform, Write, gather, write
from storage.transfer.importing import Importer, Outcome
from storage.transfer.planning import Target, plan
from storage.transfer.sources import Repository


@click.command("import")
@click.argument("source", type=click.Path())
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@config_option
@click.option("--copy", is_flag=True, help="Link no file: the source may be changed afterwards.")
@click.option("--keep-tags", is_flag=True, help="Leave tags as they are that the registry has already.")
@dry_run_option
@json_option
def import_(  # noqa: PLR0913
    *,
    source: str,
    name: str | None,
    path: str | None,
    copy: bool,
    keep_tags: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import images from SOURCE; the server may serve meanwhile.

    SOURCE is what `docker save` or `podman save` wrote, an OCI image layout (a directory, or a tar archive, compressed
    by gzip or not), the storage of a distribution registry (docker-registry), or a directory of OCI image layouts, as
    zot's. NAME is the repository, where the source does not say it or it shall be another; for the last two, what
    stands before the names of all repositories. What is there already is not read again, so an import that was
    interrupted can be repeated. Exits with 0, with 1 if something could not be imported, with 2 if nothing was changed.
    """
    target = _target(name)
    config = load_config(path)
    controller = build_controller(config)
    importer = Importer(copy=copy, keep_tags=keep_tags, dry_run=dry_run, using=_acting(config, controller))
    try:
        found = detect(source)
        _check_elsewhere(config, source)
        repositories = plan(found, target)
        with (
            telling(partial(_tell, dry_run=dry_run, as_json=as_json)) as tell,
            progress("bytes read") as advance,
        ):
            importer.tell = advance
            for repository in repositories:
                for outcome in _import(controller, importer, repository):
                    tell(outcome)
    except SourceError as error:
        refuse(error.message if source in error.message else f"{source}: {error.message}")
    except OSError as error:
        click.echo(f"the import stopped: {error}; once that is mended, it can be repeated", err=True)
        raise click.exceptions.Exit(FAILED) from None
    _finish(config, source, found.kind, importer, as_json)


def _target(name: str | None) -> Target:
    """Take a name and a tag apart; end on what can be neither."""
    repository, tag = _split(name or "")
    if repository:
        check_names([repository])
    elif name:
        refuse(f"{name!r} names no repository")
    return Target(repository or None, None if tag is None else _tag(tag))


def _split(name: str) -> tuple[str, str | None]:
    start = name.rfind("/") + 1
    last, colon, tag = name[start:].partition(":")
    return name[:start] + last, tag if colon else None


def _tag(tag: str) -> str:
    try:
        return check_tag(tag)
    except TagInvalid as error:
        refuse(f"{tag!r}: {error}")


def _check_elsewhere(config: Config, source: str) -> None:
    """Raise SourceError if the source and a store lie in each other."""
    path = os.path.realpath(source)
    for store in config.stores.values():
        root = os.path.realpath(store.root_directory)
        if os.path.isdir(path) and os.path.commonpath([path, root]) in (path, root):
            raise SourceError(f"the store {store.root_directory} and this directory lie in each other")


def _acting(config: Config, controller: StoreController) -> Callable[[str], AbstractContextManager[None]]:
    """Return what acts, for a repository, as the owner of the store that it lies in."""

    def act(repository: str) -> AbstractContextManager[None]:
        return acting_as_owner(Layout(config.stores[controller.prefix(repository)].root_directory).private)

    return act


def _import(controller: StoreController, importer: Importer, repository: Repository) -> Iterator[Outcome]:
    """Import a repository of a source, image by image."""
    name = repository.name or ""
    for failure in repository.failures:
        yield importer.failed(name, failure.what, failure.reason)
    try:
        check_name(name)
    except NameInvalid as error:
        if repository.roots:
            yield importer.failed(name, "all", error.message)
        return
    for root in repository.roots:
        yield importer.run(controller.store(name), name, repository.content, root)


def _tell(outcome: Outcome, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(outcome) | {"dryRun": dry_run})
        return
    failed = outcome.action == "failed"
    verb = {"failed": "not imported", "imported": "would be imported" if dry_run else "imported"}
    what = f"{', '.join(outcome.tags)} ({outcome.digest})" if outcome.tags else outcome.digest
    names = {*outcome.tags, *(f"{outcome.repository}:{tag}" for tag in outcome.tags)}
    others = [name for name in outcome.called if name not in names]
    was = f", which was {', '.join(others)}" if others else ""
    why = f": {outcome.reason}" if outcome.reason else ""
    where = f"{outcome.repository}: " if outcome.repository else ""
    click.echo(f"{where}{verb.get(outcome.action, outcome.action)}: {what}{was}{why}", err=failed)


def _finish(config: Config, source: str, kind: str, importer: Importer, as_json: bool) -> None:
    """Tell what an import came to, and end with the code for it."""
    totals, dry_run = importer.totals, importer.dry_run
    if not dry_run and (totals.imported or totals.brought):
        record(config, "import", source=source, imported=totals.imported, failed=totals.failed)
    if as_json:
        print_json({"summary": {"source": kind, **dataclasses.asdict(totals), "dryRun": dry_run}})
    else:
        would, copied = ("would be ", "would be linked or copied") if dry_run else ("", "copied")
        click.echo(
            f"{kind}: {totals.imported} images {would}imported, {totals.unchanged} there already, {totals.kept} kept, "
            f"{totals.failed} failed"
        )
        click.echo(
            f"blobs: {totals.linked} linked ({totals.linked_bytes} bytes), {totals.copied} {copied} "
            f"({totals.copied_bytes} bytes), {totals.skipped} there already ({totals.skipped_bytes} bytes)"
        )
    if totals.failed:
        done = totals.imported or totals.unchanged or totals.kept or totals.brought
        sys.exit(FAILED if done else BAD_INPUT)


@click.command()
@click.argument("image", metavar="REPOSITORY[:TAG|@DIGEST]")
@config_option
@click.option("-o", "--output", type=click.Path(), help="The file to write; else standard output.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Only the image for this platform, of several.")
def export(*, image: str, path: str | None, output: str | None, platform: str | None) -> None:
    """Write an image, or all of a repository, to a tar archive; the server may serve meanwhile.

    The archive is an OCI image layout, and `docker load` reads it too. With the image come its signatures and whatever
    else refers to it; without a tag or digest, all that the repository has. Exits with 0, with 1 if content is missing
    or damaged (there is no file then), with 2 if what was asked for is no good.
    """
    name, reference = _reference(image)
    wanted = _platform(platform) if platform else None
    if wanted and reference is None:
        refuse("--platform needs a tag or a digest")
    config = load_config(path)
    controller = build_controller(config)
    try:
        with _output(output) as out, _acting(config, controller)(name):
            sparse = config.server.sparse_indexes
            found = gather(controller.store(name), name, reference, wanted, sparse=sparse)
            with progress("bytes written", found.size) as advance:
                write(found, out, advance)
    except (Missing, Damaged, IndexDamaged) as error:
        click.echo(f"{image} is not exported: {error.message}", err=True)
        raise click.exceptions.Exit(FAILED) from None
    except StorageError as error:
        refuse(f"{image}: {error.message}")
    except OSError as error:
        click.echo(f"{image} is not exported: {error}", err=True)
        raise click.exceptions.Exit(FAILED) from None


def _reference(image: str) -> tuple[str, str | None]:
    """Take a repository and a tag or digest apart; end on what can be neither."""
    name, sign, digest = image.partition("@")
    repository, tag = _split(name)
    if sign and tag:
        refuse("give either a tag or a digest")
    check_names([repository])
    if not sign:
        return repository, None if tag is None else _tag(tag)
    try:
        return repository, parse_digest(digest)
    except DigestInvalid as error:
        refuse(str(error))


def _platform(text: str) -> Platform:
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):  # noqa: PLR2004
        refuse(f"{text!r} is no platform such as linux/arm64")
    return Platform(*parts)


def _forget_stdout() -> None:
    """Let what was not written go nowhere: Python would try again at its end, and fail with a code of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def _output(path: str | None) -> Iterator[Write]:
    """Open what is written to: a file gets its name at the end."""
    if path is None:
        if sys.stdout.isatty():
            refuse("an archive is nothing for a terminal: name a file with -o, or send it elsewhere")
        try:
            yield sys.stdout.buffer.write
            sys.stdout.buffer.flush()
        except OSError:
            _forget_stdout()
            raise
        return
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))) or os.path.isdir(path):
        refuse(f"{path}: there is no such directory, or it is one itself")
    with replacing(path) as descriptor:
        yield partial(write_all, descriptor)
