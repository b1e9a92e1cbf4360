"""API keys: passwords that the registry made itself, for one user each, limited to scopes and in time.

A key is `pier_<id>_<secret>`. Only its SHA-256 is kept, without salt or cost: those slow down guessing what people
choose, and nobody guesses 200 random bits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from registry.auth.htpasswd import check_name
from registry.auth.identity import Grant, Identity
from registry.auth.policy import grant_text, parse_grant
from registry.watched import WatchedFile
from storage.durable import make_private_directory, replace_file
from storage.locks import exclusive

_PREFIX = "pier_"
_KEY = re.compile(rf"{_PREFIX}([a-z2-7]{{8}})_[a-z2-7]{{40}}")
_DIGEST = re.compile("[0-9a-f]{64}")
_NO_DIGEST = bytes(32)
_VERSION = 1
_LONGEST_COMMENT = 200  # characters


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is known of a key; times are seconds since 1970. `scopes` None limits nothing, `expires` None is never."""

    id: str
    user: str
    scopes: tuple[Grant, ...] | None
    created: float
    expires: float | None = None
    comment: str = ""

    def expired(self, now: float) -> bool:
        """Tell whether it is no longer accepted."""
        return self.expires is not None and now >= self.expires


@dataclass(frozen=True, slots=True)
class _Stored:
    info: KeyInfo
    digest: bytes = field(repr=False)


_Table = Mapping[str, _Stored]


class Keys:
    """Keep the keys in a file of the registry's private directory, which all workers look at on each use."""

    def __init__(self, directory: str) -> None:
        """Read the keys, if there are any; raise OSError if that fails, ValueError if the file is no good."""
        self._directory = directory
        self._path = f"{directory}/keys.json"
        self._file: WatchedFile[_Table] = WatchedFile(self._path, _parse, missing=MappingProxyType({}))
        try:
            self._file.get()
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from None

    @staticmethod
    def is_key(text: str) -> bool:
        """Tell whether a password looks like a key."""
        return text.startswith(_PREFIX)

    @staticmethod
    def id_in(text: str) -> str:
        """Return the id of a key; any other text is returned as it is."""
        match = _KEY.fullmatch(text)
        return match[1] if match else text

    def verify(self, user: str, key: str) -> Identity | None:
        """Return whose key this is and what it allows, or None unless it is a valid key of that very user."""
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        stored = self._file.get().get(match[1])
        right = hmac.compare_digest(_digest(key), stored.digest if stored else _NO_DIGEST)
        return _identity(stored.info, user) if stored and right else None

    def renew(self, name: str, credential: str) -> Identity | None:
        """Return what the user's key with this id allows now, or None if it is revoked or has expired."""
        stored = self._file.get().get(credential)
        return _identity(stored.info, name) if stored else None

    def list(self) -> tuple[KeyInfo, ...]:
        """Return all keys, the expired ones too, the oldest first."""
        return tuple(sorted((stored.info for stored in self._file.get().values()), key=lambda info: info.created))

    def create(
        self, user: str, scopes: tuple[Grant, ...] | None, expires_at: float | None, comment: str = ""
    ) -> tuple[str, KeyInfo]:
        """Make a key, which nobody can look up later, and return it with what is kept of it.

        Raises ValueError for a name or a comment that cannot be kept and for a broken file, OSError if it cannot be
        written.
        """
        check_name(user)
        check_comment(comment)
        with self._changing() as table:
            id_ = _new_id(table)
            info = KeyInfo(id_, user, scopes, time.time(), expires_at, comment)
            key = f"{_PREFIX}{id_}_{_random(25)}"
            table[id_] = _Stored(info, _digest(key))
        return key, info

    def revoke(self, *ids: str) -> None:
        """Forget keys: from now on no worker accepts them.

        Raises LookupError with the unknown ones, and forgets none, if there are any; ValueError for a broken file,
        OSError if it cannot be written.
        """
        with self._changing() as table:
            unknown = [id_ for id_ in dict.fromkeys(ids) if id_ not in table]
            if unknown:
                raise LookupError(*unknown)
            for id_ in set(ids):
                del table[id_]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, _Stored]]:
        """Give the table to be changed; it replaces the old one unless the block raises."""
        make_private_directory(self._directory)
        with exclusive(self._path + ".lock"):
            table = dict(self._read())
            yield table
            replace_file(self._path, _serialize(table))

    def _read(self) -> _Table:
        """Read the file itself: what is only remembered of one that is broken now is not to replace it."""
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123
                return _parse(file.read())
        except FileNotFoundError:
            return {}


def check_comment(comment: str) -> None:
    """Raise ValueError unless this can stand in one line of a list."""
    if not comment.isprintable():
        raise ValueError("the comment has a character in it that cannot be printed")
    if len(comment) > _LONGEST_COMMENT:
        raise ValueError(f"the comment is longer than {_LONGEST_COMMENT} characters")


def _identity(info: KeyInfo, user: str) -> Identity | None:
    if info.user != user or info.expired(time.time()):
        return None
    return Identity(name=info.user, scheme="key", grants=info.scopes, credential=info.id)


def _new_id(table: Mapping[str, _Stored]) -> str:
    while (id_ := _random(5)) in table:
        pass
    return id_


def _random(size: int) -> str:
    return base64.b32encode(secrets.token_bytes(size)).decode().lower()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _serialize(table: _Table) -> bytes:
    keys = [
        {
            "id": info.id,
            "sha256": stored.digest.hex(),
            "user": info.user,
            "scopes": None if info.scopes is None else [grant_text(grant) for grant in info.scopes],
            "created": info.created,
            "expires": info.expires,
            "comment": info.comment,
        }
        for stored in table.values()
        for info in [stored.info]
    ]
    return json.dumps({"version": _VERSION, "keys": keys}, indent=1).encode() + b"\n"


def _parse(data: bytes) -> _Table:
    """Read the file; a ValueError says which key is wrong, and shows nothing of it."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("expected JSON") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or document.get("version") != _VERSION:
        raise ValueError(f"expected a list of keys in version {_VERSION}")
    table = {}
    for number, key in enumerate(keys, start=1):
        try:
            stored = _parse_key(key)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"key {number} is not as the registry writes them") from None
        table[stored.info.id] = stored
    return MappingProxyType(table)


def _parse_key(key: Mapping[str, str]) -> _Stored:
    scopes, expires = key["scopes"], key["expires"]
    if not _DIGEST.fullmatch(key["sha256"]):
        raise ValueError
    info = KeyInfo(
        id=str(key["id"]),
        user=str(key["user"]),
        scopes=None if scopes is None else tuple(parse_grant(text) for text in scopes),
        created=float(key["created"]),
        expires=None if expires is None else float(expires),
        comment=str(key["comment"]),
    )
    return _Stored(info, bytes.fromhex(key["sha256"]))
