"""Build the gate that a configuration describes: the one place where the ways to say who one is are put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.auth.gate import Gate
from registry.auth.rules import LiveRules
from registry.config import Config
from registry.config_auth import AuthConfig
from storage.layout import Layout

if TYPE_CHECKING:
    from registry.auth.identity import PasswordStore
    from registry.auth.passwords import Passwords

#: Whoever verifies a password, or is delayed, holds a thread: of so many threads, one may do so.
_THREADS_PER_SLOT = 4


def build_gate(config: Config) -> Gate:
    """Return the gate; raise ValueError or OSError for files that it needs and that are no good."""
    auth, layout = config.http.auth, Layout(config.storage.root_directory)
    passwords = _passwords(config, auth, layout) if auth.has_passwords else None
    bearer = None
    if auth.bearer:
        from registry.auth.bearer import BearerVerifier  # noqa: PLC0415  # what is not configured is not imported

        bearer = BearerVerifier(auth.bearer)
    tokens = None
    if auth.token:
        from registry.auth.tokens import Tokens  # noqa: PLC0415

        tokens = Tokens(auth.token, layout.auth)
    return Gate(config.http, LiveRules(config), passwords=passwords, bearer=bearer, tokens=tokens)


def _passwords(config: Config, auth: AuthConfig, layout: Layout) -> Passwords:
    # Hashes, and the tables of failures, are 1 MB that a registry without users does not need.
    from registry.auth.guessing import Guesses  # noqa: PLC0415  # what is not configured is not imported
    from registry.auth.keys import Keys  # noqa: PLC0415
    from registry.auth.passwords import Passwords  # noqa: PLC0415

    return Passwords(
        list(_stores(auth)),
        Keys(layout.auth) if auth.apikey else None,
        Guesses(layout.limits),
        slots=config.server.threads // _THREADS_PER_SLOT,
        remember=config.server.auth_cache,
        fail_delay=auth.fail_delay,
    )


def _stores(auth: AuthConfig) -> list[PasswordStore]:
    """Return the user stores in the order in which they are asked: a file answers even when a directory is down."""
    stores: list[PasswordStore] = []
    if auth.htpasswd:
        from registry.auth.htpasswd import HtpasswdStore  # noqa: PLC0415

        stores.append(HtpasswdStore(auth.htpasswd.path))
    if auth.ldap:
        from registry.auth.ldap import LDAPStore  # noqa: PLC0415  # needs the extra "ldap"

        stores.append(LDAPStore(auth.ldap))
    return stores
