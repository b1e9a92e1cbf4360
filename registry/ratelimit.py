"""How many requests a client may make in a second, counted over all workers."""

from __future__ import annotations

import ipaddress
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from registry.errors import RequestRefused
from registry.shared_table import Record, SharedTable

if TYPE_CHECKING:
    from registry.config_auth import RateLimitConfig

_SECOND = 1_000_000_000
_LONGEST_INTERVAL = 86_400 * _SECOND

#: An address with a port, as some proxies write it in X-Forwarded-For.
_WITH_PORT = re.compile(r"\[([^][]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


class RateLimit:
    """`http.ratelimit`: each client address may make so many requests in a second, in one burst or spread.

    A method with a rate of its own is counted by itself, HEAD apart from GET; all others are counted together,
    against `rate` if there is one. In zot such a method is bound by both rates, each path is counted by itself, and a
    header that anybody can send says who the client is.
    """

    def __init__(self, config: RateLimitConfig, directory: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Take what to allow, and the directory of the table; `clock` gives nanoseconds, the same in all workers."""
        self._table = SharedTable(f"{directory}/requests")
        self._clock = clock
        self._others = _Pace.of("requests", config.rate) if config.rate else None
        self._methods = {method: _Pace.of(f"{method} requests", rate) for method, rate in config.methods.items()}

    def check(self, method: str, address: str) -> None:
        """Count a request; raise RequestRefused (429, with Retry-After) instead if it is one too many."""
        pace = self._methods.get(method, self._others)
        if pace is None:
            return
        wait = self._take(pace, b"%s %s" % (pace.what.encode(), client(address)))
        if wait > 0:
            raise RequestRefused(
                "TOOMANYREQUESTS",
                429,
                f"too many {pace.what} from this address: {pace.rate:g} in a second are allowed",
                headers={"Retry-After": str(math.ceil(wait / _SECOND))},
            )

    def _take(self, pace: _Pace, key: bytes) -> int:
        """Return 0, or how many nanoseconds it is too early.

        A record holds the time until which the requests so far are spread when they are paced evenly (the generic
        cell rate algorithm).
        """
        wait = 0

        def change(record: Record) -> Record:
            nonlocal wait
            now = self._clock()
            due = max(now, record[0])
            if due > now + pace.burst * pace.interval:  # of another clock, or another rate: never of this one
                due = now
            wait = max(0, due - now - (pace.burst - 1) * pace.interval)
            return record if wait else (due + pace.interval, 0, 0, 0, 0)

        self._table.update(key, change)
        return wait


@dataclass(frozen=True, slots=True)
class _Pace:
    """One request per `interval` nanoseconds, or up to `burst` at once that were not made before."""

    what: str
    rate: float
    interval: int
    burst: int

    @classmethod
    def of(cls, what: str, rate: float) -> _Pace:
        """Allow a second's worth of requests at once, and one where that is less."""
        interval = math.ceil(min(_LONGEST_INTERVAL, _SECOND / rate))
        return cls(what, rate, interval, max(1, int(rate)))


@lru_cache(maxsize=1024)
def client(address: str) -> bytes:
    """Return what stands for the client at an address.

    That is the address where it is of IPv4, also as a socket for both families has it, and the network of 64 bits
    where it is of IPv6, in which one host has all addresses. What is no address, as a proxy may write, is taken as it
    is.
    """
    found = _WITH_PORT.fullmatch(address)
    try:
        parsed = ipaddress.ip_address(found[1] or found[2] if found else address)
    except ValueError:
        return b"other " + address.encode("utf-8", "backslashreplace")
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    return parsed.packed[:8]
