"""Names and passwords: which store knows them, and what keeps guessing slow and the registry quick."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from registry.auth.guessing import Guesses
from registry.auth.identity import CredentialsRefused, Identity, PasswordStore, StoreUnavailable
from registry.auth.keys import Keys
from registry.errors import RequestRefused
from storage.cache import Cache

_REMEMBERED = 10_000  #: verified credentials that one worker remembers
_HEADERS = 1024  #: headers with these, each from one address, of which a worker remembers what they came to
_LONGEST = 1024  #: characters of a name or password that can be right

_BASIC = re.compile(r"[Bb]asic ((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}(?:==|[A-Za-z0-9+/]=))?)")

#: Seconds for which credentials that were wrong are refused unseen. They are not counted as another guess then: one
#: command of a client may send the same wrong password dozens of times.
_WRONG_FOR = 10.0


@dataclass(frozen=True, slots=True)
class _Verified:
    """What is known of credentials that were right: while the store's version is the same and until the deadline."""

    identity: Identity
    store: PasswordStore
    version: object
    deadline: float


@dataclass(frozen=True, slots=True)
class _Header:
    """What a header from some address came to; `check` raises while its user is locked out there."""

    check: Callable[[], None]
    verified: _Verified


@dataclass(frozen=True, slots=True)
class _Wrong:
    """What is known of credentials that were wrong: while the stores' versions are the same and until the deadline."""

    versions: tuple[object, ...]
    deadline: float


class _Flight:
    """The one verification of some credentials that runs; others with the same credentials wait for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Passwords:
    """Verify names with passwords or API keys.

    Slow verifications (a good hash takes 50 to 300 ms) and delays hold one of `slots`; who finds none is refused at
    once, so that they never take all threads. Right credentials are remembered under a keyed hash for `remember`
    seconds, and no longer than their store's version stays what it was.
    """

    def __init__(  # noqa: PLR0913
        self,
        stores: Sequence[PasswordStore],
        keys: Keys | None,
        guesses: Guesses,
        *,
        slots: int,
        remember: float,
        fail_delay: float = 0,
    ) -> None:
        self._stores = stores
        self._by_scheme = {store.scheme: store for store in reversed(stores)}
        self._keys = keys
        self._guesses = guesses
        self._slots = threading.BoundedSemaphore(max(1, slots))
        self._remember = remember
        self._fail_delay = fail_delay
        self._secret = secrets.token_bytes(32)
        self._verified: Cache[bytes, _Verified] = Cache(_REMEMBERED)
        self._headers: Cache[bytes, _Header] = Cache(_HEADERS)
        self._wrong: Cache[bytes, _Wrong] = Cache(_REMEMBERED)
        self._flights: WeakValueDictionary[bytes, _Flight] = WeakValueDictionary()
        self._guard = threading.Lock()

    def identity(self, user: str, password: str, address: str) -> Identity:
        """Return who this is.

        Raises CredentialsRefused, StoreUnavailable, and RequestRefused (429) when `address` guessed too often or too
        many verifications run already.
        """
        known = self.recall(user, password, address)
        if known is not None:
            return known
        with self._slot():
            found = self._ask_once(self._fingerprint(user, password), user, password, address)
            if found is None:
                time.sleep(self._fail_delay)
                raise CredentialsRefused(reason="wrong name or password")
        self._guesses.succeeded(user, address)
        return found

    def recall(self, user: str, password: str, address: str) -> Identity | None:
        """Return who this is, if that can be told without asking a store; raise RequestRefused as `identity` does."""
        self._guesses.check(user, address)
        known = self._recall(self._fingerprint(user, password))
        if known is None and self._keys and self._keys.is_key(password):
            return self._keys.verify(user, password)
        return known

    def recall_basic(self, header: str, address: str) -> Identity | None:
        """Return likewise who an Authorization header is of, if it is written as nearly all with a password are."""
        mark = self._fingerprint(address, header)
        known = self._headers.get(mark)
        if known is not None:
            known.check()
            if self._holds(known.verified):
                return known.verified.identity
            self._headers.drop(mark)
        credentials = _plain_credentials(header)
        if credentials is None:
            return None
        user, password = credentials
        identity = self.recall(user, password, address)
        verified = self._verified.get(self._fingerprint(user, password)) if identity else None
        if verified is not None:  # keys are not remembered
            self._headers.put(mark, _Header(self._guesses.watch(user, address), verified))
        return identity

    def renewed(self, identity: Identity) -> Identity | None:
        """Return who somebody is now, by the store that once vouched for them; None if it no longer does."""
        if identity.scheme == "key":
            return self._keys.renew(identity.name, identity.credential) if self._keys else None
        store = self._by_scheme.get(identity.scheme)
        return store.renew(identity.name, identity.credential) if store else None

    def _fingerprint(self, name: str, secret: str) -> bytes:
        text = f"{len(name)}:{name}{secret}".encode(errors="surrogatepass")
        return hashlib.blake2b(text, key=self._secret, digest_size=32).digest()

    def _recall(self, mark: bytes) -> Identity | None:
        known = self._verified.get(mark)
        if known is None:
            return None
        if self._holds(known):
            return known.identity
        self._verified.drop(mark)
        return None

    @staticmethod
    def _holds(known: _Verified) -> bool:
        return time.monotonic() < known.deadline and known.store.version() == known.version

    def _is_wrong(self, mark: bytes) -> bool:
        """Tell whether these credentials were wrong a moment ago, and nothing has changed since."""
        known = self._wrong.get(mark)
        return known is not None and time.monotonic() < known.deadline and known.versions == self._versions()

    def _versions(self) -> tuple[object, ...]:
        return tuple(store.version() for store in self._stores)

    def _ask_once(self, mark: bytes, user: str, password: str, address: str) -> Identity | None:
        """Ask the stores, unless somebody else with the same credentials has just done so; count a guess."""
        with self._guard:
            flight = self._flights.setdefault(mark, _Flight())
        with flight.lock:
            known = self._recall(mark)
            if known is not None or self._is_wrong(mark):
                return known
            versions = self._versions()
            try:
                found = self._ask(mark, user, password)
            except StoreUnavailable:
                # Of a user whom another store knows, it was a guess all the same.
                if any(store.knows(user) for store in self._stores):
                    self._guesses.failed(user, address)
                raise
            if found is None:
                self._wrong.put(mark, _Wrong(versions, time.monotonic() + _WRONG_FOR))
                self._guesses.failed(user, address)
            return found

    def _ask(self, mark: bytes, user: str, password: str) -> Identity | None:
        if not user or not password or max(len(user), len(password)) > _LONGEST:
            return None
        if self._keys and self._keys.is_key(password):
            return None  # a key that is none any more is no business of a directory's
        for store in self._stores:
            version = store.version()
            identity = store.verify(user, password)
            if identity is not None:
                deadline = time.monotonic() + self._remember
                self._verified.put(mark, _Verified(identity, store, version, deadline))
                return identity
        return None

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(blocking=False):
            raise RequestRefused(
                "TOOMANYREQUESTS", 429, "too many logins at once: try again soon", headers={"Retry-After": "1"}
            )
        try:
            yield
        finally:
            self._slots.release()


def _plain_credentials(header: str) -> tuple[str, str] | None:
    """Return the name and password in a header, if there is but one way to read it."""
    basic = _BASIC.fullmatch(header)
    if basic is None:
        return None
    try:
        user, _, password = b64decode(basic[1]).decode().partition(":")
    except UnicodeDecodeError:
        return None
    return user, password
