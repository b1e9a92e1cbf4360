"""The registry under TLS: whole blobs both ways, slow and hostile clients, certificates that change, and clients'."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509

from tests.conftest import MakeServer
from tests.support.certificates import Authority, Pair, trusting
from tests.support.oci import digest_of, random_bytes
from tests.support.server import Server, free_port
from tests.support.users import basic, htpasswd
from tests.support.wire import WireAnswer, connect, exchange, head, receive

pytestmark = pytest.mark.direct("the registry's own TLS")

PATIENCE = 60.0
STALL = 2.0
CROWD = 100
MEBIBYTE = 1024 * 1024
LARGE = 64 * MEBIBYTE
RECORD = 16 * 1024
PING = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
TREE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with TLS and a short stall timeout, whose workers all survive and complain of nothing."""
    config = {"http": {"tls": tls_of(authority.server())}, "server": {"stallTimeout": f"{STALL:g}s"}}
    with Server(tmp_path_factory.mktemp("secure") / "data", workers=2, config=config) as running:
        before = running.worker_pids()
        yield running
        assert running.worker_pids() == before
        assert " ERROR " not in running.log.read_text()
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def session(authority: Authority) -> requests.Session:
    """Give a client that trusts the authority, whatever the environment says."""
    return client_of(authority)


def client_of(authority: Authority, pair: Pair | None = None) -> requests.Session:
    client = requests.Session()
    client.trust_env = False
    client.verify = str(authority.cert)
    client.cert = pair.files if pair else None
    return client


def tls_of(pair: Pair, ca_cert: Path | None = None) -> dict[str, str]:
    return {"cert": str(pair.cert), "key": str(pair.key)} | ({"cacert": str(ca_cert)} if ca_cert else {})


def open_tls(server: Server, authority: Authority, client: Pair | None = None) -> ssl.SSLSocket:
    """Connect; an end without a farewell is an error."""
    context = trusting(authority, client)
    return context.wrap_socket(connect(server.host), server_hostname="localhost", suppress_ragged_eofs=False)


def ask(connection: socket.socket, request: bytes) -> WireAnswer | None:
    connection.sendall(request)
    return receive(connection, request.split(b" ", 1)[0].decode())


def common_name(connection: ssl.SSLSocket) -> str:
    certificate: dict[str, Any] | None = connection.getpeercert()
    assert certificate is not None
    name: str = certificate["subject"][0][0][1]
    return name


def push(session: requests.Session, server: Server, repository: str, data: Any, digest: str) -> requests.Response:
    target = f"{server.url}/v2/{repository}/blobs/uploads/"
    return session.post(target, params={"digest": digest}, data=data, timeout=PATIENCE)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


# whole blobs


@pytest.fixture(scope="module")
def large() -> bytes:
    return os.urandom(LARGE + 12345)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_large_blob_up_and_down(
    secure: Server, session: requests.Session, repository: str, large: bytes, framing: str
) -> None:
    size = 3 * MEBIBYTE + 7
    pieces = (large[at : at + size] for at in range(0, len(large), size))
    digest = digest_of(large)
    assert push(session, secure, repository, large if framing == "length" else pieces, digest).status_code == 201
    url = f"{secure.url}/v2/{repository}/blobs/{digest}"
    assert session.get(url, timeout=PATIENCE).content == large
    for start, end in ((0, 0), (RECORD - 1, RECORD), (256 * 1024 - 1, 512 * 1024), (len(large) - 1, len(large) - 1)):
        answer = session.get(url, headers={"Range": f"bytes={start}-{end}"}, timeout=PATIENCE)
        assert answer.status_code == 206
        assert answer.content == large[start : end + 1]


def test_uploads_in_chunks_of_odd_sizes(secure: Server, session: requests.Session, repository: str) -> None:
    parts = [random_bytes(size) for size in (1, RECORD - 1, RECORD, RECORD + 1, 100_003)]
    location = session.post(f"{secure.url}/v2/{repository}/blobs/uploads/", timeout=PATIENCE).headers["Location"]
    for part in parts:
        answer = session.patch(secure.url + location, data=part, timeout=PATIENCE)
        assert answer.status_code == 202
        location = answer.headers["Location"]
    digest = digest_of(b"".join(parts))
    assert session.put(secure.url + location, params={"digest": digest}, timeout=PATIENCE).status_code == 201


