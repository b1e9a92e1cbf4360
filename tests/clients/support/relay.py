"""A relay between clients and the registry that tells which requests the clients made."""

import re
import socket
import socketserver
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

REQUEST_LINE = re.compile(rb"(GET|HEAD|PUT|POST|PATCH|DELETE) (/\S*) HTTP/1\.1\r\n")
BUFFER = 256 * 1024


class Request(NamedTuple):
    """A request line."""

    method: str
    target: str


class Relay(socketserver.ThreadingTCPServer):
    """Pass connections on to the server at `upstream` and remember what clients send.

    `host` is the address that clients use instead of the server's.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str) -> None:
        address, port = upstream.rsplit(":", 1)
        self._upstream = (address, int(port))
        self._sent: list[bytearray] = []
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.host = f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()
        self.server_close()

    def requests(self) -> list[Request]:
        """Return the requests seen so far, in order on each connection."""
        lines = [line for sent in self._sent for line in REQUEST_LINE.findall(bytes(sent))]
        return [Request(method.decode(), target.decode()) for method, target in lines]

    def uploads(self) -> list[Request]:
        """Return the requests that began, fed or ended a blob upload, mounts included."""
        return [request for request in self.requests() if "/blobs/uploads/" in request.target]

    def forget(self) -> None:
        """Forget what was seen so far."""
        for sent in self._sent:
            sent.clear()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Carry one connection (called by the base class, in a thread of its own)."""
        sent = bytearray()
        self._sent.append(sent)
        with socket.create_connection(self._upstream) as server:
            answers = threading.Thread(target=_pump, args=(server, request, bytearray()), daemon=True)
            answers.start()
            _pump(request, server, sent)
            answers.join()


def _pump(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
    """Copy bytes until the source ends or either side is reset, then end the sink."""
    with suppress(OSError):
        while data := source.recv(BUFFER):
            seen += data
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
