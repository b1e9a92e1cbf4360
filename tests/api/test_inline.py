"""Plain pulls are answered by a worker's main thread: as all others, in their order, and never waiting for a client."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path

import pytest
import requests

from tests.support.oci import Document, Remote, digest_of
from tests.support.server import Server
from tests.support.wire import WireAnswer, connect, exchange, head, receive

pytestmark = pytest.mark.direct("how the server itself answers")

NAME = "team/app"
SMALL = os.urandom(60_000)
PATIENCE = 60.0
REQUEST = f"GET /v2/{NAME}/manifests/1 HTTP/1.1\r\nHost: registry.test\r\n\r\n".encode()
BLOB = f"GET /v2/{NAME}/blobs/{digest_of(SMALL)} HTTP/1.1\r\nHost: registry.test\r\n\r\n".encode()


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("inline") / "data", workers=1) as server:
        yield server


@pytest.fixture(scope="module")
def manifest(one_worker: Server) -> Document:
    remote = Remote(one_worker.url, NAME)
    remote.push_blob(SMALL)
    pushed = remote.push_image("1")
    assert remote.get("manifests/1").content == pushed.body
    return pushed


def answers(client: socket.socket, count: int) -> list[WireAnswer]:
    """Read so many answers of one connection."""
    with client.makefile("rb") as stream:
        found = []
        for _ in range(count):
            response = HTTPResponse(_Once(stream), method="GET")  # type: ignore[arg-type]
            response.begin()
            found.append(WireAnswer(response.status, dict(response.headers.items()), response.read()))
        return found


class _Once:
    """Lend a stream to an answer that would close it."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> object:
        stream = self._stream

        class Lent:
            def __getattr__(self, name: str) -> object:
                return (lambda: None) if name == "close" else getattr(stream, name)

        return Lent()


def threads(server: Server) -> int:
    [pid] = server.worker_pids()
    return len(os.listdir(f"/proc/{pid}/task"))


def test_no_thread_is_needed(one_worker: Server, manifest: Document) -> None:
    """A crowd that asks for what others push waits for the threads; one that pulls needs none."""
    before = threads(one_worker)
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect(one_worker.host)) for _ in range(40)]
        for _ in range(10):
            for client in crowd:
                client.sendall(REQUEST)
            for client in crowd:
                [answer] = answers(client, 1)
                assert (answer.status_code, answer.content) == (200, manifest.body)
        assert threads(one_worker) == before


def test_requests_that_come_together_are_answered_in_order(one_worker: Server, manifest: Document) -> None:
    with connect(one_worker.host) as client:
        client.sendall((REQUEST + BLOB) * 20 + REQUEST[:30])
        found = answers(client, 40)
        assert [answer.content for answer in found] == [manifest.body, SMALL] * 20
        client.sendall(REQUEST[30:] + b"GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n" + REQUEST)
        assert [answer.content for answer in answers(client, 3)] == [manifest.body, b"{}", manifest.body]


def test_a_head_in_pieces(one_worker: Server, manifest: Document) -> None:
    with connect(one_worker.host) as client:
        for _ in range(2):
            for start in range(0, len(REQUEST), 7):
                client.sendall(REQUEST[start : start + 7])
                time.sleep(0.002)
            assert answers(client, 1)[0].content == manifest.body


@pytest.mark.parametrize(
    "request_head",
    [
        head("GET", f"/v2/{NAME}/manifests/1"),
        f"GET /v2/{NAME}/manifests/1 HTTP/1.0\r\n\r\n".encode(),
        head("GET", f"/v2/{NAME}/manifests/1", "Content-Length: 4") + b"body",
        head("GET", f"/v2/{NAME}/manifests/1", "Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n",
        head("GET", f"/v2/{NAME}/manifests/1", "Expect: 100-continue"),
    ],
    ids=["close", "1.0", "length", "chunked", "expect"],
)
def test_the_last_request_ends_the_connection(one_worker: Server, manifest: Document, request_head: bytes) -> None:
    with connect(one_worker.host) as client:
        client.sendall(request_head)
        answer = receive(client)
        assert answer is not None
        assert (answer.status_code, answer.content) == (200, manifest.body)
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (f"GET /v2/{NAME}/manifests/1 HTTP/9\r\n\r\n".encode(), 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"GET /v2/" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (f"GET /v2/{NAME}/manifests/2 HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 404),
    ],
    ids=["version", "field", "long", "absent"],
)
def test_what_is_wrong_is_told(one_worker: Server, manifest: Document, request_head: bytes, status: int) -> None:
    answer = exchange(one_worker.host, request_head)
    assert answer is not None
    assert answer.status_code == status
    assert requests.get(f"{one_worker.url}/v2/{NAME}/manifests/1", timeout=PATIENCE).content == manifest.body


def test_who_does_not_read_keeps_nobody_waiting(one_worker: Server, manifest: Document) -> None:
    """Their answers fill what lies between; others have theirs meanwhile, and in the end they have them too."""
    with ExitStack() as stack:
        lazy = [stack.enter_context(socket.socket()) for _ in range(30)]
        for client in lazy:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(PATIENCE)
            host, port = one_worker.host.split(":")
            client.connect((host, int(port)))
            client.sendall(BLOB * 60)
        for _ in range(20):
            assert requests.get(f"{one_worker.url}/v2/{NAME}/manifests/1", timeout=PATIENCE).content == manifest.body
        assert all(answer.content == SMALL for answer in answers(lazy[0], 60))


def test_what_others_push_is_seen_at_once(one_worker: Server, manifest: Document) -> None:
    remote = Remote(one_worker.url, NAME)
    for number in range(20):
        pushed = remote.push_image("moved")
        assert remote.get("manifests/moved").content == pushed.body
        if number % 2:
            remote.delete("manifests/moved")
            assert remote.get("manifests/moved").status_code == 404


def test_the_access_log_has_every_pull(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=1, config={"log": {"level": "debug"}}) as server:
        Remote(server.url, NAME).push_image("1")
        for _ in range(5):
            requests.get(f"{server.url}/v2/{NAME}/manifests/1", timeout=PATIENCE)
        log = server.log.read_text()
    assert log.count(f'"GET /v2/{NAME}/manifests/1 HTTP/1.1" 200 ') == 5


def test_what_the_server_cannot_make_a_request_of_ends_no_worker(tmp_path: Path) -> None:
    """Gunicorn refuses paths outside of SCRIPT_NAME by an error of its own."""
    with Server(tmp_path / "data", workers=1) as server:
        Remote(server.url, NAME).push_image("1")
    with Server(tmp_path / "data", workers=1, env={"SCRIPT_NAME": "/registry"}) as server:
        before = server.worker_pids()
        for _ in range(3):
            answer = requests.get(f"{server.url}/v2/{NAME}/manifests/1", timeout=PATIENCE)
            assert answer.status_code == 400
        assert server.worker_pids() == before
