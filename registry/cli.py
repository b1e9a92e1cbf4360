"""The commands, the same under `pierhead` and under `flask --app wsgi`; each is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click
from flask import Flask
from flask.cli import AppGroup

from registry import server
from registry.auth.build import build_gate
from registry.commands.common import load_config

#: The module below `registry` and the name there of each command.
_COMMANDS = {
    "serve": ("cli", "serve"),
    "verify": ("cli", "verify"),
    "user": ("commands.users", "user"),
    "key": ("commands.keys", "key"),
    "token": ("commands.tokens", "token"),
    "authz": ("commands.authz", "authz"),
    "gc": ("commands.garbage", "gc"),
    "history": ("commands.garbage", "history"),
    "restore": ("commands.garbage", "restore"),
    "purge": ("commands.garbage", "purge"),
    "repo": ("commands.repositories", "repo"),
    "retention": ("commands.retention", "retention"),
    "scrub": ("commands.scrub", "scrub"),
    "import": ("commands.transfer", "import_"),
    "export": ("commands.transfer", "export"),
    "du": ("commands.disk", "du"),
    "nginx-config": ("commands.nginx", "nginx_config"),
    "ping": ("commands.ping", "ping"),
    "doctor": ("commands.doctor", "doctor"),
}


class _Commands(AppGroup):
    """Load a command when it is asked for: the server, which asks for none, has no room for their libraries."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return all names."""
        return sorted(_COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Return a command; None if there is no such."""
        if name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[name]
        command: click.Command = getattr(import_module(f"registry.{module}"), attribute)
        return command


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


@click.group(cls=_Commands)
@click.version_option(package_name="pierhead", prog_name="pierhead")
def main() -> None:
    """Run Pierhead, an OCI registry."""


def register(app: Flask) -> None:
    """Offer the commands under `flask --app wsgi` too."""
    app.cli = _Commands(app.cli.name)
