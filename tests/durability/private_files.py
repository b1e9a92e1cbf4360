"""Every kind of write to a file that is its owner's alone: each prepares a directory tree and returns the write.

What a tree says is read as a process does that starts on it: by the stores of users, API keys and signing keys.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner

from registry.auth.htpasswd import read_lines
from registry.auth.keys import Keys
from registry.auth.signing import KeyFile
from registry.auth.tokens import Tokens
from registry.commands.users import user
from registry.config_auth import TokenConfig

Write = Callable[[], object]


class Said(NamedTuple):
    """What the files of a tree say: the ids of the API keys, the keys that sign, the lines of the users' file."""

    keys: tuple[str, ...]
    signing: tuple[tuple[str, bool], ...]
    users: tuple[bytes, ...]


class Place:
    """A directory tree in which the registry's root does not exist yet, and a file of users neither."""

    def __init__(self, anchor: Path) -> None:
        """Make nothing yet."""
        self.anchor = anchor
        self.root = anchor / "srv" / "root"
        self.auth = f"{self.root}/.pierhead/auth"
        self.htpasswd = anchor / "etc" / "htpasswd"

    def keys(self) -> Keys:
        """Return the API keys, as a process has them that has just begun."""
        return Keys(self.auth)

    def tokens(self) -> Tokens:
        """Return the tokens, as a process has them that has just begun."""
        return Tokens(TokenConfig(), self.auth)

    def said(self) -> Said:
        """Return what the files say; raise ValueError if one of them is no good."""
        keys = tuple(sorted(info.id for info in self.keys().list()))
        signing = tuple((key.kid, key.until is None) for key in KeyFile(self.auth).stored())
        users = read_lines(self.htpasswd.read_bytes()) if self.htpasswd.exists() else []
        if any(line.problem for line in users):
            raise ValueError("the file of the users is no good")
        return Said(keys, signing, tuple(line.raw for line in users))

    def secret(self) -> list[Path]:
        """Return the files with something in them, temporary ones too; locks have nothing."""
        found = [path for path in self.anchor.rglob("*") if path.is_file() and not path.is_symlink()]
        return [path for path in found if not path.name.endswith(".lock")]

    def temporary(self) -> list[Path]:
        """Return the files that have not come to their names."""
        return [path for path in self.secret() if ".tmp-" in path.name]


def run_user_command(place: Place, command: str, name: str) -> None:
    """Run `pierhead user`; raise OSError if it says that the system refused."""
    cost = ["--cost", "4"] if command != "remove" else []
    arguments = [command, "--htpasswd", str(place.htpasswd), *cost, name]
    done = CliRunner().invoke(user, arguments, input="a password\n")
    if done.exit_code == 1 and isinstance(done.exception, SystemExit):
        raise OSError(done.output)
    assert done.exit_code == 0, (done.output, done.exception)


def first_key(place: Place) -> Write:
    return lambda: place.keys().create("ci", None, None)


def another_key(place: Place) -> Write:
    for _ in range(40):  # enough that the file is more than a page
        place.keys().create("ci", None, None)
    return first_key(place)


def revoke(place: Place) -> Write:
    first_key(place)()
    _, info = place.keys().create("ci", None, None)
    return lambda: place.keys().revoke(info.id)


def first_signing_key(place: Place) -> Write:
    return lambda: KeyFile(place.auth).ring(time.time())


def rotate(place: Place) -> Write:
    first_signing_key(place)()
    return lambda: place.tokens().rotate()


def rotate_and_revoke(place: Place) -> Write:
    rotate(place)()
    return lambda: place.tokens().rotate(revoke=True)


def first_user(place: Place) -> Write:
    return lambda: run_user_command(place, "add", "alice")


def another_user(place: Place) -> Write:
    first_user(place)()
    place.htpasswd.chmod(0o640)
    return lambda: run_user_command(place, "add", "bob")


def another_password(place: Place) -> Write:
    another_user(place)()
    return lambda: run_user_command(place, "passwd", "alice")


def remove_user(place: Place) -> Write:
    another_user(place)()
    return lambda: run_user_command(place, "remove", "alice")


def user_by_a_link(place: Place) -> Write:
    """Prepare an htpasswd file that is a symbolic link into another directory, where it is replaced."""
    target = place.anchor / "etc" / "users"
    first_user(place)()
    os.rename(place.htpasswd, target)
    place.htpasswd.symlink_to(target.name)
    return lambda: run_user_command(place, "add", "bob")


OPERATIONS: tuple[Callable[[Place], Write], ...] = (
    first_key,
    another_key,
    revoke,
    first_signing_key,
    rotate,
    rotate_and_revoke,
    first_user,
    another_user,
    another_password,
    remove_user,
)
