"""Digests: `algorithm:encoded`, by the image spec's descriptor section and for the algorithms supported here."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Protocol

from storage.errors import DigestInvalid

_GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_ENCODED = {"sha256": re.compile(r"[a-f0-9]{64}"), "sha512": re.compile(r"[a-f0-9]{128}")}

ALGORITHMS = tuple(_ENCODED)
CANONICAL = "sha256"


class Hasher(Protocol):
    """The part of a `hashlib` object that is used here."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Feed more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes fed so far, in hexadecimal."""


class Digest(str):
    """A valid digest, of a supported algorithm where nothing else is said: a string that knows its two parts."""

    __slots__ = ()

    @property
    def algorithm(self) -> str:
        """The part before the colon, such as `sha256`."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The part after the colon: lower-case hexadecimal."""
        return self.partition(":")[2]

    @classmethod
    def of(cls, data: bytes, algorithm: str = CANONICAL) -> Digest:
        """Compute the digest of `data`."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")


def new_hasher(algorithm: str) -> Hasher:
    """Return a fresh hash of a supported algorithm."""
    return hashlib.new(algorithm)


def check_algorithm(name: str) -> str:
    """Return `name` if it is a supported algorithm; raise DigestInvalid otherwise."""
    if name not in _ENCODED:
        raise DigestInvalid(f"digest algorithm not supported: use one of {', '.join(ALGORITHMS)}", algorithm=name)
    return name


@lru_cache(maxsize=8192)
def parse_digest(text: str) -> Digest:
    """Return `text` as a Digest; raise DigestInvalid if it is malformed or its algorithm is not supported."""
    check_algorithm(parse_foreign(text).algorithm)
    return Digest(text)


def parse_foreign(text: str) -> Digest:
    """Return `text` as a Digest of any algorithm, as what lies elsewhere may have; raise DigestInvalid if malformed."""
    if not is_digest(text):
        raise DigestInvalid("a digest is <algorithm>:<encoded>, such as sha256:<64 lower-case hex digits>", digest=text)
    return Digest(text)


def is_digest(text: str) -> bool:
    """Tell whether `text` is a digest by the grammar, and by its algorithm's own rule where that is known."""
    if not _GRAMMAR.fullmatch(text):
        return False
    algorithm, _, encoded = text.partition(":")
    rule = _ENCODED.get(algorithm)
    return rule is None or rule.fullmatch(encoded) is not None
