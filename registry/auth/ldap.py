"""Users of an LDAP directory: it judges their passwords, and tells their names and groups.

With a service account (`bindDN`), or where anybody may search, a user's entry is searched for and bound to. Without
either, the name is made part of a DN, which is bound to directly; see docs/ldap.md.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import logging
import secrets
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.auth.identity import Identity, StoreUnavailable
from registry.auth.ldap_connection import TIMEOUT, Connector, Unreachable
from registry.auth.outage import Outage

if TYPE_CHECKING:
    from registry.config_auth import LDAPConfig

log = logging.getLogger(__name__)

_AT_ONCE = 16  #: conversations with the server that one process has at the same time
_PATIENCE = 1.0  #: seconds for which one waits to be among them
_LONGEST = 4096  #: octets of a name or password that is sent: a server hangs up on what is far longer

# A service account that is refused is tried more rarely: servers lock accounts that fail too often.
_LOCK_OUT_PAUSE = 30.0

# Seconds: no refusal is drawn out longer, however slow the server was of late.
_LONGEST_PACE = 2.0

# What a server answers to a bind with a wrong name or password, and for an account that may not log in.
_REFUSALS = (
    "INVALID_CREDENTIALS",
    "INVALID_DN_SYNTAX",
    "NO_SUCH_OBJECT",
    "INAPPROPRIATE_AUTH",
    "INSUFFICIENT_ACCESS",
    "UNWILLING_TO_PERFORM",
    "CONSTRAINT_VIOLATION",
)
# What it answers to a search for a name that no value of the attribute can be like.
_NO_MATCHES = ("INVALID_SYNTAX", "INAPPROPRIATE_MATCHING")
# What concerns everybody, not only the one who was asked about.
_FAILURES = ("SERVER_DOWN", "CONNECT_ERROR", "TIMEOUT", "UNAVAILABLE", "BUSY")

_NO_ATTRIBUTES = "1.1"  # RFC 4511, section 4.5.1.8
# What tells an entry from an earlier one of the same name, and a password from an earlier one of the same entry; the
# names are of OpenLDAP, Active Directory, 389 Directory Server and FreeIPA.
_UNIQUE = ("entryUUID", "objectGUID", "nsUniqueId", "ipaUniqueID")
_PASSWORD_CHANGED = ("pwdChangedTime", "pwdLastSet", "pwdUpdateTime", "krbLastPwdChange")
_ENTRY_CHANGED = "modifyTimestamp"
_LOCKS = ("userAccountControl", "nsAccountLock", "pwdAccountLockedTime")
_LOCKED_BY_HAND = b"000001010000Z"
_AD_DISABLED = 0x2


class LDAPMissing(ValueError):
    """The package that speaks LDAP is not installed."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A user's entry; names of attributes are in lower case, without their options."""

    dn: str
    attributes: Mapping[str, Sequence[bytes]]

    def values(self, name: str) -> Sequence[bytes]:
        """Return the values of an attribute."""
        return self.attributes.get(name.lower(), ())

    def stated(self, *names: str) -> list[bytes]:
        """Return what is said of these attributes, each value with its attribute's name."""
        return [b"%b=%b" % (name.encode(), value) for name in names for value in self.values(name)]

    def texts(self, name: str) -> list[str]:
        """Return the values of an attribute that are text."""
        return [text for value in self.values(name) if (text := _text(value)) is not None]


