"""`pierhead token`: the keys that sign the registry's own tokens."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from registry.auth.signing import SigningKey
from registry.auth.tokens import Tokens
from registry.commands.common import BAD_INPUT, load_config, record
from registry.commands.ownership import acting_as_owner
from registry.config import Config
from storage.layout import Layout

_CONFIG = click.option("--config", type=click.Path(), help="The configuration, else what PIERHEAD_CONFIG names.")


@click.group()
def token() -> None:
    """Look after the keys that sign the registry's own tokens."""


@token.command()
@click.option("--revoke", is_flag=True, help="Refuse at once whatever older keys have signed.")
@_CONFIG
def rotate(revoke: bool, config: str | None) -> None:
    """Sign with a new key from now on, in all workers.

    Tokens that older keys have signed stay good until they expire. With --revoke they end now: clients log in again.
    """
    settings = _settings(config)
    tokens = _tokens(settings)
    try:
        with acting_as_owner(tokens.path):
            key = tokens.rotate(revoke=revoke)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{tokens.path}: {_words(error)}") from None
    record(settings, "token rotate --revoke" if revoke else "token rotate", credential=key.kid)
    click.echo(f"{key.kid} signs from now on")


@token.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects.")
@_CONFIG
def keys(as_json: bool, config: str | None) -> None:
    """List the keys: name, when it was made, until when it verifies. the one that signs comes last."""
    tokens = _tokens(_settings(config))
    try:
        found = tokens.signing_keys()
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{tokens.path}: {_words(error)}") from None
    if as_json:
        click.echo(json.dumps([_as_object(key) for key in found]))
        return
    for key in found:
        click.echo(f"{key.kid}\t{_time(key.created)}\t{_end(key) or 'signs'}")


def _settings(path: str | None) -> Config:
    config = load_config(path)
    if config.http.auth.token is None:
        click.echo("http.auth.token: is not set, so this registry signs no tokens", err=True)
        raise click.exceptions.Exit(BAD_INPUT)
    return config


def _tokens(config: Config) -> Tokens:
    assert config.http.auth.token is not None, "the settings have been looked at"
    return Tokens(config.http.auth.token, Layout(config.storage.root_directory).auth)


def _words(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _as_object(key: SigningKey) -> dict[str, str | None]:
    return {"kid": key.kid, "created": _time(key.created), "until": _end(key)}


def _end(key: SigningKey) -> str | None:
    return None if key.until is None else _time(key.until)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
