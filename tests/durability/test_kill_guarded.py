"""kill -9 of workers in mid-login: what they share stays whole, nobody is let in, and no audit line is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from tests.conftest import MakeServer
from tests.support.oci import TIMEOUT, digest_of, random_bytes
from tests.support.server import Server
from tests.support.users import basic, bearer, htpasswd

ROUNDS = 4
USERS = {"alice": "a", "bob": "b"}
ALICE, BOB = (basic(*user) for user in USERS.items())
RULES = {"**": {"policies": [{"users": ["alice"], "actions": ["read", "create", "update", "delete"]}]}}
#: Where the clients are: a lock of logins from one address is none for the others.
HOME, GUESSER = "127.0.0.1", "127.0.0.2"


class From(HTTPAdapter):
    """Send requests from an address of this machine."""

    def __init__(self, address: str) -> None:
        """Take the address."""
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Let connections begin at the address."""
        super().init_poolmanager(*arguments, **options, source_address=(self._address, 0))


class Crowd:
    """Clients that go on whatever breaks, and what was answered: the statuses by kind, the ids of what was done."""

    def __init__(self, server: Server) -> None:
        """Start nobody yet."""
        self.server = server
        self.answers: dict[str, set[int]] = {}
        self.written: list[str] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, act: Callable[[Crowd, requests.Session, int], None], address: str = HOME) -> None:
        """Let a client do something again and again."""
        thread = threading.Thread(target=self._go_on, args=(act, address))
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Wait until all have stopped."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def ask(self, session: requests.Session, kind: str, method: str, path: str, **options: Any) -> requests.Response:
        """Make a request and note what became of it."""
        answer = session.request(method, self.server.url + path, timeout=TIMEOUT, **options)
        self.answers.setdefault(kind, set()).add(answer.status_code)
        if answer.status_code in (201, 202, 401, 403, 429):
            self.written.append(answer.headers["X-Request-Id"])
        return answer

    def _go_on(self, act: Callable[[Crowd, requests.Session, int], None], address: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            with requests.Session() as session:
                session.mount("http://", From(address))
                try:
                    for _ in range(10):
                        act(self, session, number)
                except requests.RequestException:
                    continue


def log_in(crowd: Crowd, session: requests.Session, _number: int) -> None:
    crowd.ask(session, "login", "GET", "/v2/", headers=ALICE)


def use_a_token(crowd: Crowd, session: requests.Session, _number: int) -> None:
    token = crowd.ask(session, "token", "GET", "/v2/token", headers=ALICE).json()["token"]
    crowd.ask(session, "with token", "GET", "/v2/app/tags/list", headers=bearer(token))


def push(crowd: Crowd, session: requests.Session, _number: int) -> None:
    data = random_bytes(100)
    path = f"/v2/app/blobs/uploads/?digest={digest_of(data)}"
    crowd.ask(session, "push", "POST", path, data=data, headers=ALICE)


def be_refused(crowd: Crowd, session: requests.Session, _number: int) -> None:
    crowd.ask(session, "refused", "GET", "/v2/app/tags/list", headers=BOB)


def guess(crowd: Crowd, session: requests.Session, _number: int) -> None:
    crowd.ask(session, "guess", "GET", "/v2/", headers=basic("alice", random_bytes(8).hex()))


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def server(make_server: MakeServer, tmp_path: Path, audit: Path) -> Server:
    users = htpasswd(tmp_path / "htpasswd", USERS)
    auth = {"htpasswd": {"path": str(users)}, "token": {}}
    http = {"auth": auth, "accessControl": {"repositories": RULES}}
    # One DELETE now, and the next one after the test.
    http["ratelimit"] = {"methods": [{"method": "DELETE", "rate": 0.001}]}
    return make_server(workers=3, config={"http": http, "log": {"audit": str(audit)}})


def test_workers_killed_while_they_share(server: Server, audit: Path) -> None:
    crowd = Crowd(server)
    for act in (log_in, use_a_token, push, be_refused):
        crowd.start(act)
    crowd.start(guess, GUESSER)
    requests.delete(f"{server.url}/v2/app/manifests/1", headers=ALICE, timeout=TIMEOUT)
    for _ in range(ROUNDS):
        time.sleep(0.5)
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    crowd.stop()
    assert crowd.answers.pop("with token") <= {200, 404}  # before the first push and after it
    assert crowd.answers == {"login": {200}, "token": {200}, "push": {201}, "refused": {403}, "guess": {401, 429}}
    _hold_locks(server)
    _hold_audit(audit, crowd.written)


def _hold_locks(server: Server) -> None:
    """Hold that what was counted before is still counted, in each worker, and that nobody else is the worse for it."""
    for _ in range(6):
        with requests.Session() as session:
            session.mount("http://", From(GUESSER))
            assert session.get(f"{server.url}/v2/", headers=ALICE, timeout=TIMEOUT).status_code == 429
        assert requests.get(f"{server.url}/v2/", headers=ALICE, timeout=TIMEOUT).status_code == 200
        answer = requests.delete(f"{server.url}/v2/app/manifests/1", headers=ALICE, timeout=TIMEOUT)
        assert answer.status_code == 429


def _hold_audit(audit: Path, written: list[str]) -> None:
    """Hold that there is one whole line for each change and each refusal that a client was told of."""
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    ids = [line["requestId"] for line in lines]
    assert len(ids) == len(set(ids))
    assert len(written) > 100
    assert set(written) <= set(ids)
