"""Tokens of a foreign token server (`http.auth.bearer`), as Docker's token protocol has them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from registry.auth.identity import ALL, Action, Grant, Identity
from registry.auth.signed import (
    Claims,
    Remembered,
    check_parties,
    check_times,
    refused,
    subject,
    take_apart,
    text_of,
)
from registry.auth.trust import parse_trust
from registry.watched import WatchedFile
from storage.errors import NameInvalid
from storage.names import check_name

if TYPE_CHECKING:
    from registry.config_auth import BearerConfig

_ACTIONS = {
    "pull": frozenset({Action.READ}),
    "push": frozenset({Action.CREATE, Action.UPDATE}),
    "delete": frozenset({Action.DELETE}),
    "*": ALL,
}

#: A class of repositories, as in `repository(plugin)`, is to be ignored ("Resource Class").
_REPOSITORY = re.compile(r"repository(\([a-z0-9]+\))?")


class BearerVerifier:
    """Tell who a token is of, and what it grants, by the keys in a file that may change at any time."""

    def __init__(self, config: BearerConfig, *, clock: Callable[[], float] = time.time) -> None:
        """Read the keys; raise ValueError or OSError if there are none."""
        self._config = config
        self._clock = clock
        self._trust = WatchedFile(config.cert, parse_trust)
        try:
            self._trust.get()
        except ValueError as error:
            raise ValueError(f"{config.cert}: {error}") from None
        self._remembered = Remembered()

    def verify(self, token: str) -> Identity:
        """Return who a token is of, limited to what it grants; raise CredentialsRefused."""
        text, now, trust = text_of(token), self._clock(), self._trust.get()
        known = self._remembered.find(text, trust, now)
        if known is not None:
            return known
        signed = take_apart(text)
        trust.check(signed, now)
        claims = signed.claims()
        check_parties(claims, self._config.service, self._config.issuer)
        expires = check_times(claims, now)
        identity = Identity(subject(claims), scheme="bearer", grants=grants_of(claims))
        self._remembered.keep(text, trust, identity, now=now, until=expires)
        return identity


def grants_of(claims: Claims) -> tuple[Grant, ...]:
    """Return what the claim `access` grants: nothing where it is missing, or where it says what is not known here.

    Only whole names count: an issuer's globs, if it has any, are not ours. `registry:catalog:*` grants nothing of its
    own, since a list shows whatever may be read. Raises CredentialsRefused if it is no list.
    """
    access = claims.get("access") or []
    if not isinstance(access, list):
        raise refused("its access is no list")
    granted: dict[str, frozenset[Action]] = {}
    for name, actions in _known(access):
        granted[name] = granted.get(name, frozenset()) | actions
    return tuple(Grant(name, actions) for name, actions in granted.items() if actions)


def _known(access: list[object]) -> Iterator[tuple[str, frozenset[Action]]]:
    for entry in access:
        if not isinstance(entry, dict):
            continue
        kind, name, actions = entry.get("type"), entry.get("name"), entry.get("actions")
        if not isinstance(kind, str) or not _REPOSITORY.fullmatch(kind):
            continue
        if isinstance(name, str) and isinstance(actions, list) and _is_repository(name):
            known = (_ACTIONS.get(action, frozenset()) for action in actions if isinstance(action, str))
            yield name, frozenset[Action]().union(*known)


def _is_repository(name: str) -> bool:
    try:
        check_name(name)
    except NameInvalid:
        return False
    return True
