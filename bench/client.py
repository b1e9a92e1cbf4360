"""A lean HTTP/1.1 client on a raw socket, so that the load generator is not what gets measured."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

TIMEOUT = 120.0  # seconds; a registry that is silent for longer is an error
DISCARD_SIZE = 1 << 20  # bytes taken from the socket at once when a body is only counted


class WrongAnswer(Exception):
    """Raised when a registry answers something else than the load asks for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its status, its raw head, and its body, or only the body's size where that was discarded."""

    status: int
    head: bytes
    body: bytes
    size: int

    def header(self, name: str) -> str | None:
        """Give the value of a header, or None."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode("latin-1").lower() == name.lower():
                return value.strip().decode("latin-1")
        return None

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


@dataclass(slots=True)
class Connection:
    """One keep-alive connection; it is opened on first use and again after the server has closed it.

    `headers` go with every request that does not have its own.
    """

    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    _socket: socket.socket | None = None
    _buffer: bytearray = field(default_factory=bytearray)

    def __enter__(self) -> Connection:
        """Open the connection now, so that no measurement contains it."""
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def open(self) -> socket.socket:
        """Give the open socket."""
        if self._socket is None:
            self._socket = socket.create_connection((self.host, self.port), timeout=TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def close(self) -> None:
        """Close the socket and forget what it had received."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._buffer.clear()

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """Write a request's head."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in {**self.headers, **headers}.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def ask(
        self,
        method: str,
        path: str,
        expected: int,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
    ) -> Answer:
        """Send one request and give its answer; any status but the expected one raises WrongAnswer.

        The body goes out as it is: with `Transfer-Encoding: chunked` among the headers it is already framed.
        """
        headers = dict(headers or {})
        if "Transfer-Encoding" not in headers and method not in ("GET", "HEAD"):
            headers["Content-Length"] = str(len(body))
        self.send(self.head(method, path, headers), body)
        answer = self.receive(headless=method == "HEAD")
        check(f"{method} {path}", answer, expected)
        return answer

    def send(self, head: bytes, body: bytes | memoryview = b"") -> None:
        """Send a head and a body, in one segment where they are small."""
        sock = self.open()
        if len(body) <= DISCARD_SIZE:
            sock.sendall(head + body)
        else:
            sock.sendall(head)
            sock.sendall(body)

    def receive(self, *, headless: bool = False, discard: bool = False) -> Answer:
        """Read one answer. headless: it answers a HEAD and has no body. discard: count the body, do not keep it."""
        head = self._read_head()
        status = int(head[9:12])
        lowered = head.lower()
        bodiless = headless or status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        body = b""
        if not bodiless and b"\r\ntransfer-encoding: chunked" in lowered:
            body = self._read_chunks()
            size = len(body)
        else:
            size = 0 if bodiless else _content_length(lowered)
            if discard:
                self._discard(size)
            else:
                body = self._read(size)
        if b"\r\nconnection: close" in lowered:
            self.close()
        return Answer(status, head, body, size)

    def _read_head(self) -> bytes:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._fill()
        return self._take(end + 4)[:-2]

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        return self._take(size)

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while size := int(self._read_line(), 16):
            body += self._read(size)
            self._read_line()
        self._read_line()
        return bytes(body)

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._fill()
        return self._take(end + 2)[:-2]

    def _discard(self, size: int) -> None:
        left = size - len(self._take(min(size, len(self._buffer))))
        scratch = memoryview(bytearray(min(left, DISCARD_SIZE)))
        while left:
            got = self.open().recv_into(scratch, min(left, DISCARD_SIZE), socket.MSG_WAITALL)
            if not got:
                raise WrongAnswer(f"the connection ended {left} bytes before the body did")
            left -= got

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _fill(self) -> None:
        received = self.open().recv(65536)
        if not received:
            raise WrongAnswer("the connection ended before the answer did")
        self._buffer += received


def check(request: str, answer: Answer, expected: int) -> None:
    """Raise WrongAnswer unless the answer has the expected status."""
    if answer.status != expected:
        raise WrongAnswer(f"{request}: {answer.status} where {expected} was expected: {answer.body[:500]!r}")


def _content_length(lowered_head: bytes) -> int:
    start = lowered_head.find(b"\r\ncontent-length:")
    if start < 0:
        raise WrongAnswer(f"an answer without a length: {lowered_head!r}")
    start += len(b"\r\ncontent-length:")
    return int(lowered_head[start : lowered_head.index(b"\r\n", start)])
