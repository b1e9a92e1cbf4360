"""What the server itself answers: malformed requests, kept-alive connections, unread bodies, signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path

import pytest
import requests

from tests.conftest import MakeServer
from tests.support.oci import Remote, digest_of
from tests.support.server import Server, free_port
from tests.support.wire import WireAnswer, connect, exchange, head, receive

pytestmark = pytest.mark.direct("the server itself")

PING = head("GET", "/v2/")
KEPT = b"GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n"
MEBIBYTE = 1024 * 1024
PATIENCE = 60.0

MALFORMED = {
    "no version": (b"GET /v2/\r\n\r\n", 400),
    "no target": (b"GET  HTTP/1.1\r\n\r\n", 400),
    "relative target": (b"GET v2/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "raw byte in the target": (b"GET /v2/\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "version 0.9": (b"GET /v2/ HTTP/0.9\r\nHost: a\r\n\r\n", 400),
    "version 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "nonsense": (b"\x00\x01\x02\r\n\r\n", 400),
    "method in lower case": (b"get /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "method with a space": (b"G ET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "method too long": (b"X" * 100 + b" /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bare LF": (b"GET /v2/ HTTP/1.1\nHost: a\n\n", 400),
    "bare LF in the fields": (b"GET /v2/ HTTP/1.1\r\nHost: a\nAccept: b\r\n\r\n", 400),
    "field without colon": (head("GET", "/v2/", "nonsense"), 400),
    "field without name": (head("GET", "/v2/", ": value"), 400),
    "space before colon": (head("GET", "/v2/", "Accept : value"), 400),
    "folded field": (head("GET", "/v2/", "Accept: a", "  b"), 400),
    "NUL in a field": (head("GET", "/v2/", "Accept: a\0b"), 400),
    "two hosts": (head("GET", "/v2/", "Host: other"), 400),
    "line too long": (head("GET", "/v2/" + "a" * 9000), 414),
    "endless line": (b"GET /" + b"a" * 200_000, 414),
    "field too long": (head("GET", "/v2/", "Accept: " + "a" * 40_000), 431),
    "too many fields": (head("GET", "/v2/", *(f"X-{number}: a" for number in range(200))), 431),
    "head too large": (head("GET", "/v2/", *(f"X-{number}: {'a' * 8000}" for number in range(50))), 431),
    "endless head": (head("GET", "/v2/", *(f"X-{number}: {'a' * 8000}" for number in range(50)))[:-4], 431),
    "unknown expectation": (head("GET", "/v2/", "Expect: miracles"), 417),
    "length that is no number": (head("POST", "/v2/a/blobs/uploads/", "Content-Length: ten"), 400),
    "negative length": (head("POST", "/v2/a/blobs/uploads/", "Content-Length: -1"), 400),
    "length in hexadecimal": (head("POST", "/v2/a/blobs/uploads/", "Content-Length: 0x10"), 400),
    "length that is not ASCII": (head("POST", "/v2/a/blobs/uploads/", "Content-Length: \xb2"), 400),
    "two lengths": (head("POST", "/v2/a/blobs/uploads/", "Content-Length: 1", "Content-Length: 2"), 400),
    "list of lengths": (head("POST", "/v2/a/blobs/uploads/", "Content-Length: 1, 1"), 400),
    "length and chunks": (
        head("POST", "/v2/a/blobs/uploads/", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    "chunked twice": (head("POST", "/v2/a/blobs/uploads/", "Transfer-Encoding: chunked, chunked"), 400),
    "chunked not last": (head("POST", "/v2/a/blobs/uploads/", "Transfer-Encoding: chunked, gzip"), 400),
    "not chunked": (head("POST", "/v2/a/blobs/uploads/", "Transfer-Encoding: gzip"), 400),
    "unknown coding": (head("POST", "/v2/a/blobs/uploads/", "Transfer-Encoding: magic"), 400),
    "chunks in HTTP/1.0": (b"POST /v2/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server that must have the same workers after the module's tests as before."""
    with Server(tmp_path_factory.mktemp("steady") / "data", workers=2) as running:
        before = running.worker_pids()
        yield running
        assert running.worker_pids() == before


