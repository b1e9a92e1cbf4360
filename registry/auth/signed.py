"""A signed token as text: taken apart strictly, its times and its audience, and what was good a moment ago.

RFC 7515, section 7.1 (compact serialization), and RFC 7519, section 4.1. Nothing here believes a token: whoever takes
one apart checks its signature before reading its claims.
"""

from __future__ import annotations

import json
import math
import re
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from registry.auth.identity import CredentialsRefused, Identity

LONGEST = 32 * 1024  #: bytes; the server takes no longer header either
LEEWAY = 60  #: seconds that an issuer's clock may be ahead of ours; an expired token gets none
_REMEMBERED = 1024  #: tokens; about 1 KB each
_REMEMBERED_FOR = 60.0  #: seconds after which a certificate's dates are looked at again

_BASE64URL = re.compile(rb"[A-Za-z0-9_-]*")

Claims = Mapping[str, object]


def refused(reason: str) -> CredentialsRefused:
    """Return the refusal of a token: the client learns that it is no good, the audit log why."""
    return CredentialsRefused("the token is not valid, or no longer", f"token: {reason}")


@dataclass(frozen=True, slots=True, repr=False)
class SignedText:
    """A token in its parts; `message` is what is signed."""

    header: Claims
    message: bytes
    payload: bytes
    signature: bytes

    def claims(self) -> Claims:
        """Return what the token says; raise CredentialsRefused."""
        return _json_object(self.payload, "claims")


def text_of(token: str) -> bytes:
    """Return a token's bytes if it has the length and the characters of one; raise CredentialsRefused."""
    if len(token) > LONGEST:
        raise refused("longer than any that is accepted")
    try:
        return token.encode("ascii")
    except UnicodeEncodeError:
        raise refused("malformed") from None


def take_apart(text: bytes) -> SignedText:
    """Return the parts of a token, none of them believed yet; raise CredentialsRefused."""
    parts = text.split(b".")
    if len(parts) != 3:  # noqa: PLR2004
        raise refused("malformed: not of three parts")
    header, payload, signature = (decode(part) for part in parts)
    fields = _json_object(header, "header")
    if "crit" in fields or "b64" in fields:
        raise refused("its header demands an extension that is not known here")
    if not isinstance(fields.get("alg"), str) or not isinstance(fields.get("kid", ""), str):
        raise refused("malformed header")
    return SignedText(fields, parts[0] + b"." + parts[1], payload, signature)


def put_together(header: bytes, claims: bytes) -> bytes:
    """Return what is to be signed for a token of this header and these claims, both in JSON."""
    return encode(header) + b"." + encode(claims)


def with_signature(message: bytes, signature: bytes) -> str:
    """Return the token that a signed message makes."""
    return (message + b"." + encode(signature)).decode("ascii")


def check_times(claims: Claims, now: float) -> float:
    """Return when the claims expire; raise CredentialsRefused if that was before `now`, or they begin after it."""
    expires = _time(claims, "exp")
    if expires is None:
        raise refused("never expires: it has no exp")
    if now >= expires:
        raise refused("expired")
    for name in ("nbf", "iat"):
        begins = _time(claims, name)
        if begins is not None and begins > now + LEEWAY:
            raise refused(f"not valid yet, by its {name}")
    return expires


def check_parties(claims: Claims, audience: str, issuer: str | None) -> None:
    """Raise CredentialsRefused unless a token is for this audience, and by this issuer if one is given."""
    meant_for = claims.get("aud")
    if audience not in (meant_for if isinstance(meant_for, list) else [meant_for]):
        raise refused("for another service, by its aud")
    if issuer is not None and claims.get("iss") != issuer:
        raise refused("by another issuer, by its iss")


def subject(claims: Claims) -> str:
    """Return whose token it is, empty for nobody in particular; raise CredentialsRefused for what is no name."""
    name = claims.get("sub", "")
    if not isinstance(name, str) or not name.isprintable():
        raise refused("its sub is no name")
    return name


def _time(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise refused(f"its {name} is no time")
    return value


def _is_finite(number: float) -> bool:
    return isinstance(number, int) or math.isfinite(number)


def encode(data: bytes) -> bytes:
    """Return bytes in base64url without padding (RFC 7515, section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=")


def decode(part: bytes) -> bytes:
    """Read base64url as RFC 7515 has it: no padding, one spelling only for the same bytes; raise CredentialsRefused."""
    if _BASE64URL.fullmatch(part) and len(part) % 4 != 1:
        data = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
        if encode(data) == part:
            return data
    raise refused("malformed: not base64url")


def _json_object(data: bytes, what: str) -> Claims:
    try:
        found = strict_json(data)
    except ValueError:
        raise refused(f"malformed {what}") from None
    if not isinstance(found, dict):
        raise refused(f"malformed {what}: no object")
    return found


def strict_json(data: bytes) -> object:
    """Read JSON in which no key repeats and numbers are numbers; raise ValueError, which quotes nothing of it."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON, or with a key twice") from None


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(_name: str) -> object:
    raise ValueError


class Remembered:
    """Whose the tokens are that were verified a moment ago: by their hash, and only while the same keys are in force.

    Verifying a signature takes 50 to 150 µs, and clients send the same token with each request of a push.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[object, float, Identity]] = {}

    def find(self, text: bytes, keys: object, now: float) -> Identity | None:
        """Return whose token this is if it was found good with these very keys, and is not to be looked at anew."""
        known = self._known.get(sha256(text).digest())
        return known[2] if known and known[0] is keys and now < known[1] else None

    def keep(self, text: bytes, keys: object, identity: Identity, *, now: float, until: float) -> None:
        """Remember whose token this is, no longer than it is valid; the oldest is forgotten for it."""
        with self._lock:
            if len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[sha256(text).digest()] = (keys, min(until, now + _REMEMBERED_FOR), identity)