def test_the_client_is_told_to_go_on(secure: Server, authority: Authority, repository: str) -> None:
    body = random_bytes(1000)
    target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(body)}"
    with open_tls(secure, authority) as client:
        client.sendall(head("POST", target, f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        answer = receive(client, "POST")
    assert answer is not None
    assert answer.status_code == 201


def test_requests_in_one_record_are_all_answered(secure: Server, authority: Authority) -> None:
    """What OpenSSL has decrypted already is nothing that a poller could see."""
    with open_tls(secure, authority) as client, client.makefile("rb") as incoming:
        client.sendall(PING * 50)
        for _ in range(50):
            assert incoming.readline() == b"HTTP/1.1 200 OK\r\n"
            while incoming.readline() != b"\r\n":
                pass
            assert incoming.read(2) == b"{}"


def test_a_head_in_many_records(secure: Server, authority: Authority) -> None:
    with open_tls(secure, authority) as client:
        for byte in PING:
            client.sendall(bytes([byte]))
        answer = receive(client)
    assert answer is not None
    assert answer.status_code == 200


def test_a_head_larger_than_a_record(secure: Server, authority: Authority) -> None:
    with open_tls(secure, authority) as client:
        answer = ask(client, head("GET", "/v2/", f"X-A: {'a' * 20_000}", f"X-B: {'b' * 20_000}"))
    assert answer is not None
    assert answer.status_code == 200


def test_the_end_is_announced(secure: Server, authority: Authority) -> None:
    """Without a farewell the client could not tell the end from a cut."""
    with open_tls(secure, authority) as client:
        client.sendall(head("GET", "/v2/"))
        while client.recv(4096):
            pass


def test_malformed_requests_are_answered(secure: Server, authority: Authority) -> None:
    with open_tls(secure, authority) as client:
        answer = ask(client, b"GET /v2/ HTTP/9.9\r\n\r\n")
        assert answer is not None
        assert answer.status_code == 400
        assert client.recv(1) == b""


def test_a_body_that_nobody_wants(secure: Server, authority: Authority) -> None:
    """The client gets to read the refusal, though much of what it sends is still on its way."""
    with open_tls(secure, authority) as client:
        client.sendall(head("PUT", "/nowhere", f"Content-Length: {4 * MEBIBYTE}"))
        with contextlib.suppress(OSError):
            client.sendall(bytes(MEBIBYTE))
        answer = receive(client, "PUT")
    assert answer is not None
    assert answer.status_code == 404


# cut connections


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_cut_body_is_no_whole_one(
    secure: Server, session: requests.Session, authority: Authority, repository: str, framing: str
) -> None:
    """Whoever cuts the connection, without a farewell, does not choose where the content ends."""
    location = session.post(f"{secure.url}/v2/{repository}/blobs/uploads/", timeout=PATIENCE).headers["Location"]
    target = f"{location}?digest={digest_of(b'hello')}"
    fields, body = {
        "length": ("Content-Length: 10", b"hello"),
        "chunks": ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
    }[framing]
    client = open_tls(secure, authority)
    client.sendall(head("PUT", target, fields) + body)
    socket.socket(fileno=client.detach()).close()
    blob = f"{secure.url}/v2/{repository}/blobs/{digest_of(b'hello')}"
    until(lambda: session.get(secure.url + location, timeout=PATIENCE).headers.get("Range") == "0-4")
    assert session.head(blob, timeout=PATIENCE).status_code == 404


@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_a_handshake_that_ends_early(secure: Server, session: requests.Session, count: int) -> None:
    hello = client_hello()
    with connect(secure.host) as client:
        client.sendall(hello[:count])
    assert session.get(f"{secure.url}/v2/", timeout=PATIENCE).status_code == 200


# slow clients


def client_hello() -> bytes:
    """Return how a client begins."""
    outgoing = ssl.MemoryBIO()
    begun = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        begun.do_handshake()
    return outgoing.read()


def threads_of(server: Server) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in server.worker_pids())


def test_a_crowd_of_slow_handshakes(secure: Server, session: requests.Session, repository: str) -> None:
    """Those who trickle through the handshake hold no thread, and keep nobody waiting."""
    hello = client_hello()
    before = threads_of(secure)
    clients = [connect(secure.host) for _ in range(CROWD)]
    try:
        for number in range(20):
            for client in clients:
                client.sendall(hello[number : number + 1])
            data = random_bytes(100_000)
            assert push(session, secure, repository, data, digest_of(data)).status_code == 201
        assert threads_of(secure) - before < CROWD / 4
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("count", [0, 1, 50, None], ids=["nothing", "a byte", "a part", "all but the end"])
def test_a_stalled_handshake_is_thrown_out(secure: Server, count: int | None) -> None:
    with connect(secure.host) as client:
        started = time.monotonic()
        client.sendall(client_hello()[:count])
        while client.recv(RECORD):
            pass
        assert time.monotonic() - started >= STALL * 0.9


def test_a_handshake_byte_by_byte(secure: Server, authority: Authority) -> None:
    """It takes longer than the stall timeout, but keeps moving."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with connect(secure.host) as client:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    client.sendall(bytes([byte]))
                    time.sleep(STALL / 200)
                incoming.write(client.recv(RECORD))
        tls.write(head("GET", "/v2/"))
        for byte in outgoing.read():
            client.sendall(bytes([byte]))
        answer = b""
        while not answer.startswith(b"HTTP/1.1 200"):
            incoming.write(client.recv(RECORD))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer += tls.read(RECORD)


def connect_small(server: Server, authority: Authority) -> ssl.SSLSocket:
    """Connect with a small receive buffer, so that what is not read soon holds up the server."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", server.port))
    return trusting(authority).wrap_socket(client, server_hostname="localhost", suppress_ragged_eofs=False)