class LDAPStore:
    """Ask a directory who somebody is."""

    scheme = "ldap"

    def __init__(self, config: LDAPConfig) -> None:
        """Connect to nothing yet; raise ValueError for a configuration that can never work (LDAPMissing is one)."""
        self._ldap = _library()
        self._config = config
        self._direct = not config.bind_dn and not config.subtree_search
        self._check()
        self._connector = Connector(config, self._ldap)
        self._outage = Outage(f"the LDAP server {config.address}:{config.port}")
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        self._pace = _Pace()
        self._refusals = self._exceptions(_REFUSALS)
        self._no_matches = self._exceptions(_NO_MATCHES)
        self._failures = self._exceptions(_FAILURES)

    def verify(self, user: str, password: str) -> Identity | None:
        """Return who this is, or None for an unknown user and for a wrong password, which take the same time.

        The name is as the directory spells it: it does not distinguish `Alice` from `alice`. Raises StoreUnavailable.
        """
        # An empty password would make an anonymous bind, which succeeds for any name (RFC 4513, section 5.1.2).
        if not (_can_be_sent(user) and _can_be_sent(password)):
            return None
        with self._conversation() as server:
            entry, seconds = (self._bind_directly if self._direct else self._search_and_bind)(server, user, password)
        if entry is None:
            self._pace.keep(seconds)
            return None
        return self._identity(entry, user)

    def knows(self, user: str) -> bool:
        """Tell nothing: that would take asking the directory."""
        return False

    def version(self) -> object:
        """Return a constant: a directory does not tell when a password changes."""
        return 0

    def renew(self, name: str, credential: str) -> Identity | None:
        """Return who this is now, or None if the user is gone, locked, or has another password since.

        None, too, where the directory does not tell: without a search, and where no time of change can be read.
        Raises StoreUnavailable.
        """
        if self._direct or not credential or not _can_be_sent(name):
            return None
        with self._conversation() as server:
            self._bind_as_service(server)
            dn = self._search(server, name)
            entry = self._read(server, dn, name) if dn else None
        identity = self._identity(entry, name) if entry else None
        if identity is None or identity.name != name:
            return None
        same = hmac.compare_digest(identity.credential.encode(), credential.encode(errors="replace"))
        return identity if same else None

    # one conversation

    @contextmanager
    def _conversation(self) -> Iterator[Any]:
        """Give a connection to the server; raise StoreUnavailable for whatever goes wrong with it."""
        if not self._slots.acquire(timeout=_PATIENCE):
            raise StoreUnavailable("too many users are being looked up: try again soon", 1)
        try:
            self._outage.admit()
            with self._connector.connection() as server:
                yield server
            self._outage.over()
        except _ServiceRefused as error:
            raise self._outage.begin(str(error), _LOCK_OUT_PAUSE) from error
        except Unreachable as error:
            raise self._outage.begin(str(error)) from error
        except self._failures as error:
            raise self._outage.begin(_description(error)) from error
        except self._ldap.LDAPError as error:
            raise self._outage.mention(f"a user could not be looked up: {_description(error)}") from error
        finally:
            self._slots.release()

    def _search_and_bind(self, server: Any, user: str, password: str) -> tuple[_Entry | None, float]:
        """Return the entry whose password this is, and how long the server took to judge that."""
        self._bind_as_service(server)
        dn = self._search(server, user)
        # A DN that nobody has: the server is asked all the same, so that the time does not tell who is known.
        accepted, seconds = self._try_password(server, dn or self._dn_of(secrets.token_hex(16)), password)
        if dn is None:
            return None, seconds
        self._pace.note(seconds)
        if not accepted:
            return None, seconds
        self._bind_as_service(server)
        return self._read(server, dn, user), seconds

    def _bind_directly(self, server: Any, user: str, password: str) -> tuple[_Entry | None, float]:
        """Return the entry whose password this is, as its owner may read it, and how long the server took."""
        dn = self._dn_of(user)
        accepted, seconds = self._try_password(server, dn, password)
        if not accepted:
            return None, seconds
        self._pace.note(seconds)
        entry = self._read(server, dn, user)
        if entry is None:
            log.warning("LDAP: %.100r has the right password, but may not read an entry that userFilter lets in", user)
        return entry, seconds

    def _bind_as_service(self, server: Any) -> None:
        """Bind as the service account, or anonymously without one."""
        secret = self._config.bind_password
        try:
            server.simple_bind_s(self._config.bind_dn, secret.value if secret else "")
        except self._failures:
            raise
        except self._ldap.LDAPError as error:
            who = f"the service account {self._config.bind_dn}" if self._config.bind_dn else "an anonymous search"
            raise _ServiceRefused(f"{who} is refused: {_description(error)}") from error

    def _try_password(self, server: Any, dn: str, password: str) -> tuple[bool, float]:
        """Tell whether a password is right, and how long the server took to judge that."""
        began = time.monotonic()
        try:
            server.simple_bind_s(dn, password)
            accepted = True
        except self._refusals:
            accepted = False
        return accepted, time.monotonic() - began

    def _search(self, server: Any, user: str) -> str | None:
        """Return the DN of the only entry of this name."""
        scope = self._ldap.SCOPE_SUBTREE if self._config.subtree_search else self._ldap.SCOPE_ONELEVEL
        try:
            found = self._entries(server, self._config.base_dn, scope, user, (_NO_ATTRIBUTES,))
        except self._no_matches:
            return None
        except self._ldap.SIZELIMIT_EXCEEDED:
            found = []
            log.warning("LDAP: more than one entry has the name %.100r: nobody can log in by it", user)
        return found[0].dn if found else None

    def _read(self, server: Any, dn: str, user: str) -> _Entry | None:
        """Read what is needed of an entry; None if it is gone, or is not (or no longer) one that may log in."""
        config = self._config
        names = [config.user_attribute, *_UNIQUE, *_PASSWORD_CHANGED, _ENTRY_CHANGED, *_LOCKS]
        if config.user_group_attribute:
            names.append(config.user_group_attribute)
        try:
            found = self._entries(server, dn, self._ldap.SCOPE_BASE, user, names)
        except (self._ldap.NO_SUCH_OBJECT, self._ldap.INSUFFICIENT_ACCESS):
            return None
        return found[0] if found else None

    def _entries(self, server: Any, base: str, scope: int, user: str, names: Sequence[str]) -> list[_Entry]:
        """Search for a user; raise SIZELIMIT_EXCEEDED, of libldap's exceptions, if there is more than one entry."""
        found = server.search_ext_s(base, scope, self._filter(user), list(names), timeout=TIMEOUT, sizelimit=2)
        # What has no DN is a reference to another server, which is not followed.
        entries = [_Entry(dn, _by_name(attributes)) for dn, attributes in found if dn]
        if len(entries) > 1:
            raise self._ldap.SIZELIMIT_EXCEEDED
        return entries

    def _filter(self, user: str) -> str:
        wanted = f"({self._config.user_attribute}={self._ldap.filter.escape_filter_chars(user)})"
        return f"(&{wanted}{self._config.user_filter})" if self._config.user_filter else wanted

    def _dn_of(self, user: str) -> str:
        return f"{self._config.user_attribute}={self._ldap.dn.escape_dn_chars(user)},{self._config.base_dn}"

    # what an entry says

    def _identity(self, entry: _Entry, typed: str) -> Identity | None:
        if _is_locked(entry):
            return None
        name = _spelling(entry.texts(self._config.user_attribute), typed)
        if name is None:
            log.warning("LDAP: the entry of %.100r has no name that can be used", typed)
            return None
        credential = "" if self._direct else _credential(entry)
        return Identity(name=name, groups=self._groups(entry), scheme=self.scheme, credential=credential)

    def _groups(self, entry: _Entry) -> frozenset[str]:
        """Return the values of the group attribute, and of those that are DNs the common names too."""
        if not self._config.user_group_attribute:
            return frozenset()
        values = entry.texts(self._config.user_group_attribute)
        return frozenset([*values, *filter(None, map(self._common_name, values))])

    def _common_name(self, text: str) -> str | None:
        """Return the common name of what a DN names; None where it has none, or the text is no DN."""
        try:
            parsed = self._ldap.dn.str2dn(text)
        except (self._ldap.DECODING_ERROR, ValueError):
            return None
        names = [value for kind, value, _ in parsed[0] if kind.lower() == "cn"] if parsed else []
        return names[0] if names else None

    # the start

    def _check(self) -> None:
        """Raise ValueError for what libldap cannot take, or what would make binds that prove nothing."""
        config = self._config
        if config.bind_dn and not (config.bind_password and config.bind_password.value):
            raise ValueError("http.auth.ldap.bindDN: needs bindPassword")
        # Active Directory takes `user@domain` and `DOMAIN\user` for the DN of an account.
        dns = {"baseDN": config.base_dn, "bindDN": "" if set(config.bind_dn) & set("@\\") else config.bind_dn}
        for key, dn in dns.items():
            if not self._ldap.dn.is_dn(dn):
                raise ValueError(f"http.auth.ldap.{key}: expected a DN (RFC 4514), got {dn!r}")
        try:
            # libldap parses a filter before it connects, which it cannot do here.
            self._ldap.initialize("ldapi://%2Fdev%2Fnull").search_ext("", self._ldap.SCOPE_BASE, self._filter("user"))
        except self._ldap.FILTER_ERROR:
            found = config.user_filter
            raise ValueError(f"http.auth.ldap.userFilter: expected a filter (RFC 4515), got {found!r}") from None
        except self._ldap.LDAPError:
            pass

    def _exceptions(self, names: Sequence[str]) -> tuple[type[Exception], ...]:
        return tuple(getattr(self._ldap, name) for name in names)


