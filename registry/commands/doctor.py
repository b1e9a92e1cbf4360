"""The command that looks at whether the machine is right for a registry."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator

import click

from registry.checks.check import Check, Status, ok, warn
from registry.checks.disk import check_store
from registry.checks.proxy import check_url
from registry.commands.common import FAILED, check_names, config_option, json_option, load_config, print_json, refuse
from registry.commands.ownership import acting_as_owner
from registry.config import Config
from registry.config_values import external_url
from storage.layout import Layout

_FEW_FILES = 4096


@click.command()
@config_option
@click.option("--url", help="Also ask the registry by the URL that clients use; by default http.externalUrl.")
@click.option("--upload", "repository", metavar="REPOSITORY", help="With a URL: begin an upload there, and cancel it.")
@json_option
def doctor(*, path: str | None, url: str | None, repository: str | None, as_json: bool) -> None:
    """Check the disks of all stores, this machine, and the way through a proxy.

    Nothing stays behind. Exits with 0, with 1 if anything has to be mended, with 2 if what was asked for is no good.
    """
    config = load_config(path)
    if repository:
        check_names([repository])
    try:
        target = external_url(url) if url is not None else config.http.external_url
    except ValueError as error:
        refuse(f"--url: {error}")
    if repository and not target:
        refuse("--upload needs --url, or http.externalUrl")
    failed = False
    for check in _checks(config, target, repository):
        failed = failed or check.status is Status.FAIL
        if as_json:
            print_json(dataclasses.asdict(check))
        else:
            click.echo(f"{check.status.upper():4}  {check.subject}  {check.name}: {check.detail}")
    if failed:
        raise click.exceptions.Exit(FAILED)


def _checks(config: Config, url: str | None, repository: str | None) -> Iterator[Check]:
    for store in config.stores.values():
        with acting_as_owner(Layout(store.root_directory).private):
            yield from check_store(store)
    yield _open_files()
    for warning in config.warnings:
        yield warn("configuration", "warning", warning)
    if url:
        yield from check_url(config, url, repository)


def _open_files() -> Check:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _FEW_FILES:
        return warn("machine", "open files", f"at most {limit} here: raise it for the service (LimitNOFILE=65536)")
    return ok("machine", "open files", f"at most {limit} here")
