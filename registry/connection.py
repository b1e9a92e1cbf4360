"""One client's connection: the head that is arriving, and the requests made of it."""

import select
import socket
import ssl
import time
from typing import Any

from gunicorn.config import Config
from gunicorn.http import errors

from registry.messages import Parser, Request
from registry.stream import Stream
from registry.tls_stream import TLSStream

# A head is larger than this only by mistake or malice: request line and all fields together.
MAX_HEAD = 64 * 1024
_RECEIVE = 64 * 1024

# How the requests begin of which most are for what lies in memory.
_PLAIN = (b"GET /v2/", b"HEAD /v2/")

# How long a body that nobody wants is read, so that its sender gets to see the answer.
_LINGER_SECONDS = 5.0


class Connection:
    """Hold what a worker knows of a client. Only one thread at a time has it."""

    def __init__(self, cfg: Config, stream: Stream, client: Any, server: Any) -> None:
        """Take the client's socket and both addresses, as `accept` and `getsockname` gave them."""
        self.sock = stream
        self.client = client
        self.server = server
        self.parser = Parser(cfg, stream, client)
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
            self.parser = Parser(self.cfg, self.sock, self.client)
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
