"""Speak HTTP byte by byte, where a client library would tidy a request up or refuse to send it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import BadStatusLine, HTTPException, HTTPResponse

from requests.structures import CaseInsensitiveDict

TIMEOUT = 60.0


@dataclass(frozen=True)
class WireAnswer:
    """Hold one answer as it came off the socket."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes


def connect(host: str) -> socket.socket:
    """Open a connection to `address:port`."""
    address, port = host.rsplit(":", 1)
    return socket.create_connection((address, int(port)), timeout=TIMEOUT)


def receive(connection: socket.socket, method: str = "GET") -> WireAnswer | None:
    """Read one answer to its end; None if the peer closed or reset the connection without answering."""
    response = HTTPResponse(connection, method=method)
    try:
        response.begin()
        content = response.read()
    except (BadStatusLine, ConnectionError):
        return None
    except HTTPException as error:
        raise AssertionError(f"an answer that is not HTTP: {error!r}") from error
    headers = CaseInsensitiveDict(response.headers.items())
    return WireAnswer(response.status, headers, content)


def exchange(host: str, request: bytes, *, cut: bool = False) -> WireAnswer | None:
    """Send `request` as it is, end the sending side if `cut`, and return the answer, or None if there was none."""
    with connect(host) as connection:
        try:
            connection.sendall(request)
            if cut:
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # The peer may refuse and close before it has read all; its answer can still be there to read.
        return receive(connection, request.split(b" ", 1)[0].decode("latin-1"))


def head(method: str, target: str, *headers: str) -> bytes:
    """Return a request head; `target` and `headers` go out as they are, which is what a test wants to see judged."""
    lines = [f"{method} {target} HTTP/1.1", "Host: registry.test", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")
