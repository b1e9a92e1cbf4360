"""Workers share connections: whoever has more than another lets it go first."""

from __future__ import annotations

import http.client
import os
import time
from contextlib import suppress
from pathlib import Path

from registry.balance import Balance
from tests.conftest import MakeServer
from tests.support.server import START_SECONDS


def test_a_worker_is_ahead_of_one_that_has_fewer() -> None:
    balance = Balance()
    balance.set(1, 3)
    assert not balance.is_ahead(1)
    balance.set(2, 2)
    assert balance.is_ahead(1)
    assert not balance.is_ahead(2)


def test_equal_workers_are_not_ahead() -> None:
    balance = Balance()
    balance.set(1, 2)
    balance.set(2, 2)
    assert not balance.is_ahead(1)
    assert not balance.is_ahead(2)


def test_a_worker_that_has_ended_counts_no_more() -> None:
    balance = Balance()
    balance.set(1, 1)
    balance.set(2, 0)
    balance.leave(2)
    assert not balance.is_ahead(1)


def test_the_counts_are_shared_with_processes_forked_later() -> None:
    balance = Balance()
    balance.set(1, 1)
    child = os.fork()
    if child == 0:
        balance.set(2, 0)
        os._exit(0)
    os.waitpid(child, 0)
    assert balance.is_ahead(1)


def test_clients_are_spread_over_the_workers(make_server: MakeServer) -> None:
    server = make_server(workers=2)
    pids = server.worker_pids()
    deadline = time.monotonic() + START_SECONDS
    while not all(map(_accepts, pids)):
        assert time.monotonic() < deadline, "a worker does not begin to accept"
        time.sleep(0.01)
    before = {pid: _sockets(pid) for pid in pids}
    clients = [http.client.HTTPConnection(server.host) for _ in range(12)]
    for client in clients:
        client.request("GET", "/v2/")
        client.getresponse().read()
    shares = [_sockets(pid) - before[pid] for pid in pids]
    for client in clients:
        client.close()
    assert min(shares) >= len(clients) // 4, shares


def _accepts(pid: int) -> bool:
    """Tell whether a worker waits for connections: one that answers says nothing of the others."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            if os.readlink(path) == "anon_inode:[eventpoll]":
                awaited = Path(f"/proc/{pid}/fdinfo/{path.name}").read_text().count("tfd:")
                return awaited > 1  # the listener, beside what wakes it up
    return False


def _sockets(pid: int) -> int:
    links = (os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())
    return sum(link.startswith("socket:") for link in links)


def test_of_many_connections_some_more_are_not_ahead() -> None:
    """Who accepts hundreds at once would else wait, after each, for the other worker to look up from its work."""
    balance = Balance()
    balance.set(1, 160)
    balance.set(2, 170)
    assert not balance.is_ahead(2)
    balance.set(2, 171)
    assert balance.is_ahead(2)
