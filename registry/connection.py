"""One client's connection: the head that is arriving, the requests made of it, and their bodies."""

import re
import select
import socket
import ssl
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from gunicorn.config import Config
from gunicorn.http import body, errors, message, parser, wsgi
from gunicorn.util import http_date

from registry.stream import Stream
from registry.tls_stream import TLSStream

# A head is larger than this only by mistake or malice: request line and all fields together.
MAX_HEAD = 64 * 1024
_RECEIVE = 64 * 1024

# How the requests begin of which most are for what lies in memory.
_PLAIN = (b"GET /v2/", b"HEAD /v2/")

# The largest part of a body that is handed on at once: large enough to hash and write well, small enough for memory.
_PIECE = 1024 * 1024
_CRLF = b"\r\n"
#: A chunk's size as nearly all are written; not zero, which ends the body.
_CHUNK_SIZE = re.compile(rb"(0{0,8}[1-9A-Fa-f][0-9A-Fa-f]{0,7})\r\n")

# How long a body that nobody wants is read, so that its sender gets to see the answer.
_LINGER_SECONDS = 5.0


class _LengthReader(body.LengthReader):
    """Receive a body of known length, with one copy."""

    failure: OSError | None = None

    def read(self, size: int) -> bytes:
        """Read so many bytes, fewer at the end of the body or the connection, and before an error is raised."""
        size = min(size, self.length)
        data: bytes = self.unreader.take_buffered()
        if len(data) > size:
            self.unreader.unread(data[size:])
            data = data[:size]
        elif len(data) < size:
            data += self._receive(size - len(data))
        if not data and self.failure is not None:
            raise self.failure
        self.length -= len(data)
        return data

    def _receive(self, size: int) -> bytes:
        buffer = memoryview(bytearray(size))
        filled = 0
        try:
            while filled < size and self.failure is None and (count := self.unreader.sock.recv_into(buffer[filled:])):
                filled += count
        except OSError as error:
            self.failure = error
        return bytes(buffer[:filled])


class _ChunkedReader(body.ChunkedReader):
    """Read a chunked body; what arrived before an error is read before it is raised.

    Much is received at once, and copied once. The common chunk, a size and its bytes, is taken apart here; all else,
    such as extensions, the end with its trailers, and whatever is wrong, is for gunicorn to judge.
    """

    parser: Iterator[memoryview] | None
    failure: Exception | None = None
    _over = memoryview(b"")  #: what was taken apart already, beyond what was asked for

    @property
    def finished(self) -> bool:
        """Tell whether all of it was read."""
        return self.parser is None and not self._over

    def read(self, size: int) -> bytes:
        """Read so many bytes, fewer at the end of the body and before an error is raised."""
        pieces, missing = [self._over[:size]], size - len(self._over)
        self._over = self._over[size:]
        while missing > 0 and self.parser and self.failure is None:
            try:
                piece = next(self.parser)
            except StopIteration:
                self.parser = None
            except (OSError, errors.ParseException) as error:
                self.failure = error
            else:
                pieces.append(piece[:missing])
                self._over = piece[missing:]
                missing -= len(piece)
        data = b"".join(pieces)
        if not data and self.failure is not None:
            raise self.failure
        return data

    def parse_chunked(self, unreader: Any) -> Iterator[memoryview]:
        """Yield the content as it arrives."""
        data, at = unreader.take_buffered(), 0
        while True:
            match = _CHUNK_SIZE.match(data, at)
            if match:
                left, at = int(match[1], 16), match.end()
            else:
                left, data = self.parse_chunk_size(unreader, data[at:])
                at = 0
                if not left:
                    return
            while left:
                piece = memoryview(data)[at : at + left]
                if not piece:
                    data, at = self._more(unreader), 0
                    continue
                yield piece
                left, at = left - len(piece), at + len(piece)
            while len(data) - at < len(_CRLF):
                data, at = data[at:] + self._more(unreader), 0
            if not data.startswith(_CRLF, at):
                raise errors.ChunkMissingTerminator(data[at : at + len(_CRLF)])
            at += len(_CRLF)

    def _more(self, unreader: Any) -> bytes:
        data: bytes = unreader.take_buffered() or unreader.sock.recv(_PIECE)
        if not data:
            raise errors.NoMoreData
        return data


