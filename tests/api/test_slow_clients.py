"""Slow clients by the hundred do not stop an ordinary one, and those that have stalled are thrown out."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from tests.support.oci import Remote, digest_of
from tests.support.server import Server
from tests.support.wire import connect, head, receive

pytestmark = pytest.mark.direct("the server itself, whose clients nginx keeps away")

CROWD = 200
PATIENCE = 60.0
PAUSE = 0.1
STALL = 2.0
BLOB = os.urandom(32 * 1024 * 1024)
HALF_HEAD = b"GET /v2/ HTTP/1.1\r\nHost: registry.test\r\nX-Slow: "

Step = Callable[[socket.socket], object]


def half_body(repository: str) -> bytes:
    """Give a request with the beginning of its body."""
    target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(b'')}"
    return head("POST", target, "Content-Length: 1000000") + b"body"


def download(repository: str) -> bytes:
    """Give a request for the large blob."""
    return head("GET", f"/v2/{repository}/blobs/{digest_of(BLOB)}")


def send_a_byte(client: socket.socket) -> object:
    """Go on, a little."""
    return client.send(b"a")


def read_a_little(client: socket.socket) -> object:
    """Take a little of the answer; its end would be an error."""
    data = client.recv(2048)
    if not data:
        raise ConnectionError("the answer ended")
    return data


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with the default stall timeout, which is long."""
    with Server(tmp_path_factory.mktemp("patient") / "data", workers=2) as running:
        before = running.worker_pids()
        yield running
        assert running.worker_pids() == before


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with a short stall timeout."""
    config = {"server": {"stallTimeout": f"{STALL:g}s"}}
    with Server(tmp_path_factory.mktemp("strict") / "data", workers=2, config=config) as running:
        yield running


def push_blob(server: Server, repository: str) -> None:
    """Push the large blob."""
    target = f"{server.url}/v2/{repository}/blobs/uploads/?digest={digest_of(BLOB)}"
    assert requests.post(target, data=BLOB, timeout=PATIENCE).status_code == 201


def connect_small(host: str) -> socket.socket:
    """Connect with a small receive buffer, so that what is not read soon fills the server's own buffer."""
    address, port = host.split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE)
    client.connect((address, int(port)))
    return client


@dataclass
class Crowd:
    """Take a step with each of many clients, again and again, in one thread."""

    clients: list[socket.socket]
    step: Step
    over: threading.Event = field(default_factory=threading.Event)
    lost: list[str] = field(default_factory=list)
    rounds: int = 0

    def run(self) -> None:
        """Step until it is over; note whom the server left."""
        while not self.over.wait(PAUSE):
            for client in self.clients:
                try:
                    self.step(client)
                except (ConnectionError, TimeoutError) as error:
                    self.lost.append(repr(error))
            self.rounds += 1


@contextmanager
def crowd(server: Server, beginning: bytes, step: Step) -> Iterator[Crowd]:
    """Keep many slow clients busy during the context."""
    clients = [connect_small(server.host) for _ in range(CROWD)]
    for client in clients:
        client.sendall(beginning)
    slow = Crowd(clients, step)
    thread = threading.Thread(target=slow.run)
    thread.start()
    try:
        yield slow
    finally:
        slow.over.set()
        thread.join()
        for client in clients:
            client.close()


def threads_of(server: Server) -> int:
    """Count the threads of all workers."""
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in server.worker_pids())


@pytest.mark.parametrize("kind", ["heads", "bodies", "readers"])
def test_a_crowd_of_slow_clients(patient: Server, repository: str, kind: str) -> None:
    """While 200 clients send heads or bodies, or read, at a trickle, an ordinary client pushes and pulls."""
    push_blob(patient, repository)
    beginning, step = {
        "heads": (HALF_HEAD, send_a_byte),
        "bodies": (half_body(repository), send_a_byte),
        "readers": (download(repository), read_a_little),
    }[kind]
    before = threads_of(patient)
    with crowd(patient, beginning, step) as slow:
        remote = Remote(patient.url, repository)
        for number in range(5):
            remote.push_image(f"tag{number}")
            answer = requests.get(f"{patient.url}/v2/{repository}/manifests/tag{number}", timeout=PATIENCE)
            assert answer.status_code == 200
        while slow.rounds < 5:
            time.sleep(PAUSE)
        assert not slow.lost
        if kind == "heads":
            assert threads_of(patient) - before < CROWD / 4, "a half head holds no thread"


