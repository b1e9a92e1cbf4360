"""A socket under TLS between two threads: what has to wait for what, and what is left undone."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.config_auth import TLSConfig
from registry.stream import Stream
from registry.tls import make_context
from registry.tls_stream import HandshakeFailed, TLSStream
from tests.support.certificates import Authority, Pair, trusting

STALL = 0.3
PATIENCE = 30.0
RECORD = 16 * 1024


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.server()


@pytest.fixture
def ends() -> Iterator[tuple[Stream, socket.socket]]:
    """Give the server's end of a connection and the client's, before anybody has said anything."""
    one, other = socket.socketpair()
    other.settimeout(PATIENCE)
    server = Stream.adopt(one, STALL)
    yield server, other
    server.close()
    other.close()


def begin(server: Stream, pair: Pair) -> TLSStream:
    return TLSStream.over(server, make_context(TLSConfig(*pair.files), "none"))


def greet(stream: TLSStream) -> None:
    """Finish the handshake; nothing else has come."""
    while not is_over(stream):
        assert stream.ready(stream.wants, PATIENCE)


def is_over(stream: TLSStream) -> bool:
    """Go on with the handshake, and tell whether it is over."""
    assert stream.recv_now(RECORD) is None
    return stream._secure


class Client(threading.Thread):
    """Do the client's part of the handshake while the server does its own."""

    def __init__(self, end: socket.socket, authority: Authority) -> None:
        super().__init__()
        self.end = end
        self.context = trusting(authority)
        self.tls: ssl.SSLSocket | None = None

    def run(self) -> None:
        with contextlib.suppress(OSError):
            self.tls = self.context.wrap_socket(self.end, server_hostname="localhost", suppress_ragged_eofs=False)


@pytest.fixture
def both(
    ends: tuple[Stream, socket.socket], authority: Authority, pair: Pair
) -> Iterator[tuple[TLSStream, ssl.SSLSocket]]:
    """Give both ends after the handshake."""
    client = Client(ends[1], authority)
    client.start()
    stream = begin(ends[0], pair)
    greet(stream)
    client.join()
    assert client.tls is not None
    client.tls.settimeout(PATIENCE)
    yield stream, client.tls
    stream.close()
    client.tls.close()


def test_a_handshake_waits_for_nobody(ends: tuple[Stream, socket.socket], pair: Pair) -> None:
    stream = begin(ends[0], pair)
    assert stream.recv_now(RECORD) is None
    assert stream.wants == select.POLLIN
    stream.close()


def test_a_handshake_that_cannot_send(
    ends: tuple[Stream, socket.socket], authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    """A chain of certificates larger than the system's buffer leaves in parts, and the poller is told to wait."""
    server, other = ends
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    pair.cert.write_bytes(pair.cert.read_bytes() + authority.cert.read_bytes() * 40)
    outgoing, incoming = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    other.sendall(outgoing.read())
    stream = begin(server, pair)
    assert stream.recv_now(RECORD) is None
    assert stream.wants == select.POLLOUT
    other.setblocking(False)
    while not is_over(stream):
        with contextlib.suppress(BlockingIOError):
            incoming.write(other.recv(1 << 20))
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        if data := outgoing.read():
            other.sendall(data)
    assert stream.wants == select.POLLIN
    assert client.version() == "TLSv1.3"
    stream.close()


def test_a_failed_handshake_says_why(ends: tuple[Stream, socket.socket], pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    client = Client(ends[1], Authority(tmp_path / "other", "Other CA"))
    client.start()
    stream = begin(ends[0], pair)
    with pytest.raises(HandshakeFailed, match="unknown ca"):
        greet(stream)
    stream.close()
    client.join()


def test_what_is_decrypted_is_ready(both: tuple[TLSStream, ssl.SSLSocket]) -> None:
    stream, client = both
    client.sendall(b"a" * 100)
    assert stream.recv(10) == b"a" * 10
    assert stream.ready(select.POLLIN, 0)
    assert stream.recv_now(RECORD) == b"a" * 90
    assert not stream.ready(select.POLLIN, 0)
    assert stream.recv_now(RECORD) is None


def test_what_was_held_back_leaves_first(both: tuple[TLSStream, ssl.SSLSocket], tmp_path: Path) -> None:
    stream, client = both
    data = os.urandom(100_000)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        stream.hold(b"head")
        stream.sendfile(file, 3, 5)
        assert client.recv(100) == b"head" + data[3:8]
        stream.hold(b"head")
        stream.sendfile(file, 0, 0)
        stream.flush()
        assert client.recv(100) == b"head"


def test_a_file_that_ends_early(both: tuple[TLSStream, ssl.SSLSocket], tmp_path: Path) -> None:
    stream, _ = both
    (tmp_path / "file").write_bytes(b"short")
    with (tmp_path / "file").open("rb") as file, pytest.raises(OSError, match="3 bytes early"):
        stream.sendfile(file, 0, 8)


def test_a_reader_that_stalls(both: tuple[TLSStream, ssl.SSLSocket]) -> None:
    stream, _ = both
    with pytest.raises(TimeoutError):
        stream.sendall(bytes(64 * 1024 * 1024))
    stream.reset()


def test_a_sender_that_stalls(both: tuple[TLSStream, ssl.SSLSocket]) -> None:
    stream, _ = both
    with pytest.raises(TimeoutError):
        stream.recv(1)


@pytest.mark.parametrize("beginning", [b"", b"\x17\x03\x03\x10"], ids=["between records", "in a record"])
def test_an_end_without_a_farewell(both: tuple[TLSStream, ssl.SSLSocket], beginning: bytes) -> None:
    stream, client = both
    plain = socket.socket(fileno=client.detach())
    plain.sendall(beginning)
    plain.close()
    with pytest.raises(ConnectionError):
        stream.recv_into(bytearray(10))


def test_bytes_that_were_changed_on_the_way(both: tuple[TLSStream, ssl.SSLSocket]) -> None:
    stream, client = both
    plain = socket.socket(fileno=client.detach())
    plain.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ConnectionError, match="TLS"):
        stream.recv_now(RECORD)
    plain.close()


def test_an_end_with_a_farewell(both: tuple[TLSStream, ssl.SSLSocket]) -> None:
    stream, client = both
    stream.sendall(b"last")
    stream.shutdown(socket.SHUT_WR)
    assert client.recv(10) == b"last"
    assert client.recv(10) == b""
    client.sendall(b"more, which nobody decrypts")
    assert stream.discard() > 0
    stream.close()


def test_a_clean_end_is_an_end(both: tuple[TLSStream, ssl.SSLSocket]) -> None:
    stream, client = both
    client.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()
    assert stream.recv(10) == b""
    assert stream.recv_now(10) == b""


def test_a_client_that_has_gone(ends: tuple[Stream, socket.socket], pair: Pair) -> None:
    server, other = ends
    other.close()
    stream = begin(server, pair)
    with pytest.raises(ConnectionError):
        greet(stream)
    stream.close()


def test_nothing_leaves_in_clear(ends: tuple[Stream, socket.socket], pair: Pair) -> None:
    """Not even if the handshake was forgotten."""
    server, other = ends
    stream = begin(server, pair)
    with contextlib.suppress(OSError):
        stream.sendall(b"secret")
    stream.close()
    assert b"secret" not in other.recv(RECORD)