class Body(body.Body):
    """Read a request's body; ask the client for it only when it is wanted (RFC 9110 section 10.1.1)."""

    def __init__(self, reader: Any, continue_to: Stream | None) -> None:
        """Take the reader of the bytes, and the client if it waits for a 100 before it sends any."""
        super().__init__(reader)
        self.continue_to = continue_to

    def read(self, size: int | None = None) -> bytes:
        """Read at most so many bytes, and at most a piece; none at the end. Without a size, read everything.

        A body that is cut short ends as if it were complete if it has a length, else it raises an error.
        """
        if size is None or size < 0 or self.buf.tell():
            data: bytes = super().read(size)
            return data
        return self._read_reader(min(size, _PIECE))

    def _read_reader(self, size: int) -> bytes:
        if self.continue_to is not None and size:
            client, self.continue_to = self.continue_to, None
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        data: bytes = super()._read_reader(size)
        return data

    @property
    def finished(self) -> bool:
        """Tell whether all of it was read, so that what follows is the next request."""
        reader = self.reader
        done: bool = reader.finished if isinstance(reader, _ChunkedReader) else not reader.length
        return done and not self.failed


class Request(message.Request):
    """Parse a head as gunicorn does, with our body behind it."""

    body: Body
    scheme: str
    _expected_100_continue: bool

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        """Believe no peer what it says about others: whom to trust is the application's to decide."""
        return {}, []

    def set_body_reader(self) -> None:
        """Choose how the body is read."""
        super().set_body_reader()
        reader = self.body.reader
        if isinstance(reader, body.LengthReader):
            reader = _LengthReader(self.unreader, reader.length)
        elif isinstance(reader, body.ChunkedReader):
            reader = _ChunkedReader(self, self.unreader)
        waits = self._expected_100_continue
        # Gunicorn would tell the client to go on before the application has seen the head.
        self._expected_100_continue = False
        self.body = Body(reader, self.unreader.sock if waits else None)

    def should_close(self) -> bool:
        """Tell whether this is the connection's last request; it is if some of the body was not read."""
        return super().should_close() or not self.body.finished


class Sink:
    """Take an answer in the place of a client."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.data = b""

    def sendall(self, data: bytes) -> None:
        """Take what is sent."""
        self.data += data

    hold = sendall

    def flush(self) -> None:
        """Have nothing kept back."""


class Response(wsgi.Response):
    """Write an answer as gunicorn does, its head together with the beginning of its body."""

    headers_sent: bool

    def __init__(self, req: Request, sock: Stream | Sink, cfg: Config) -> None:
        """Take the request that is answered."""
        super().__init__(req, sock, cfg)
        self.version = "pierhead"

    def default_headers(self) -> list[str]:
        """Give the lines that every head begins with."""
        major, minor = self.req.version
        return [
            f"HTTP/{major}.{minor} {self.status}\r\n",
            f"Server: {self.version}\r\n",
            f"Date: {_date(int(time.time()))}\r\n",
            f"Connection: {'close' if self.should_close() else 'keep-alive'}\r\n",
            *(["Transfer-Encoding: chunked\r\n"] if self.chunked else []),
        ]

    def send_headers(self) -> None:
        """Write the head, once; it leaves with what is written next."""
        if not self.headers_sent:
            lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
            self.sock.hold("".join(lines).encode("latin-1"))
            self.headers_sent = True

    def close(self) -> None:
        """Finish the answer."""
        super().close()
        self.sock.flush()


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    """Give a time, in seconds since the epoch, as HTTP writes it."""
    date: str = http_date(second)
    return date


class _Parser(parser.RequestParser):
    mesg_class = Request
    mesg: Request | None

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Read what is left of a body, and tell whether that is all; mostly there is nothing left."""
        if self.mesg is None or self.mesg.body.finished:
            return True
        done: bool = super().finish_body(deadline, max_bytes)
        return done