def assert_refusal(answer: WireAnswer | None, status: int) -> None:
    """Hold that an answer is an error in the form of the specification's section "Error Codes"."""
    assert answer is not None
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    assert answer.headers["Connection"] == "close"
    [error] = json.loads(answer.content)["errors"]
    assert error["code"] == "UNSUPPORTED"
    assert error["message"]
    assert error["detail"]


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_head(steady: Server, case: str) -> None:
    """A head that is no HTTP is refused in the registry's own form, and no worker is lost."""
    request, status = MALFORMED[case]
    assert_refusal(exchange(steady.host, request), status)


@pytest.mark.parametrize("length", range(0, len(PING), 7))
def test_cut_head(steady: Server, length: int) -> None:
    """A client that leaves in the middle of a head gets no answer and does no harm."""
    assert exchange(steady.host, PING[:length], cut=True) is None


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"-1\r\nab",
        b"5\r\nabcdeXX",
        b"5 5\r\nabcde\r\n",
        b"0x5\r\nabcde\r\n",
        b"\r\n",
        b"5;=\r\nabcde",
        b"f" * 40_000,
    ],
)
def test_broken_chunk(steady: Server, repository: str, body: bytes) -> None:
    """A broken chunk ends in a client error of the registry's form."""
    request = head("POST", f"/v2/{repository}/blobs/uploads/?digest={digest_of(b'x')}", "Transfer-Encoding: chunked")
    answer = exchange(steady.host, request + body)
    assert answer is not None
    assert 400 <= answer.status_code < 500, answer
    assert b'"errors"' in answer.content


def test_unknown_method(steady: Server) -> None:
    """A method that is HTTP but unknown is the application's to refuse."""
    answer = exchange(steady.host, head("BREW", "/v2/"))
    assert answer is not None
    assert answer.status_code == 405


def test_long_but_legal_request(steady: Server) -> None:
    """A request line of nearly 8 KB and a token of 30 KB are answered."""
    tags = "&".join(f"tag={'a' * 120}{number}" for number in range(60))
    answer = exchange(steady.host, head("GET", f"/v2/?{tags}", "Authorization: Bearer " + "a" * 30_000))
    assert answer is not None
    assert answer.status_code == 200


def test_tls_is_refused_at_once(steady: Server) -> None:
    """A client that tries TLS first, as engines do, is told soon enough to fall back to HTTP."""
    started = time.monotonic()
    with connect(steady.host) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
    assert time.monotonic() - started < PATIENCE / 2


def test_connection_is_kept(steady: Server) -> None:
    """Many requests go over one connection (RFC 9112 section 9.3), in pieces or all at once."""
    with connect(steady.host) as connection:
        for _ in range(3):
            for byte in KEPT:
                connection.send(bytes([byte]))
            assert_ping(receive(connection))
        time.sleep(0.1)
        connection.sendall(KEPT)
        assert_ping(receive(connection))


def test_pipelined_requests(steady: Server) -> None:
    """Requests that arrive together are answered in their order (RFC 9112 section 9.3.2)."""
    with connect(steady.host) as connection, connection.makefile("rb") as incoming:
        connection.sendall(KEPT * 20 + PING)
        answers = incoming.read()
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 21
    assert answers.count(b"Connection: keep-alive") == 20


def assert_ping(answer: WireAnswer | None) -> None:
    """Hold that the registry is there and keeps the connection."""
    assert answer is not None
    assert answer.status_code == 200
    assert answer.headers["Connection"] == "keep-alive"