def test_a_slow_reader_gets_everything(
    secure: Server, session: requests.Session, authority: Authority, repository: str
) -> None:
    data = os.urandom(8 * MEBIBYTE)
    assert push(session, secure, repository, data, digest_of(data)).status_code == 201
    with connect_small(secure, authority) as client, client.makefile("rb") as incoming:
        client.sendall(head("GET", f"/v2/{repository}/blobs/{digest_of(data)}"))
        while incoming.readline() != b"\r\n":
            pass
        started = time.monotonic()
        received = b""
        while time.monotonic() - started < STALL * 2:
            received += incoming.read(1000)
            time.sleep(0.05)
        assert received + incoming.read() == data


def test_a_stalled_reader_is_thrown_out(
    secure: Server, session: requests.Session, authority: Authority, repository: str
) -> None:
    data = os.urandom(32 * MEBIBYTE)
    assert push(session, secure, repository, data, digest_of(data)).status_code == 201
    with connect_small(secure, authority) as client:
        client.sendall(head("GET", f"/v2/{repository}/blobs/{digest_of(data)}"))
        time.sleep(STALL * 3)
        with pytest.raises((ConnectionError, ssl.SSLEOFError)):
            while client.recv(RECORD):
                pass


def test_a_stalled_body_is_told(secure: Server, authority: Authority, repository: str) -> None:
    with open_tls(secure, authority) as client:
        answer = ask(
            client, head("POST", f"/v2/{repository}/blobs/uploads/?digest={digest_of(b'')}", "Content-Length: 9")
        )
    assert answer is not None
    assert answer.status_code == 400


# what is spoken


def test_the_protocol(secure: Server, authority: Authority) -> None:
    context = trusting(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(connect(secure.host), server_hostname="localhost") as client:
        assert client.version() == "TLSv1.3"
        assert client.selected_alpn_protocol() == "http/1.1"
        assert client.compression() is None


def test_the_older_protocol(secure: Server, authority: Authority) -> None:
    context = trusting(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with context.wrap_socket(connect(secure.host), server_hostname="localhost") as client:
        cipher = client.cipher()
        assert cipher is not None
        assert cipher[0].startswith("ECDHE-")
        answer = ask(client, PING)
    assert answer is not None
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA"),
    ],
    ids=["1.1", "CBC"],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_what_is_too_old_is_refused(
    secure: Server, authority: Authority, version: ssl.TLSVersion, ciphers: str
) -> None:
    context = trusting(authority)
    context.set_ciphers(ciphers)
    context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError), connect(secure.host) as plain:
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "DELETE", "OPTIONS"])
def test_plain_http_is_told_so(secure: Server, method: str) -> None:
    answer = exchange(secure.host, head(method, "/v2/"))
    assert answer is not None
    assert answer.status_code == 400
    assert answer.headers["Connection"] == "close"
    if method != "HEAD":
        assert b"Client sent an HTTP request to an HTTPS server." in answer.content
        assert b'"errors"' in answer.content


