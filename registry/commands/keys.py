"""`pierhead key`: make API keys, list them, revoke them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from registry.auth.htpasswd import check_name
from registry.auth.identity import Grant
from registry.auth.keys import KeyInfo, Keys, check_comment
from registry.auth.policy import grant_text, parse_grant
from registry.commands.common import load_config, record
from registry.commands.ownership import acting_as_owner
from registry.config import Config
from registry.config_values import parse_duration, show
from storage.layout import Layout

_DAY = 86_400
_LONGEST = 100 * 365 * _DAY
_DAYS = re.compile(r"(?:([0-9]{1,6})w)?(?:([0-9]{1,6})d)?(.*)", re.DOTALL)

_config = click.option("--config", type=click.Path(), metavar="FILE", help="Default: what PIERHEAD_CONFIG names.")


def _checked(check: Callable[[str], None]) -> Callable[[click.Context, click.Parameter, str], str]:
    """Make a check into what click calls with a value."""

    def callback(context: click.Context, parameter: click.Parameter, value: str) -> str:
        with _refusing_readably():
            check(value)
        return value

    return callback


def _scopes(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[Grant, ...] | None:
    with _refusing_readably():
        return tuple(parse_grant(text) for text in texts) or None


def _lifetime(context: click.Context, parameter: click.Parameter, text: str) -> float | None:
    """Take a Go duration with weeks and days before it, or "never"."""
    if text == "never":
        return None
    with _refusing_readably():
        return parse_lifetime(text)


def parse_lifetime(text: str) -> float:
    """Turn "90d", "2w", "1d12h" or a Go duration into seconds; raise ValueError for anything else and for nothing."""
    match = _DAYS.fullmatch(text)
    if not text or not match:
        raise ValueError('expected a duration such as "90d", "2w" or "12h", or "never"')
    weeks, days, rest = match.groups()
    seconds = (int(weeks or 0) * 7 + int(days or 0)) * _DAY + (parse_duration(rest) if rest else 0.0)
    if not 1 <= seconds <= _LONGEST:
        raise ValueError("expected a duration from one second to 100 years")
    return seconds


@click.group()
def key() -> None:
    """Make API keys, list them, and revoke them.

    A key is used as the password of the one user that it is for, and may do what that user may, within its scopes.
    """


@key.command()
@click.option("--user", required=True, callback=_checked(check_name), help="Whom the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    callback=_scopes,
    metavar="ACTIONS:GLOB",
    help="What the key may be used for at most, such as 'pull:team/*'; may be given several times.",
)
@click.option(
    "--expires",
    "lifetime",
    default="never",
    show_default=True,
    callback=_lifetime,
    metavar="DURATION",
    help="When the key ends, such as 90d or 12h from now.",
)
@click.option("--comment", default="", callback=_checked(check_comment), help="What the key is for.")
@_config
def create(
    user: str, scopes: tuple[Grant, ...] | None, lifetime: float | None, comment: str, config: str | None
) -> None:
    """Make a key and print it, this one time; only a hash of it is kept."""
    settings = load_config(config)
    if not settings.http.auth.apikey:
        raise click.UsageError("http.auth.apikey is not true in the configuration: no key would be accepted")
    with _failing_readably(), acting_as_owner(_place(settings)):
        text, info = _keys(settings).create(user, scopes, lifetime and time.time() + lifetime, comment)
    record(settings, "key create", credential=info.id, keyUser=info.user, scope=_scope_text(info))
    click.echo(text)
    click.echo(f"key {info.id} for {info.user}: {_scope_text(info)}; ends: {_ends(info)}", err=True)
    click.echo("This is the only time that the key is shown.", err=True)


@key.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects.")
@_config
def list_keys(as_json: bool, config: str | None) -> None:
    """List the keys, also those that have expired; what they are is not known any more."""
    settings = load_config(config)
    with _failing_readably():
        keys = _keys(settings).list()
    if as_json:
        click.echo(json.dumps([_described(info) for info in keys]))
        return
    for info in keys:
        fields = (info.id, info.user, _scope_text(info), f"made {_time(info.created)}", f"ends {_ends(info)}")
        click.echo("\t".join((*fields, info.comment)).rstrip("\t"))


@key.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_config
def revoke(ids: tuple[str, ...], config: str | None) -> None:
    """Revoke keys: from now on nobody is let in with them. An ID is the first part of the key, behind pier_."""
    settings = load_config(config)
    with _failing_readably(), acting_as_owner(_place(settings)):
        keys = _keys(settings)
        try:
            keys.revoke(*map(keys.id_in, ids))
        except LookupError as error:
            shown = ", ".join("what looks like a key" if keys.is_key(id_) else show(id_) for id_ in error.args)
            raise click.UsageError(f"there is no key {shown}; nothing was revoked") from None
    for id_ in ids:
        record(settings, "key revoke", credential=keys.id_in(id_))


def _place(settings: Config) -> str:
    """Return a path in the directory of the keys."""
    return f"{Layout(settings.storage.root_directory).auth}/keys.json"


def _keys(settings: Config) -> Keys:
    return Keys(Layout(settings.storage.root_directory).auth)


def _described(info: KeyInfo) -> dict[str, object]:
    return {
        "id": info.id,
        "user": info.user,
        "scopes": None if info.scopes is None else [grant_text(grant) for grant in info.scopes],
        "created": _time(info.created),
        "expires": None if info.expires is None else _time(info.expires),
        "expired": info.expired(time.time()),
        "comment": info.comment,
    }


def _scope_text(info: KeyInfo) -> str:
    if info.scopes is None:
        return "all that the user may do"
    return " ".join(grant_text(grant) for grant in info.scopes)


def _ends(info: KeyInfo) -> str:
    if info.expires is None:
        return "never"
    return _time(info.expires) + (" (expired)" if info.expired(time.time()) else "")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def _refusing_readably() -> Iterator[None]:
    """End with exit code 2 on what a value is not."""
    try:
        yield
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@contextmanager
def _failing_readably() -> Iterator[None]:
    """End with exit code 1 and one line where the file is broken or the system refuses."""
    try:
        yield
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'the file of the keys'}: {error.strerror}") from error
