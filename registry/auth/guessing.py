"""Who guesses passwords: failures by user and address, counted over all workers, and the lock-outs they lead to.

Nobody is locked out by name alone: whoever guesses a user's password keeps nobody but those at the same address from
logging in. Whether the user exists plays no part.
"""

from __future__ import annotations

import logging
import math
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from registry.errors import RequestRefused
from registry.ratelimit import client
from registry.shared_table import NOTHING, Record, SharedTable

log = logging.getLogger(__name__)

_SECOND = 1_000_000_000
_SHOWN_CHARACTERS = 64
_USER_CHARACTERS = 256

#: The last failures are counted by fifths of the window: one that has begun and five that are over.
_PARTS = 5
_PART_BITS = 10
_PART_MASK = (1 << _PART_BITS) - 1
_HISTORY_BITS = _PART_BITS * (_PARTS + 1)
_MOST_LOCKS = 32


@dataclass(frozen=True, slots=True)
class GuessLimits:
    """Say what is too much. Times are in seconds.

    So many failures in the window, by one user from one address or by all users from one address, lock these out for
    a while. Once that is over each further failure locks them out for twice as long, up to a longest time, until
    there has been no lock for a window. A failure is forgotten when it is between one and 1.2 windows old.
    """

    pair_failures: int = 10
    address_failures: int = 100
    window: float = 300.0
    first_lock: float = 60.0
    longest_lock: float = 900.0


DEFAULTS = GuessLimits()


class Guesses:
    """The failed logins of late, in a table that all workers share and that outlives restarts.

    The table has a fixed size. What gives way when it is full is what is over soonest, where each failure counts like
    a window more: to be rid of a record, one has to make as many failures as are in it for each of thousands of
    other records, and each of these failures counts against an address.
    """

    def __init__(
        self, directory: str, clock: Callable[[], int] = time.monotonic_ns, limits: GuessLimits = DEFAULTS
    ) -> None:
        """Take the directory of the table; `clock` gives nanoseconds, the same in all workers."""
        self._table = SharedTable(f"{directory}/guesses")
        self._clock = clock
        self._pair = _Rule.of(limits, limits.pair_failures)
        self._address = _Rule.of(limits, limits.address_failures)

    def check(self, user: str, address: str) -> None:
        """Raise RequestRefused (429, with Retry-After) while this user is locked out at this address.

        To be asked before a password is looked at: during a lock a right one is refused like a wrong one, and
        neither makes it longer.
        """
        self.watch(user, address)()

    def watch(self, user: str, address: str) -> Callable[[], None]:
        """Return what checks this user at this address again and again, without the user's name."""
        pair, everybody = self._table.watch(_pair_key(user, address)), self._table.watch(_address_key(address))
        return lambda: self._check(pair(), everybody())

    def _check(self, pair: Record, everybody: Record) -> None:
        if pair is NOTHING and everybody is NOTHING:
            return
        now = self._clock()
        wait = max(self._pair.locked_for(pair, now), self._address.locked_for(everybody, now))
        if wait > 0:
            raise RequestRefused(
                "TOOMANYREQUESTS",
                429,
                "too many failed logins: try again later",
                headers={"Retry-After": str(math.ceil(wait / _SECOND))},
            )

    def failed(self, user: str, address: str) -> None:
        """Count a wrong password, or a user who does not exist. Nothing is counted on top of a lock."""
        if self._count(self._pair, _pair_key(user, address)):
            # Not the user: what was typed there may have been the password.
            log.warning("logins of a user from %r are locked: too many failures", address[:_SHOWN_CHARACTERS])
        if self._count(self._address, _address_key(address)):
            log.warning("all logins from %r are locked: too many failures", address[:_SHOWN_CHARACTERS])

    def succeeded(self, user: str, address: str) -> None:
        """Forget the failures of this user at this address; those of the address stand."""
        self._table.update(_pair_key(user, address), lambda _: NOTHING)

    def _count(self, rule: _Rule, key: bytes) -> bool:
        """Add a failure; tell whether it led to a lock."""
        locked = False

        def change(record: Record) -> Record:
            nonlocal locked
            now = self._clock()
            if rule.locked_for(record, now) > 0:
                return record
            after = rule.after_failure(record, now)
            locked = rule.locked_for(after, now) > 0
            return after

        self._table.update(key, change)
        return locked


@dataclass(frozen=True, slots=True)
class _Rule:
    """How many failures are too many, in nanoseconds, and what follows from them.

    A record is what it is worth, the number of the part of the window that was last counted in, the counts of that
    part (in the lowest bits) and of those before, when the last lock ends, and how many locks there were in a row.
    """

    failures: int
    part: int
    window: int
    first_lock: int
    longest_lock: int

    @classmethod
    def of(cls, limits: GuessLimits, failures: int) -> _Rule:
        part = math.ceil(limits.window * _SECOND / _PARTS)
        longest = math.ceil(limits.longest_lock * _SECOND)
        return cls(failures, part, part * _PARTS, math.ceil(limits.first_lock * _SECOND), longest)

    def locked_for(self, record: Record, now: int) -> int:
        """Return for how long there is a lock, 0 or less where there is none or the record's clock was another."""
        left = record[3] - now
        return left if left <= self.longest_lock else 0

    def after_failure(self, record: Record, now: int) -> Record:
        """Return the record with one more failure, and with a lock if that is one too many."""
        _, last_part, history, locked_until, locks = record
        part = now // self.part
        history = _aged(history, part - last_part)
        if history & _PART_MASK < _PART_MASK:
            history += 1
        if not (locked_until <= now < locked_until + self.window and 0 <= locks <= _MOST_LOCKS):
            locks = locked_until = 0
        count = sum(history >> shift & _PART_MASK for shift in range(0, _HISTORY_BITS, _PART_BITS))
        if locks > 0 or count >= self.failures:
            locked_until = now + min(self.longest_lock, self.first_lock << locks)
            locks = min(locks + 1, _MOST_LOCKS)
        worth = max(now, locked_until) + (count + locks) * self.window
        return worth, part, history, locked_until, locks


def _aged(history: int, parts: int) -> int:
    """Return the counts when so many parts have passed; none are left where time went back."""
    if not 0 <= parts <= _PARTS:
        return 0
    return history << parts * _PART_BITS & (1 << _HISTORY_BITS) - 1


def _pair_key(user: str, address: str) -> bytes:
    """Take names that differ in case or in blanks for one: to a directory they are, and each would be worth guesses."""
    at = client(address)
    name = " ".join(unicodedata.normalize("NFKC", user[:_USER_CHARACTERS]).casefold().split())
    return b"user %d %s %s" % (len(at), at, name.encode("utf-8", "backslashreplace"))


def _address_key(address: str) -> bytes:
    return b"address " + client(address)