def wait_until_closed(client: socket.socket) -> None:
    """Wait until the server has closed or reset, without reading."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    assert poll.poll(PATIENCE * 1000), "the server has not closed"


@pytest.mark.parametrize("beginning", [b"", b"G", HALF_HEAD], ids=["nothing", "a byte", "half a head"])
def test_stalled_head(strict: Server, beginning: bytes) -> None:
    """A client that sends no more of a head is thrown out after the stall timeout, not before."""
    with connect(strict.host) as client:
        started = time.monotonic()
        client.sendall(beginning)
        assert client.recv(1) == b""
        assert time.monotonic() - started >= STALL * 0.9


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_stalled_body(strict: Server, repository: str, framing: str) -> None:
    """A client that sends no more of a body is told so and thrown out."""
    target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(b'')}"
    with connect(strict.host) as client:
        started = time.monotonic()
        client.sendall(head("POST", target, framing) + b"5\r\nab")
        answer = receive(client)
        assert time.monotonic() - started >= STALL * 0.9
    assert answer is not None
    assert 400 <= answer.status_code < 500


def test_stalled_reader(strict: Server, repository: str) -> None:
    """A client that reads no more of an answer is thrown out."""
    push_blob(strict, repository)
    with connect_small(strict.host) as client:
        client.sendall(download(repository))
        wait_until_closed(client)


def test_idle_connection(make_server: Callable[..., Server]) -> None:
    """A connection without a further request is closed after the keep-alive time."""
    server = make_server(config={"server": {"keepalive": "1s"}})
    with connect(server.host) as client:
        client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert receive(client) is not None
        wait_until_closed(client)


def test_trickled_head_lives(strict: Server) -> None:
    """A head that takes longer than the stall timeout, but keeps moving, is answered."""
    with connect(strict.host) as client:
        client.sendall(HALF_HEAD)
        trickle(lambda: send_a_byte(client))
        client.sendall(b"\r\nConnection: close\r\n\r\n")
        answer = receive(client)
    assert answer is not None
    assert answer.status_code == 200


def test_trickled_body_lives(strict: Server, repository: str) -> None:
    """A body that takes longer than the stall timeout, but keeps moving, is accepted."""
    body = b"a" * 1000
    with connect(strict.host) as client:
        target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(body)}"
        client.sendall(head("POST", target, f"Content-Length: {len(body)}"))
        client.sendall(body[trickle(lambda: send_a_byte(client)) :])
        answer = receive(client)
    assert answer is not None
    assert answer.status_code == 201


def test_trickling_reader_lives(strict: Server, repository: str) -> None:
    """A reader that takes longer than the stall timeout, but keeps reading, gets everything."""
    push_blob(strict, repository)
    with connect_small(strict.host) as client, client.makefile("rb") as incoming:
        client.sendall(download(repository))
        trickle(lambda: incoming.read(2048))
        received = incoming.read()
    assert received.endswith(BLOB[-1000:])


def trickle(step: Callable[[], object]) -> int:
    """Take a step now and then for much longer than the stall timeout; give the number of steps."""
    deadline = time.monotonic() + 3 * STALL
    steps = 0
    while time.monotonic() < deadline:
        step()
        steps += 1
        time.sleep(PAUSE)
    return steps


def test_cut_patch_keeps_its_bytes(strict: Server, repository: str) -> None:
    """What arrived of a chunked PATCH before the client stalled is kept, and the upload can go on from there."""
    started = requests.post(f"{strict.url}/v2/{repository}/blobs/uploads/", timeout=PATIENCE)
    location = started.headers["Location"]
    chunk = os.urandom(300_000)
    with connect(strict.host) as client:
        client.sendall(head("PATCH", location, "Transfer-Encoding: chunked"))
        client.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        receive(client)
    state = requests.get(strict.url + location, timeout=PATIENCE)
    assert state.status_code == 204
    assert state.headers["Range"] == f"0-{len(chunk) - 1}"
