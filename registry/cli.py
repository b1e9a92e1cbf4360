"""The commands, the same under `pierhead` and under `flask --app wsgi`."""

import click
from flask import Flask

from registry import server
from registry.auth.build import build_gate
from registry.commands.authz import authz
from registry.commands.common import load_config
from registry.commands.disk import du
from registry.commands.doctor import doctor
from registry.commands.garbage import gc, history, purge, restore
from registry.commands.keys import key
from registry.commands.repositories import repo
from registry.commands.retention import retention
from registry.commands.scrub import scrub
from registry.commands.tokens import token
from registry.commands.transfer import export, import_
from registry.commands.users import user


@click.command()
@click.argument("config", required=False, type=click.Path())
def serve(config: str | None) -> None:
    """Serve the registry that the file CONFIG describes.

    Without CONFIG, the file that PIERHEAD_CONFIG names is used, and without that, defaults: 127.0.0.1:5000, ./data.
    """
    try:
        server.run(load_config(config, code=1))
    except server.StartError as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.argument("config", type=click.Path())
def verify(config: str) -> None:
    """Check the file CONFIG and name every problem with its path, one per line."""
    from registry.tls_check import check as check_tls  # noqa: PLC0415  # the server has no use for its libraries

    settings = load_config(config, code=1)
    try:
        build_gate(settings)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    findings = check_tls(settings.http.tls) if settings.http.tls else []
    faults = [str(finding) for finding in findings if finding.fatal]
    if faults:
        raise click.ClickException("\n".join(faults))
    for warning in (*settings.warnings, *findings):
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{config}: valid")


@click.group()
@click.version_option(package_name="pierhead", prog_name="pierhead")
def main() -> None:
    """Run Pierhead, an OCI registry."""


COMMANDS = (
    serve,
    verify,
    user,
    key,
    token,
    authz,
    gc,
    history,
    restore,
    purge,
    repo,
    retention,
    scrub,
    import_,
    export,
    du,
    doctor,
)

for _command in COMMANDS:
    main.add_command(_command)


def register(app: Flask) -> None:
    """Offer the commands under `flask --app wsgi` too."""
    for command in COMMANDS:
        app.cli.add_command(command)
