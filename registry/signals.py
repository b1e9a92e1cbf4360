"""Signals that come while a worker is forked wait for its handlers: gunicorn's arbiter would have taken them in it.

A worker that missed the one SIGTERM that it is sent would be waited for as long as uploads may take.
"""

import os
import signal
from functools import cache

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGUSR1, signal.SIGWINCH)


def hold() -> None:
    """Let signals wait: in this process until it has forked, in the child until that calls `release`."""
    _release_after_fork()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def release() -> None:
    """Take the signals that have waited, and from now on those that come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@cache
def _release_after_fork() -> None:
    os.register_at_fork(after_in_parent=release)
