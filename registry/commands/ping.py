"""The command that tells whether the registry answers, for whoever watches it."""

from __future__ import annotations

import http.client
import ssl

import click

from registry.commands.common import FAILED, load_config

_SECONDS = 5.0
#: What a registry answers whom it does not know yet: the second where one has to log in.
_WELL = (200, 401)


@click.command()
@click.argument("path", metavar="[CONFIG]", required=False, type=click.Path())
def ping(path: str | None) -> None:
    """Ask the registry that the file CONFIG describes, on this machine, whether it is well.

    Exits with 0 if it answers as a registry does, with 1 if not, with 2 if CONFIG is no good.
    """
    settings = load_config(path).http
    host, port = settings.local_address, settings.port
    try:
        if settings.tls:  # whose certificate it has is not the question
            context = ssl._create_unverified_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
        connection.request("GET", "/v2/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        if "certificate required" in str(error).lower():  # which it would not say if it were not well
            click.echo(f"{host}:{port}: answers, and asks for a certificate")
            return
        click.echo(f"{host}:{port}: {error}", err=True)
        raise click.exceptions.Exit(FAILED) from None
    if status not in _WELL:
        click.echo(f"{host}:{port}: status {status}", err=True)
        raise click.exceptions.Exit(FAILED)
    click.echo(f"{host}:{port}: answers")
