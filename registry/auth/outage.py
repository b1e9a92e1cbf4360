"""What happens while something that is asked over the network cannot be asked: nobody waits for it in vain."""

from __future__ import annotations

import logging
import math
import threading
import time

from registry.auth.identity import StoreUnavailable

log = logging.getLogger(__name__)

#: Seconds after a failure in which nobody asks.
PAUSE = 5.0


class Outage:
    """Remember that `what` cannot be asked, for the threads of this process.

    From a failure on everybody is refused at once, except one every few seconds, who tries; the first success ends
    it. Its beginning and its end are logged, and nothing in between.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._until: float | None = None
        self._mentioned = ""

    def admit(self) -> None:
        """Let one ask, or raise StoreUnavailable; whoever is let in calls `begin`, `mention` or `over` later."""
        with self._lock:
            if self._until is None:
                return
            left = self._until - time.monotonic()
            if left > 0:
                raise _unavailable(left)
            # This one tries. The others stay out meanwhile: it may be long in learning that nothing answers.
            self._until = time.monotonic() + PAUSE

    def begin(self, complaint: str, pause: float | None = None) -> StoreUnavailable:
        """Keep everybody out for some seconds; return what to raise."""
        pause = pause or PAUSE
        with self._lock:
            if self._until is None:
                log.error("%s: %s; whoever needs it is answered 503 until it works again", self._what, complaint)
            self._until = time.monotonic() + pause
        return _unavailable(pause)

    def mention(self, complaint: str) -> StoreUnavailable:
        """Log a failure that keeps nobody else out, unless the last one was the same; return what to raise."""
        with self._lock:
            if complaint != self._mentioned:
                log.error("%s: %s", self._what, complaint)
            self._mentioned = complaint
            self._until = None
        return _unavailable(PAUSE)

    def over(self) -> None:
        """Let everybody in: it works."""
        with self._lock:
            if self._until is not None:
                log.warning("%s works again", self._what)
            self._until = None
            self._mentioned = ""


def _unavailable(seconds: float) -> StoreUnavailable:
    return StoreUnavailable("the users cannot be looked up now: try again soon", max(1, math.ceil(seconds)))