def test_connection_is_kept_after_an_error(steady: Server, repository: str) -> None:
    """An error of the application does not cost the connection."""
    with connect(steady.host) as connection:
        connection.sendall(f"GET /v2/{repository}/manifests/none HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = receive(connection)
        assert answer is not None
        assert answer.status_code == 404
        connection.sendall(KEPT)
        assert_ping(receive(connection))


def test_http_1_0(steady: Server) -> None:
    """A client of HTTP/1.0 is answered and its connection closed."""
    with connect(steady.host) as connection, connection.makefile("rb") as incoming:
        connection.sendall(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert b"200 OK" in incoming.read()


def test_refused_upload_gets_its_answer(steady: Server) -> None:
    """A client that is still sending a large body sees why it is refused, not a reset."""
    size = 64 * MEBIBYTE
    request = head("PUT", "/v2/BAD/manifests/a", f"Content-Length: {size}", "Content-Type: application/json")
    with connect(steady.host) as connection:
        connection.sendall(request)
        for _ in range(size // MEBIBYTE):
            connection.sendall(bytes(MEBIBYTE))
        answer = receive(connection)
    assert answer is not None
    assert answer.status_code == 400
    assert answer.headers["Connection"] == "close"


def test_continue_is_sent_when_the_body_is_wanted(steady: Server, repository: str) -> None:
    """A client that expects 100-continue is told to go on (RFC 9110 section 10.1.1)."""
    body = os.urandom(1000)
    target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(body)}"
    with connect(steady.host) as connection:
        connection.sendall(head("POST", target, "Expect: 100-continue", f"Content-Length: {len(body)}"))
        assert connection.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        answer = receive(connection)
    assert answer is not None
    assert answer.status_code == 201


def test_continue_is_not_sent_for_a_refused_body(steady: Server) -> None:
    """A client that expects 100-continue is spared the body of a request that is refused anyway."""
    with connect(steady.host) as connection:
        connection.sendall(head("PUT", "/v2/BAD/manifests/a", "Expect: 100-continue", "Content-Length: 1000000"))
        response = HTTPResponse(connection)
        assert connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 400"
        response.begin()
        assert response.status == 400


def test_term_lets_an_upload_finish(make_server: MakeServer, repository: str) -> None:
    """After SIGTERM nobody new is served, but an upload under way is finished and answered."""
    server = make_server(workers=2)
    body = os.urandom(MEBIBYTE)
    target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(body)}"
    with connect(server.host) as connection:
        connection.sendall(head("POST", target, f"Content-Length: {len(body)}") + body[:1000])
        time.sleep(1)
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: refuses(server))
        connection.sendall(body[1000:])
        answer = receive(connection)
    assert answer is not None
    assert answer.status_code == 201
    assert server.stop() == 0
    assert list(server.root.rglob(digest_of(body).removeprefix("sha256:")))


def test_term_answers_who_queues_already(make_server: MakeServer, repository: str) -> None:
    """A proxy cannot send a push anew that it has sent once; so a connection that was made is one that is served."""
    server = make_server(workers=2)
    workers = server.worker_pids()
    with ExitStack() as stack:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        waiting = [stack.enter_context(connect(server.host)) for _ in range(100)]
        for connection in waiting:
            connection.sendall(head("POST", f"/v2/{repository}/blobs/uploads/", "Content-Length: 0"))
        os.kill(server.pid, signal.SIGTERM)
        time.sleep(0.5)  # the master has closed its own listener, and told the workers
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        answers = [receive(connection, "POST") for connection in waiting]
        assert [answer.status_code if answer else None for answer in answers] == [202] * len(waiting)
    assert server.stop() == 0


#: A registry whose workers take a second before they handle signals.
_SLOW_TO_BOOT = """
import time
from registry.worker import Worker
init_process = Worker.init_process
Worker.init_process = lambda self: (time.sleep(1), init_process(self))
from registry.cli import main
main()
"""


def test_a_worker_that_is_told_to_stop_before_it_can_hear_it_stops(tmp_path: Path) -> None:
    """Gunicorn's arbiter sends SIGTERM once, then waits for `server.gracefulTimeout`, which is minutes."""
    config = tmp_path / "config.json"
    http = {"address": "127.0.0.1", "port": str(free_port())}
    config.write_text(json.dumps({"storage": {"rootDirectory": str(tmp_path / "data")}, "http": http}))
    command = [sys.executable, "-c", _SLOW_TO_BOOT, "serve", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            assert any("Booting worker" in line for line in process.stdout)
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.05)


def refuses(server: Server) -> bool:
    """Tell whether nobody listens any more."""
    try:
        connect(server.host).close()
    except ConnectionRefusedError:
        return True
    return False


def answers(server: Server) -> bool:
    """Tell whether an ordinary request is answered."""
    return requests.get(server.url + "/v2/", timeout=PATIENCE).ok