def test_plain_http_with_a_large_body_is_told_so(secure: Server) -> None:
    answer = exchange(secure.host, head("PUT", "/v2/", f"Content-Length: {MEBIBYTE}") + bytes(MEBIBYTE))
    assert answer is not None
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "data", [b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 70_000, b"\x80\x2e\x01\x00\x02" + b"\0" * 50]
)
def test_nonsense_is_closed(secure: Server, session: requests.Session, data: bytes) -> None:
    with connect(secure.host) as client, contextlib.suppress(ConnectionError):
        client.sendall(data)
        while client.recv(RECORD):
            pass
    assert session.get(f"{secure.url}/v2/", timeout=PATIENCE).status_code == 200


def test_a_client_that_does_not_trust_is_noted(secure: Server) -> None:
    with connect(secure.host) as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
    until(lambda: "unknown ca" in secure.log.read_text())


def test_links_name_the_scheme(secure: Server, session: requests.Session) -> None:
    description = session.get(f"{secure.url}/swagger/v2/", timeout=PATIENCE)
    assert description.status_code == 200
    assert "http://localhost" not in description.text.replace("https://", "")


# certificates that change


@pytest.fixture
def live(tmp_path: Path, authority: Authority) -> Pair:
    """Give files that a server uses, and that may change."""
    pair = Pair(tmp_path / "live.crt", tmp_path / "live.key")
    authority.server("before").copy_to(pair)
    return pair


def shown(server: Server, authority: Authority) -> str:
    with open_tls(server, authority) as client:
        return common_name(client)


def test_a_new_certificate_for_new_connections(make_server: MakeServer, authority: Authority, live: Pair) -> None:
    server = make_server(config={"http": {"tls": tls_of(live)}}, workers=2)
    with open_tls(server, authority) as client:
        assert ask(client, PING) is not None
        authority.server("after").copy_to(live)
        until(lambda: all(shown(server, authority) == "after" for _ in range(10)))
        answer = ask(client, PING)
        assert answer is not None
        assert common_name(client) == "before"


def test_files_that_do_not_fit(make_server: MakeServer, authority: Authority, live: Pair) -> None:
    """The old pair stays in force, which is told once by each worker that notices, until the files fit again."""
    server = make_server(config={"http": {"tls": tls_of(live)}}, workers=1)
    after = authority.server("after")
    live.cert.write_bytes(after.cert.read_bytes())

    def noticed() -> bool:
        assert shown(server, authority) == "before"
        return " ERROR " in server.log.read_text()

    until(noticed)
    (killed,) = server.worker_pids()
    os.kill(killed, signal.SIGKILL)
    until(lambda: server.worker_pids() not in ([], [killed]))
    assert shown(server, authority) == "before"
    live.key.write_bytes(after.key.read_bytes())
    until(lambda: shown(server, authority) == "after")
    assert server.log.read_text().count("stays in force") <= 2


def test_a_new_authority_for_clients(make_server: MakeServer, tmp_path: Path, authority: Authority, live: Pair) -> None:
    first, second = Authority.in_new(tmp_path / "first"), Authority.in_new(tmp_path / "second")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(first.cert.read_bytes())
    server = make_server(config={"http": {"tls": tls_of(live, trusted)}}, workers=1)
    alice, bob = first.client("alice"), second.client("bob")
    assert status_for(server, authority, alice) == 200
    trusted.write_bytes(second.cert.read_bytes())
    until(lambda: status_for(server, authority, bob) == 200)
    assert status_for(server, authority, alice) is None


def test_a_graceful_restart(make_server: MakeServer, authority: Authority, live: Pair, repository: str) -> None:
    """SIGHUP and SIGTERM let a download end, and it is whole."""
    server = make_server(config={"http": {"tls": tls_of(live)}}, workers=1)
    data = os.urandom(16 * MEBIBYTE)
    assert push(client_of(authority), server, repository, data, digest_of(data)).status_code == 201
    (before,) = server.worker_pids()
    with connect_small(server, authority) as client, client.makefile("rb") as incoming:
        client.sendall(head("GET", f"/v2/{repository}/blobs/{digest_of(data)}"))
        while incoming.readline() != b"\r\n":
            pass
        os.kill(server.pid, signal.SIGHUP)
        until(lambda: server.worker_pids() not in ([before], []))
        assert shown(server, authority) == "before"
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert incoming.read() == data
    stopper.join()


# clients' certificates

RULES = {
    "repositories": {
        "team/**": {"policies": [{"users": ["alice", "spiffe://test/alice"], "actions": ["read", "create", "update"]}]},
    }
}


