"""The commands, the same under `pierhead` and under `flask --app wsgi`."""

import click
from flask import Flask

from registry import server
from registry.config import Config, ConfigError, load, load_from_environment


def _load(path: str | None) -> Config:
    """Load a file, else what the environment names; end with exit code 1 and a line for each problem of it."""
    try:
        return load(path) if path else load_from_environment()
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        raise click.exceptions.Exit(1) from None


@click.command()
@click.argument("config", required=False, type=click.Path())
def serve(config: str | None) -> None:
    """Serve the registry that the file CONFIG describes.

    Without CONFIG, the file that PIERHEAD_CONFIG names is used, and without that, defaults: 127.0.0.1:5000, ./data.
    """
    try:
        server.run(_load(config))
    except server.StartError as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.argument("config", type=click.Path())
def verify(config: str) -> None:
    """Check the file CONFIG and name every problem with its path, one per line."""
    settings = _load(config)
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{config}: valid")


@click.group()
@click.version_option(package_name="pierhead", prog_name="pierhead")
def main() -> None:
    """Run Pierhead, an OCI registry."""


COMMANDS = (serve, verify)

for _command in COMMANDS:
    main.add_command(_command)


def register(app: Flask) -> None:
    """Offer the commands under `flask --app wsgi` too."""
    for command in COMMANDS:
        app.cli.add_command(command)
