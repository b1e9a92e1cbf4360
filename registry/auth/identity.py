"""Who somebody is: what every scheme of authentication comes to, and what authorization decides on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Action(StrEnum):
    """What can be done to a repository, in zot's words."""

    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


ALL = frozenset(Action)


@dataclass(frozen=True, slots=True)
class Grant:
    """The most that a credential may be used for: actions on the repositories that a glob matches."""

    pattern: str
    actions: frozenset[Action]


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who makes a request.

    `scheme` is who vouches for them: `htpasswd`, `ldap`, `key`, `bearer`, `certificate` or `anonymous`. `grants` limit
    what they may do, whatever the rules say; None is no limit. `credential` tells their credentials apart: a token
    that was issued for one ends with it.
    """

    name: str = ""
    groups: frozenset[str] = frozenset()
    scheme: str = "anonymous"
    grants: tuple[Grant, ...] | None = None
    credential: str = ""

    @property
    def anonymous(self) -> bool:
        """Tell whether it is nobody in particular."""
        return not self.name


ANONYMOUS = Identity()


class CredentialsRefused(Exception):
    """Credentials were given and are no good; `message` is for the client, `reason` for the audit log."""

    def __init__(self, message: str = "the credentials are not valid", reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or message


class StoreUnavailable(Exception):
    """A user store cannot be asked now, so nobody can tell who somebody is; worth trying again in some seconds."""

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class PasswordStore(Protocol):
    """Where users and their passwords are kept."""

    scheme: str

    def verify(self, user: str, password: str) -> Identity | None:
        """Return who this is, or None for an unknown user and for a wrong password, which take the same time.

        Raises StoreUnavailable.
        """

    def knows(self, user: str) -> bool:
        """Tell whether there is this user, where that can be told without asking anybody."""

    def version(self) -> object:
        """Return what stays equal for as long as a password that was right is right for sure."""

    def renew(self, name: str, credential: str) -> Identity | None:
        """Return who this is now, or None if the user is gone or has another password since; raise StoreUnavailable."""