def status_for(
    server: Server, authority: Authority, pair: Pair | None, path: str = "/v2/", **options: Any
) -> int | None:
    """Return the status of a request; None if the handshake failed."""
    client = client_of(authority, pair)
    try:
        return client.get(server.url + path, timeout=PATIENCE, **options).status_code
    except requests.exceptions.SSLError:
        return None
    finally:
        client.close()


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give an authority that signs clients' certificates only."""
    return Authority(tmp_path_factory.mktemp("clients"), "Clients CA")


@pytest.fixture(scope="module")
def mutual(authority: Authority, clients: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server to which a certificate is the only way in."""
    http = {"tls": tls_of(authority.server("mutual"), clients.cert), "accessControl": RULES}
    with Server(tmp_path_factory.mktemp("mutual") / "data", config={"http": http}) as running:
        yield running
        assert " ERROR " not in running.log.read_text()


def test_no_certificate_where_one_is_required(mutual: Server, authority: Authority) -> None:
    """The client is told what it lacks, not merely cut off."""
    with pytest.raises(requests.exceptions.SSLError, match=r"(?i)certificate.required"):
        client_of(authority).get(f"{mutual.url}/v2/", timeout=PATIENCE)
    until(lambda: "peer did not return a certificate" in mutual.log.read_text())


def test_a_certificate_says_who_one_is(mutual: Server, authority: Authority, clients: Authority) -> None:
    alice, bob = clients.client("alice"), clients.client("bob")
    assert status_for(mutual, authority, alice) == 200
    data = random_bytes()
    assert push(client_of(authority, alice), mutual, "team/app", data, digest_of(data)).status_code == 201
    assert push(client_of(authority, alice), mutual, "other/app", data, digest_of(data)).status_code == 403
    assert push(client_of(authority, bob), mutual, "team/app", data, digest_of(data)).status_code == 403


# Where a certificate is the only way in, there is no challenge that 401 could carry.
REFUSED = (401, 403)

Make = Callable[[Authority, Path], Pair]


@pytest.mark.parametrize(
    "make",
    [
        lambda clients, other: Authority.in_new(other, clients.name.rfc4514_string()[3:]).client("alice"),
        lambda clients, _: clients.client("late", common_names=["alice"], begins=timedelta(days=-2)),
        lambda clients, _: clients.client("early", common_names=["alice"], begins=timedelta(days=2)),
        lambda clients, _: clients.server("alice-server"),
    ],
    ids=["another authority of the same name", "expired", "not yet valid", "a server's"],
)
def test_a_certificate_that_does_not_verify(
    mutual: Server, authority: Authority, clients: Authority, tmp_path: Path, make: Make
) -> None:
    assert status_for(mutual, authority, make(clients, tmp_path / "other")) is None


def test_a_certificate_that_expires_on_the_way(mutual: Server, authority: Authority, clients: Authority) -> None:
    """A connection that is open for long does not prolong it."""
    brief = clients.client("brief", common_names=["alice"], lifetime=timedelta(seconds=4))
    with open_tls(mutual, authority, brief) as client:
        assert getattr(ask(client, PING), "status_code", None) == 200
        until(lambda: getattr(ask(client, PING), "status_code", None) in REFUSED)


def test_a_certificate_without_a_name(mutual: Server, authority: Authority, clients: Authority) -> None:
    nameless = clients.client("nameless", common_names=[], alternatives=[x509.DNSName("alice")])
    assert status_for(mutual, authority, nameless) in REFUSED


def test_a_name_from_elsewhere(make_server: MakeServer, authority: Authority, clients: Authority, live: Pair) -> None:
    http = {
        "tls": tls_of(live, clients.cert),
        "auth": {"mtls": {"identityAttributes": ["URI", "CommonName"]}},
        "accessControl": RULES,
    }
    server = make_server(config={"http": http})
    spiffe = x509.UniformResourceIdentifier("spiffe://test/alice")
    carol = clients.client("carol", alternatives=[spiffe])
    assert status_for(server, authority, carol, "/v2/team/app/tags/list") == 404
    assert status_for(server, authority, clients.client("bob"), "/v2/team/app/tags/list") == 403


def test_an_intermediate_authority_is_trusted_by_itself(
    make_server: MakeServer, authority: Authority, tmp_path: Path, live: Pair
) -> None:
    intermediate = Authority(tmp_path, "Intermediate CA", signed_by=authority)
    server = make_server(config={"http": {"tls": tls_of(live, intermediate.cert)}})
    assert status_for(server, authority, intermediate.client("alice")) == 200
    assert status_for(server, authority, authority.client("bob")) is None


@pytest.fixture(scope="module")
def mixed(authority: Authority, clients: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server to which passwords are another way in."""
    root = tmp_path_factory.mktemp("mixed")
    http = {
        "tls": tls_of(authority.server("mixed"), clients.cert),
        "auth": {"htpasswd": {"path": str(htpasswd(root / "htpasswd", {"alice": "secret"}))}},
        "accessControl": RULES,
    }
    with Server(root / "data", config={"http": http}) as running:
        yield running


def test_a_certificate_beside_passwords(mixed: Server, authority: Authority, clients: Authority) -> None:
    path = "/v2/team/app/tags/list"
    assert status_for(mixed, authority, None) == 401
    assert status_for(mixed, authority, clients.client("alice"), path) == 404
    assert status_for(mixed, authority, None, path, headers=basic("alice", "secret")) == 404
    assert status_for(mixed, authority, authority.client("stranger")) is None


@pytest.mark.parametrize(
    "header", ["pierhead.client_certificate", "Pierhead.Client.Certificate", "X-Client-Cert", "SSL-Client-Cert"]
)
def test_a_header_is_no_certificate(mixed: Server, authority: Authority, header: str) -> None:
    assert status_for(mixed, authority, None, headers={header: "{'subject': ((('commonName', 'alice'),),)}"}) in (
        400,
        401,
    )


# how it is started


def document(tmp_path: Path, live: Pair, port: int) -> str:
    """Return a configuration's text."""
    http = {"port": port, "tls": tls_of(live)}
    return json.dumps({"storage": {"rootDirectory": str(tmp_path / "data")}, "http": http, "server": {"workers": 1}})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda live: live.key.unlink(), "http.tls.key"),
        (lambda live: live.cert.write_text("nonsense"), "not in PEM"),
        (lambda live: live.key.write_bytes(Pair(live.cert, live.key).cert.read_bytes()), "no private key"),
    ],
    ids=["no key", "no certificate", "not a key"],
)
def test_it_does_not_start_in_clear(tmp_path: Path, live: Pair, spoil: Callable[[Pair], object], words: str) -> None:
    spoil(live)
    config = tmp_path / "config.json"
    config.write_text(document(tmp_path, live, free_port()))
    pierhead = Path(sys.executable).with_name("pierhead")
    ended = subprocess.run([pierhead, "serve", config], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_says_where_it_is(secure: Server) -> None:
    assert f"serves https://localhost:{secure.port}" in secure.log.read_text()


@contextlib.contextmanager
def gunicorn(tmp_path: Path, live: Pair, directory: Path, *options: str) -> Iterator[str]:
    """Run `gunicorn wsgi:app` in a directory and yield its address."""
    port = free_port()
    config = tmp_path / "config.json"
    config.write_text(document(tmp_path, live, port))
    command: list[str | Path] = [
        Path(sys.executable).with_name("gunicorn"),
        *options,
        "--bind",
        f"127.0.0.1:{port}",
        "wsgi:app",
    ]
    process = subprocess.Popen(command, cwd=directory, env=os.environ | {"PIERHEAD_CONFIG": str(config)})
    try:
        until(lambda: process.poll() is None and _listens(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("by_file", [True, False])
def test_gunicorn_with_the_registrys_worker(tmp_path: Path, live: Pair, authority: Authority, by_file: bool) -> None:
    options = [] if by_file else ["--worker-class", "registry.worker.Worker"]
    with gunicorn(tmp_path, live, TREE if by_file else tmp_path, *options) as host:
        assert client_of(authority).get(f"https://{host}/v2/", timeout=PATIENCE).status_code == 200
        answer = exchange(host, head("GET", "/v2/"))
        assert answer is not None
        assert b"HTTPS server" in answer.content


def test_gunicorn_with_a_stock_worker(tmp_path: Path, live: Pair) -> None:
    """It would serve in clear what was to be encrypted."""
    with gunicorn(tmp_path, live, tmp_path, "--worker-class", "gthread") as host:
        answer = exchange(host, head("GET", "/v2/"))
        assert answer is not None
        assert answer.status_code == 400
        assert b"http.tls is set" in answer.content