class Connection:
    """Hold what a worker knows of a client. Only one thread at a time has it."""

    def __init__(self, cfg: Config, stream: Stream, client: Any, server: Any) -> None:
        """Take the client's socket and both addresses, as `accept` and `getsockname` gave them."""
        self.sock = stream
        self.client = client
        self.server = server
        self.parser = _Parser(cfg, stream, client)
        self.head = b""
        self.parsed: Request | Exception | None = None
        self.served = False
        self.deadline = 0.0
        self.awaited = 0

    @property
    def idle(self) -> bool:
        """Tell whether it is between two requests."""
        return self.served and not self.head

    @property
    def has_head(self) -> bool:
        """Tell whether there is something to parse: a whole head, or what can never become one.

        A line that ends with a bare LF is refused by the parser at once. A client that tries TLS always sends one
        (its list of groups, RFC 8446 section 4.2, has type 10), and so learns quickly that there is no TLS here.
        """
        head = self.head
        return b"\r\n\r\n" in head or len(head) > MAX_HEAD or head.count(b"\n") != head.count(b"\r\n")

    def receive(self) -> bool:
        """Take what has arrived of a head, without waiting, and tell whether there is something to parse.

        Raise EOFError when the client has gone.
        """
        data = self.sock.recv_now(_RECEIVE)
        if data is None:
            return False
        if not data:
            raise EOFError
        self.head += data
        return self.has_head

    def go_on(self) -> bool:
        """Begin with the next request, and tell whether its head has come already."""
        self.served = True
        self.head = self.parser.unreader.take_buffered()
        return bool(self.head) and self.has_head

    def next_head(self, seconds: float) -> bool:
        """Wait so long for the next head, and tell whether it came."""
        return self.go_on() or (self.sock.ready(select.POLLIN, seconds) and self.receive())

    @property
    def asks_plainly(self) -> bool:
        """Tell whether it is likely that what has arrived can be answered at once."""
        return self.head.startswith(_PLAIN) and b"\r\n\r\n" in self.head

    def parse_ahead(self) -> Request | None:
        """Parse a whole head without waiting, for `parse` to find it so; give the request, None if it is malformed."""
        try:
            self.parsed = self.parse()
        except Exception as error:
            self.parsed = error
            return None
        return self.parsed

    def parse(self) -> Request:
        """Parse the head; raise gunicorn's ParseException if it is malformed."""
        parsed, self.parsed = self.parsed, None
        if isinstance(parsed, Exception):
            raise parsed
        return parsed or self._parse()

    def _parse(self) -> Request:
        head, self.head = self.head, b""
        # A request line without an end is told by the parser, as 414.
        if len(head) > MAX_HEAD and b"\r\n" in head and b"\r\n\r\n" not in head:
            raise errors.LimitRequestHeaders(f"the request's head is larger than {MAX_HEAD} bytes")
        self.parser.unreader.unread(head)
        request: Request = next(self.parser)
        request.scheme = self.sock.scheme
        return request

    def close(self) -> None:
        """Close, whatever the client may be doing."""
        self.sock.close()

    def linger(self) -> None:
        """Close so that the client sees the whole answer (RFC 9112 section 9.6).

        If bytes of its are left unread, closing tells the client's system to forget the answer. So say that no more
        will come, and read on for a while.
        """
        try:
            self.sock.shutdown(socket.SHUT_WR)
            self._drain(time.monotonic() + _LINGER_SECONDS)
        except OSError:
            pass  # The client has gone already.
        finally:
            self.sock.close()

    def _drain(self, deadline: float) -> None:
        """Forget what still comes, until the client closes or the deadline."""
        while (left := deadline - time.monotonic()) > 0:
            if not self.sock.ready(select.POLLIN, left) or not self.sock.discard():
                return


class NotTLS(errors.ParseException):
    """Say that a client speaks HTTP where TLS is spoken, in the words of Go's server, by which clients know it."""

    def __str__(self) -> str:
        """Give the message."""
        return "Client sent an HTTP request to an HTTPS server."


class TLSConnection(Connection):
    """Hold what a worker knows of a client that has to speak TLS; nothing is set up for it before it speaks."""

    def __init__(self, cfg: Config, stream: Stream, client: Any, server: Any, context: ssl.SSLContext) -> None:
        """Take what a plain connection takes, and how to encrypt it."""
        super().__init__(cfg, stream, client, server)
        self.cfg = cfg
        self.context = context
        self.begun = False

    def receive(self) -> bool:
        """Go on with the handshake, then take what has arrived of a head; tell whether there is something to parse.

        Raise EOFError when the client has gone, and HandshakeFailed.
        """
        if not self.begun:
            first = self.sock.peek()
            if first is None:
                return False
            if not first:
                raise EOFError
            self.begun = True
            if first.isalpha():  # A method; TLS begins with 22.
                return True
            self.sock = TLSStream.over(self.sock, self.context)
            self.parser = _Parser(self.cfg, self.sock, self.client)
        return super().receive()

    def parse(self) -> Request:
        """Parse the head; raise gunicorn's ParseException if it is malformed, or came without TLS."""
        if not isinstance(self.sock, TLSStream):
            raise NotTLS
        return super().parse()

    @property
    def asks_plainly(self) -> bool:
        """Tell that it does not: to encrypt may take more than one look at the socket."""
        return False