class _ServiceRefused(Exception):
    """The server does not let us search; the message says why, for the log."""


class _Pace:
    """Make it take as long to refuse an unknown user as to refuse a wrong password.

    A server judges a password that it has by computing its hash, which may take long, and one that it does not have
    at once. So a refusal takes as long as the slowest of the judgements that this process saw lately.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lately: deque[float] = deque(maxlen=32)

    def note(self, seconds: float) -> None:
        """Remember how long the server took to judge a password that it has."""
        with self._lock:
            self._lately.append(seconds)

    def keep(self, seconds: float) -> None:
        """Wait, with the judgement itself having taken this long."""
        with self._lock:
            longest = max(self._lately, default=0.0)
        time.sleep(max(0.0, min(longest, _LONGEST_PACE) - seconds))


def _library() -> Any:
    """Import python-ldap, which is compiled against libldap and so is no requirement of everybody's."""
    try:
        library = importlib.import_module("ldap")
        importlib.import_module("ldap.dn")
        importlib.import_module("ldap.filter")
    except ImportError as error:
        raise LDAPMissing(f"http.auth.ldap needs a package: pip install 'pierhead[ldap]' ({error})") from error
    return library


def _can_be_sent(text: str) -> bool:
    """Tell whether a name or password can be right: it is UTF-8, of sensible length, with no end of a C string in it.

    (A server that takes a password up to its first NUL would take `\\0` as an empty one, and bind anonymously.)
    """
    try:
        octets = text.encode()
    except UnicodeEncodeError:
        return False
    return 0 < len(octets) <= _LONGEST and b"\0" not in octets


