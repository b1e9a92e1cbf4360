"""Users in an htpasswd file: its lines, and a store of passwords that notices when the file changes."""

from __future__ import annotations

import codecs
import hashlib
import hmac
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from registry.auth import hashes
from registry.auth.hashes import Hash
from registry.auth.identity import Identity
from registry.config_values import show
from registry.watched import WatchedFile

_LONGEST_NAME = 255  # bytes, as in Apache's htpasswd
_SHOWN_PROBLEMS = 5
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check_name(name: str) -> None:
    """Raise ValueError unless this can be the name of a user: in a line of the file, in Basic credentials, in a log."""
    if not name:
        raise ValueError("the name is empty")
    if ":" in name:
        raise ValueError("the name has a colon in it, which would end it")
    if not name.isprintable():
        raise ValueError("the name has a character in it that cannot be printed")
    if name != name.strip():
        raise ValueError("the name begins or ends with a space")
    if name.startswith("#"):
        raise ValueError("the name begins with #, as comments do")
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"the name is longer than {_LONGEST_NAME} bytes")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file with its end; `name` is None in comments, in blank lines, and where none can be read.

    `hash` is None, and `problem` says why, in what the registry does not accept. `comment` is what nginx allows behind
    the hash, with its colon.
    """

    raw: bytes = field(repr=False)
    name: str | None = None
    hash: Hash | None = None
    comment: bytes = field(default=b"", repr=False)
    problem: str = ""


def read_lines(data: bytes) -> list[Line]:
    """Take a file apart; the raw lines together are the file again. Raises ValueError for UTF-16."""
    if data.startswith(_UTF_16):
        raise ValueError("expected text in UTF-8, got UTF-16")
    return [_read_line(raw) for raw in data.splitlines(keepends=True)]


def _read_line(raw: bytes) -> Line:
    text = raw.removeprefix(codecs.BOM_UTF8).strip()
    if not text or text.startswith(b"#"):
        return Line(raw)
    before, colon, after = text.partition(b":")
    if not colon:
        return Line(raw, problem="expected NAME:HASH")
    try:
        name = before.decode()
        check_name(name)
    except UnicodeDecodeError:
        return Line(raw, problem="the name is not text in UTF-8")
    except ValueError as error:
        return Line(raw, problem=str(error))
    secret, colon, comment = after.partition(b":")
    try:
        return Line(raw, name, hashes.parse(secret.strip().decode("latin-1")), colon + comment)
    except ValueError as error:
        return Line(raw, name, None, colon + comment, f"user {show(name)}: {error}")


def problems(lines: Iterable[Line]) -> Iterator[str]:
    """Say what is wrong in which line; no hash and no password is shown."""
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if line.problem:
            yield f"line {number}: {line.problem}"
        if line.name is not None:
            first = seen.setdefault(line.name, number)
            if first != number:
                yield f"line {number}: user {show(line.name)} is already in line {first}"


@dataclass(frozen=True, slots=True)
class _Users:
    """The users of a file; `secret` is known to whoever can read the file, so that all workers agree on it."""

    hashes: Mapping[str, Hash] = field(repr=False)
    identities: Mapping[str, Identity] = field(repr=False)
    all: tuple[Hash, ...] = field(repr=False)
    secret: bytes = field(repr=False)

    def decoy(self, name: str) -> Hash | None:
        """Choose whose hash to work on for somebody unknown: always the same for a name, and no outsider knows whose.

        In a file of several schemes and costs, unknown users so take the times that users take.
        """
        if not self.all:
            return None
        mark = hashlib.blake2b(name.encode(errors="surrogatepass"), key=self.secret, digest_size=8).digest()
        return self.all[int.from_bytes(mark) % len(self.all)]


def _parse(data: bytes) -> _Users:
    lines = read_lines(data)
    found = list(problems(lines))
    if found:
        more = len(found) - _SHOWN_PROBLEMS
        shown = "; ".join(found[:_SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(
            f"{shown} (accepted are bcrypt, SHA-256-crypt, SHA-512-crypt and apr1, one line for each user: "
            "`pierhead user passwd` sets a password anew)"
        )
    users = {line.name: line.hash for line in lines if line.name is not None and line.hash is not None}
    identities = {name: _identity(name, known) for name, known in users.items()}
    return _Users(users, identities, tuple(users.values()), hashlib.sha256(data).digest())


class HtpasswdStore:
    """Keep users and passwords in an htpasswd file, which others write and which is read again when it has changed.

    A file with anything in it that is not accepted is refused as a whole: at the start, and later by a line in the
    log, while what it said before stays in force.
    """

    scheme = "htpasswd"

    def __init__(self, path: str) -> None:
        """Read the file; raise OSError if that fails, ValueError naming lines and users if it is not accepted."""
        self._file = WatchedFile(path, _parse)
        try:
            self._file.get()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self._hashing = threading.BoundedSemaphore(max(1, len(os.sched_getaffinity(0)) // 2))

    def verify(self, user: str, password: str) -> Identity | None:
        """Return who this is, or None for an unknown user and for a wrong password, which take the same time.

        No more of this runs at once than leaves half of the cores to everybody else; others wait.
        """
        users = self._file.get()
        known = users.hashes.get(user)
        compared = known or users.decoy(user)
        with self._hashing:
            right = compared is not None and compared.matches(password)
        return users.identities[user] if known and right else None

    def knows(self, user: str) -> bool:
        """Tell whether the file has this user."""
        return user in self._file.get().hashes

    def version(self) -> object:
        """Return how often the file's content has changed."""
        self._file.get()
        return self._file.generation

    def renew(self, name: str, credential: str) -> Identity | None:
        """Return who this is now, or None if the user is gone or has another password since."""
        identity = self._file.get().identities.get(name)
        if identity is None:
            return None
        return identity if hmac.compare_digest(identity.credential.encode(), credential.encode()) else None


def _identity(name: str, known: Hash) -> Identity:
    fingerprint = hashlib.sha256(f"{name}:{known.text}".encode()).hexdigest()[:16]
    return Identity(name=name, scheme=HtpasswdStore.scheme, credential=fingerprint)