def test_interrupt_waits_for_nobody(make_server: MakeServer, repository: str) -> None:
    """Ctrl-C ends the server at once, with exit code 0 and no traceback, whatever clients are doing."""
    server = make_server(workers=2)
    with connect(server.host) as idle, connect(server.host) as uploading:
        idle.sendall(KEPT)
        receive(idle)
        uploading.sendall(
            head("POST", f"/v2/{repository}/blobs/uploads/?digest={digest_of(b'x')}", "Content-Length: 99")
        )
        time.sleep(0.5)
        assert server.stop(signal.SIGINT) == 0
    assert "Traceback" not in server.log.read_text()


def test_killed_worker_is_replaced(make_server: MakeServer) -> None:
    """When a worker is killed the others go on, and a new one takes its place."""
    server = make_server(workers=2)
    victim, other = server.worker_pids()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: answers(server) and len(server.worker_pids()) == 2)
    assert other in server.worker_pids()
    assert victim not in server.worker_pids()


def test_hangup_replaces_the_workers(make_server: MakeServer) -> None:
    """SIGHUP replaces all workers, and no request fails meanwhile."""
    server = make_server(workers=2)
    before = set(server.worker_pids())
    os.kill(server.pid, signal.SIGHUP)
    while before & set(server.worker_pids()):
        assert answers(server)
    assert answers(server)


def test_more_clients_than_descriptors(make_server: MakeServer) -> None:
    """When descriptors run out, clients wait and the worker lives; it serves again when there are some."""
    server = make_server(workers=1, limits={"RLIMIT_NOFILE": 50})
    before = server.worker_pids()
    crowd = [connect(server.host) for _ in range(150)]
    time.sleep(1)
    assert server.worker_pids() == before
    for connection in crowd:
        connection.close()
    assert answers(server)
    assert server.worker_pids() == before
    log = server.log.read_text()
    assert 1 <= log.count("Cannot accept connections") <= 5
    assert "Traceback" not in log


def test_access_log_at_level_debug(make_server: MakeServer, tmp_path: Path) -> None:
    """The log goes to the file that the configuration names, with a line for each request at level debug."""
    log = tmp_path / "registry.log"
    server = make_server(config={"log": {"level": "debug", "output": str(log)}})
    requests.get(server.url + "/v2/?last=me", timeout=PATIENCE)
    # The line is written after the answer.
    wait_until(lambda: '"GET /v2/?last=me HTTP/1.1" 200' in log.read_text())


def test_no_access_log_by_default(make_server: MakeServer) -> None:
    """Requests leave no line in the log by default."""
    server = make_server()
    requests.get(server.url + "/v2/?last=me", timeout=PATIENCE)
    assert "last=me" not in server.log.read_text()


def test_start_says_where_it_serves_and_how_to_push(make_server: MakeServer) -> None:
    """A person who starts it reads the address, where the data lies, and a command that pushes."""
    started = make_server()
    log = started.log.read_text()
    assert f"serves http://localhost:{started.port}\n" in log
    assert f"Data lies in {started.root}\n" in log
    assert f"docker push localhost:{started.port}/team/app:1\n" in log


@pytest.mark.parametrize("level", ["info", "error"])
def test_log_level(make_server: MakeServer, level: str) -> None:
    """What is less grave than `log.level` is not written."""
    started = make_server(config={"log": {"level": level}})
    assert (" INFO " in started.log.read_text()) == (level == "info")


class IPv6Server(Server):
    """Serve on the loopback address of IPv6 only."""

    @property
    def host(self) -> str:
        """Give host and port, as image names have them."""
        return f"[::1]:{self.port}"


def has_ipv6() -> bool:
    """Tell whether there is a loopback address of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no loopback address of IPv6")
def test_ipv6(tmp_path: Path, repository: str) -> None:
    """`http.address` may be an IPv6 address, and locations lead back to it."""
    with IPv6Server(tmp_path / "data", config={"http": {"address": "::1"}}) as running:
        remote = Remote(running.url, repository)
        manifest = remote.push_image("1")
        assert remote.get("manifests/1").content == manifest.body
