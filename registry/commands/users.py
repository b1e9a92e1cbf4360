"""`pierhead user`: keep the users of an htpasswd file, and leave everything else in it as it is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from registry.auth import hashes
from registry.auth.htpasswd import Line, check_name, problems, read_lines
from registry.commands.ownership import acting_as_owner
from registry.config_values import show
from storage.durable import replace_file
from storage.locks import exclusive

_COST = 10
_LONGEST_INPUT = 4096

_file = click.option(
    "--htpasswd", "path", required=True, metavar="FILE", type=click.Path(dir_okay=False), help="The file of the users."
)
_cost = click.option(
    "--cost",
    default=_COST,
    show_default=True,
    type=click.IntRange(hashes.BCRYPT_COSTS[0], hashes.BCRYPT_COSTS[-1]),
    help="The cost of bcrypt: one more doubles the time that a login takes, and that a guess takes.",
)


def _named(context: click.Context, parameter: click.Parameter, name: str) -> str:
    try:
        check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return name


_name = click.argument("name", callback=_named)


@click.group()
def user() -> None:
    """Keep the users of an htpasswd file.

    A password is asked for twice on a terminal; elsewhere it is the first line of standard input. A registry that
    serves notices by itself that the file has changed.
    """


@user.command()
@_file
@_cost
@_name
def add(path: str, name: str, cost: int) -> None:
    """Add the user NAME; a file that is missing is made."""

    def append(lines: list[Line]) -> list[bytes]:
        _expect(lines, name, present=False)
        return [*_closed(lines), name.encode() + b":" + made + _ending(lines)]

    with _failing_readably():
        _expect(_read(path, missing_ok=True), name, present=False)
        made = _ask_and_hash(cost)
        new = not os.path.exists(path)
        _edit(path, append, missing_ok=True)
    if new:
        click.echo(f"{path}: made, readable for its owner alone: the registry must run as that user", err=True)


@user.command()
@_file
@_cost
@_name
def passwd(path: str, name: str, cost: int) -> None:
    """Give the user NAME another password; tokens that were issued for the old one end."""

    def change(lines: list[Line]) -> list[bytes]:
        _expect(lines, name, present=True)
        first = next(line for line in lines if line.name == name)
        changed = name.encode() + b":" + made + first.comment + _ending([first])
        return [changed if line is first else line.raw for line in lines if line is first or line.name != name]

    with _failing_readably():
        _expect(_read(path), name, present=True)
        made = _ask_and_hash(cost)
        _edit(path, change)


@user.command()
@_file
@_name
def remove(path: str, name: str) -> None:
    """Remove the user NAME."""

    def drop(lines: list[Line]) -> list[bytes]:
        _expect(lines, name, present=True)
        return [line.raw for line in lines if line.name != name]

    with _failing_readably():
        _edit(path, drop)


@user.command("list")
@_file
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects.")
def list_users(path: str, as_json: bool) -> None:
    """List the users, and what their passwords are hashed with."""
    with _failing_readably():
        lines = _read(path)
    users = [_described(line) for line in lines if line.name is not None]
    if as_json:
        click.echo(json.dumps(users))
    else:
        for entry in users:
            click.echo(f"{entry['name']}\t{entry['scheme'] or 'not accepted'}")
    _warn(lines)


def _described(line: Line) -> dict[str, object]:
    known = line.hash
    return {"name": line.name, "scheme": known and known.scheme, "cost": known and known.cost}


def _expect(lines: list[Line], name: str, *, present: bool) -> None:
    """End with exit code 2 unless the user is there, or is not, as they should."""
    if any(line.name == name for line in lines) != present:
        raise click.UsageError(f"there is {'no' if present else 'already a'} user {show(name)}")


def _ask_and_hash(cost: int) -> bytes:
    try:
        return hashes.make(_password(), cost).encode()
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _password() -> str:
    """Read a password from the terminal, else the first line of standard input; raise ValueError for what is none."""
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return password
    line = sys.stdin.buffer.readline(_LONGEST_INPUT)
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise ValueError("the password is no text in UTF-8") from None


def _read(path: str, *, missing_ok: bool = False) -> list[Line]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return read_lines(file.read())
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from None
    except FileNotFoundError:
        if missing_ok and os.path.isdir(os.path.dirname(os.path.realpath(path))):
            return []
        raise click.UsageError(f"{path}: no such file{' or directory' if missing_ok else ''}") from None


def _edit(path: str, change: Callable[[list[Line]], list[bytes]], *, missing_ok: bool = False) -> None:
    """Replace the file by what `change` makes of its lines, while no other such command does.

    The lock is a file beside it, as only what lies there is found by whoever may change the file; it stays, since a
    lock file that is removed and made anew keeps nobody out.
    """
    _read(path, missing_ok=missing_ok)  # or no lock file is made for it
    with acting_as_owner(path), exclusive(os.path.realpath(path) + ".lock"):
        after = b"".join(change(_read(path, missing_ok=missing_ok)))
        replace_file(path, after)
    _warn(read_lines(after))


def _ending(lines: list[Line]) -> bytes:
    """Return how lines end here."""
    return b"\r\n" if lines and lines[0].raw.endswith(b"\r\n") else b"\n"


def _closed(lines: list[Line]) -> Iterator[bytes]:
    """Yield the lines, each with an end."""
    for line in lines:
        yield line.raw if line.raw.endswith((b"\n", b"\r")) else line.raw + _ending(lines)


def _warn(lines: list[Line]) -> None:
    for problem in problems(lines):
        click.echo(f"warning: {problem}: the registry refuses the file", err=True)


@contextmanager
def _failing_readably() -> Iterator[None]:
    """End with exit code 1 and one line where the system refuses."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'the file'}: {error.strerror}") from error