def _by_name(attributes: Mapping[str, Sequence[bytes]]) -> Mapping[str, Sequence[bytes]]:
    # Active Directory gives the first values of an attribute that has very many as `memberOf;range=0-1499`.
    return MappingProxyType({name.partition(";")[0].lower(): values for name, values in attributes.items() if values})


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _spelling(names: Sequence[str], typed: str) -> str | None:
    """Return which of an entry's names was typed, as the directory spells it; None if that cannot be told."""
    alike = [name for name in names if _folded(name) == _folded(typed)]
    candidates = alike or names
    return candidates[0] if len(candidates) == 1 and candidates[0].isprintable() else None


def _folded(text: str) -> str:
    """Drop the differences that directories ignore in names (RFC 4518): case, compatible letters, spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _credential(entry: _Entry) -> str:
    """Return what changes with the user's password, and if the entry is made anew; "" where the directory hides it.

    Where it does not tell when the password changed, the time of any change of the entry stands in for that.
    """
    changed = entry.stated(*_PASSWORD_CHANGED) or entry.stated(_ENTRY_CHANGED)
    if not changed:
        return ""
    parts = [entry.dn.encode(), *entry.stated(*_UNIQUE), *changed]
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()


def _is_locked(entry: _Entry) -> bool:
    """Tell whether an administrator has locked an account; who is locked out for a while by bad guesses is not."""
    control = entry.values("userAccountControl")
    return (
        any(value.isdigit() and int(value) & _AD_DISABLED for value in control)
        or b"true" in map(bytes.lower, entry.values("nsAccountLock"))
        or _LOCKED_BY_HAND in entry.values("pwdAccountLockedTime")
    )


def _description(error: Exception) -> str:
    """Say what libldap says, without what the server adds: that may quote anything."""
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return str(details.get("desc") or type(error).__name__)
