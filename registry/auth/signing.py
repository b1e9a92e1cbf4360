"""The keys that the registry signs its own tokens with: one file, shared by all workers (Ed25519, RFC 8037)."""

from __future__ import annotations

import logging
import os
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import orjson

from registry.auth.identity import StoreUnavailable
from registry.auth.signed import encode, strict_json
from registry.auth.trust import thumbprint
from registry.watched import WatchedFile
from storage.durable import make_private_directory, replace_file
from storage.locks import exclusive

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

log = logging.getLogger(__name__)

NAME = "token-keys.json"
_DAMAGED = "damaged: `pierhead token rotate --revoke` makes a new one, and everybody logs in again"


@dataclass(frozen=True, slots=True, eq=False)
class SigningKey:
    """A key with its name, when it was made, and until when it verifies: None for the one that signs."""

    kid: str
    created: int
    until: int | None
    private: Ed25519PrivateKey = field(repr=False)
    public: Ed25519PublicKey = field(repr=False)

    def is_alive(self, now: float) -> bool:
        """Tell whether the key still verifies."""
        return self.until is None or now < self.until

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        return self.private.sign(message)

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Tell whether a signature is this key's."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

        try:
            self.public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class KeyRing:
    """The keys of one state of the file, the one that signs last."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self.keys = keys
        self.current = keys[-1]

    @cached_property
    def header(self) -> bytes:
        """The header of a token that is signed now."""
        return orjson.dumps({"alg": "EdDSA", "kid": self.current.kid, "typ": "JWT"})

    def find(self, kid: object, now: float) -> SigningKey | None:
        """Return the key of a name, if it still verifies."""
        return next((key for key in self.keys if key.kid == kid and key.is_alive(now)), None)


class KeyFile:
    """Keep the keys; the first that are needed are made on the spot."""

    def __init__(self, directory: str) -> None:
        """Read nothing and make nothing yet."""
        self.path = f"{directory}/{NAME}"
        self._directory = directory
        self._file = WatchedFile(self.path, _parse)

    def ring(self, now: float) -> KeyRing:
        """Return the keys, made if there are none; raise StoreUnavailable if they cannot be read, OSError if not made.

        It is the same object for as long as the file says the same.
        """
        if self._file.generation == 0 and not os.path.exists(self.path):
            self._make_first(now)
        try:
            return self._file.get()
        except (OSError, ValueError) as error:
            log.error("%s: %s", self.path, error)
            raise StoreUnavailable("the keys that sign tokens cannot be read") from None

    def stored(self) -> Sequence[SigningKey]:
        """Return the keys that lie in the file now, and make none; raise OSError and ValueError."""
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123
                return _parse(file.read()).keys
        except FileNotFoundError:
            return []

    def rotate(self, now: float, *, keep_until: float | None) -> SigningKey:
        """Sign with a new key from now on, and return it; the old ones verify until `keep_until`, or None: no more.

        Without the old ones a file that is damaged does not matter. Raises OSError and ValueError.
        """
        make_private_directory(self._directory)
        with exclusive(f"{self.path}.lock"):
            old = [] if keep_until is None else [_retired(key, keep_until) for key in self.stored()]
            new = _make(now)
            self._write([*(key for key in old if key.is_alive(now)), new])
        return new

    def _make_first(self, now: float) -> None:
        make_private_directory(self._directory)
        with exclusive(f"{self.path}.lock"):
            if not os.path.exists(self.path):  # another worker may have been faster
                self._write([_make(now)])

    def _write(self, keys: Sequence[SigningKey]) -> None:
        replace_file(self.path, orjson.dumps({"keys": [_to_jwk(key) for key in keys]}, option=orjson.OPT_INDENT_2))


def _make(now: float) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    return SigningKey(thumbprint(_public_jwk(public)), int(now), None, private, public)


def _retired(key: SigningKey, until: float) -> SigningKey:
    return key if key.until is not None else replace(key, until=int(until))


def _public_jwk(key: Ed25519PublicKey) -> dict[str, object]:
    return {"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_bytes_raw()).decode()}


def _to_jwk(key: SigningKey) -> dict[str, object]:
    secret = encode(key.private.private_bytes_raw()).decode()
    rest = {"d": secret, "kid": key.kid, "created": key.created, "until": key.until}
    return _public_jwk(key.public) | rest


def _parse(data: bytes) -> KeyRing:
    """Read the file; raise ValueError, which quotes nothing of it."""
    try:
        document = strict_json(data)
        ring = KeyRing([_from_jwk(item) for item in document["keys"]])  # type: ignore[index]
    except (ValueError, KeyError, TypeError, IndexError):
        raise ValueError(_DAMAGED) from None
    if [key for key in ring.keys if key.until is None] != [ring.current]:
        raise ValueError(_DAMAGED)
    return ring


def _from_jwk(item: Mapping[str, str]) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    private = Ed25519PrivateKey.from_private_bytes(urlsafe_b64decode(item["d"] + "="))
    public = private.public_key()
    until = item["until"]
    kid = thumbprint(_public_jwk(public))
    return SigningKey(kid, int(item["created"]), None if until is None else int(until), private, public)
