"""The registry's own tokens (`http.auth.token`): signed statements of who somebody is, for minutes or for weeks.

An access token says who makes a request; what they may do is decided at each request, by the rules. A refresh token is
good for nothing but getting access tokens, at /v2/token, for as long as the user is still there.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from registry.auth.identity import Action, CredentialsRefused, Grant, Identity
from registry.auth.signed import (
    Claims,
    Remembered,
    check_parties,
    check_times,
    put_together,
    refused,
    take_apart,
    text_of,
    with_signature,
)
from registry.auth.signing import KeyFile, KeyRing, SigningKey

if TYPE_CHECKING:
    from registry.config_auth import TokenConfig

log = logging.getLogger(__name__)

_ACCESS = "access"
_REFRESH = "refresh"
_MARGIN = 60  #: seconds that a key is kept beyond the last token that it signed
_LONG = 8000  #: bytes; nginx, left to itself, takes no header line of more than 8 KiB


class Tokens:
    """Issue and verify tokens, by keys that all workers share."""

    def __init__(self, config: TokenConfig, directory: str, *, clock: Callable[[], float] = time.time) -> None:
        """Read nothing and make nothing yet; `directory` is where the keys are kept."""
        self.service = config.service
        self._config = config
        self._issuer = config.issuer or config.service
        self._clock = clock
        self._keys = KeyFile(directory)
        self.path = self._keys.path
        self._remembered = Remembered()

    def issue(self, identity: Identity) -> tuple[str, int]:
        """Return an access token for somebody, and the seconds for which it is good; raise StoreUnavailable, OSError.

        Nobody in particular gets one too.
        """
        seconds = int(self._config.expiry)
        token = self._sign(_ACCESS, seconds, _said_of(identity))
        if len(token) > _LONG:
            log.warning("the token of %a has %d bytes, too many for some proxies: groups?", identity.name, len(token))
        return token, seconds

    def issue_refresh(self, identity: Identity, client_id: str) -> str:
        """Return a refresh token, for a client that says what it is; raises what `issue` does."""
        said = _said_of(identity) | {"client_id": client_id}
        said.pop("groups", None)  # they are looked up anew
        return self._sign(_REFRESH, int(self._config.refresh_expiry), said)

    def verify(self, token: str) -> Identity:
        """Return who an access token is of; raise CredentialsRefused, StoreUnavailable and OSError."""
        text, now = text_of(token), self._clock()
        ring = self._keys.ring(now)
        known = self._remembered.find(text, ring, now)
        if known is not None:
            return known
        claims = self._claims(text, _ACCESS, ring, now)
        identity = _identity(claims)
        self._remembered.keep(text, ring, identity, now=now, until=check_times(claims, now))
        return identity

    def verify_refresh(self, token: str) -> Identity:
        """Return whom a refresh token was issued to, to be looked up anew; raises what `verify` does."""
        text, now = text_of(token), self._clock()
        return _identity(self._claims(text, _REFRESH, self._keys.ring(now), now))

    def rotate(self, *, revoke: bool = False) -> SigningKey:
        """Sign with a new key from now on, and return it; raise OSError and ValueError.

        What older keys have signed stays good until it expires; with `revoke` it is refused at once.
        """
        now = self._clock()
        longest = max(self._config.expiry, self._config.refresh_expiry)
        return self._keys.rotate(now, keep_until=None if revoke else now + longest + _MARGIN)

    def signing_keys(self) -> Sequence[SigningKey]:
        """Return the keys that there are, the one that signs last; raise OSError and ValueError."""
        now = self._clock()
        return [key for key in self._keys.stored() if key.is_alive(now)]

    def _sign(self, use: str, seconds: int, said: dict[str, object]) -> str:
        now = self._clock()
        ring = self._keys.ring(now)
        start = int(now)
        claims = {
            "iss": self._issuer,
            "aud": self.service,
            "iat": start,
            "nbf": start,
            "exp": start + seconds,
            "jti": secrets.token_urlsafe(12),
            "use": use,
        }
        message = put_together(ring.header, orjson.dumps(claims | said))
        return with_signature(message, ring.current.sign(message))

    def _claims(self, text: bytes, use: str, ring: KeyRing, now: float) -> Claims:
        """Return what a token of ours says, if it is good and of this use."""
        signed = take_apart(text)
        key = ring.find(signed.header.get("kid"), now)
        if key is None:
            raise refused("no key of ours has signed it, or one that is no longer good")
        if signed.header["alg"] != "EdDSA" or not key.has_signed(signed.message, signed.signature):
            raise refused("its signature is wrong")
        claims = signed.claims()
        check_parties(claims, self.service, self._issuer)
        check_times(claims, now)
        if claims.get("use") != use:
            raise refused(f"no {use} token")
        return claims


def _said_of(identity: Identity) -> dict[str, object]:
    """Return the claims that say who somebody is."""
    said: dict[str, object] = {"sub": identity.name, "scheme": identity.scheme}
    if identity.groups:
        said["groups"] = sorted(identity.groups)
    if identity.credential:
        said["credential"] = identity.credential
    if identity.grants is not None:
        said["grants"] = [[grant.pattern, sorted(grant.actions)] for grant in identity.grants]
    return said


def _identity(claims: Any) -> Identity:
    """Return whom claims of ours are about; what another version of the registry wrote may not be understood."""
    try:
        grants = claims.get("grants")
        return Identity(
            _text(claims["sub"]),
            frozenset(_text(group) for group in claims.get("groups", ())),
            _text(claims["scheme"]),
            None if grants is None else tuple(_grant(*grant) for grant in grants),
            _text(claims.get("credential", "")),
        )
    except (KeyError, TypeError, ValueError):
        raise CredentialsRefused("the token is of another version: log in again") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _grant(pattern: object, actions: Sequence[str]) -> Grant:
    return Grant(_text(pattern), frozenset(Action(action) for action in actions))
