"""HTTP messages as gunicorn reads and writes them, with less copying, waiting and looking twice."""

import re
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from gunicorn.config import Config
from gunicorn.http import body, errors, message, parser, wsgi
from gunicorn.util import http_date

from registry.stream import Stream

# The largest part of a body that is handed on at once: large enough to hash and write well, small enough for memory.
_PIECE = 1024 * 1024
_CRLF = b"\r\n"
#: A chunk's size as nearly all are written; not zero, which ends the body.
_CHUNK_SIZE = re.compile(rb"(0{0,8}[1-9A-Fa-f][0-9A-Fa-f]{0,7})\r\n")

#: A head as nearly all are: method, target (path and query), fields.
_HEAD = re.compile(
    r"""(GET|HEAD|POST|PUT|PATCH|DELETE)[ ]((/[!"$->@-~]*)(?:\?([!"$-~]*))?)[ ]HTTP/1\.1\r\n
    ((?:[A-Za-z0-9-]+:[ -~]*\r\n)*)\r\n""",
    re.VERBOSE,
)
_FIELD = re.compile(r"([^:]+):(.*)\r\n")
#: Fields of answers that are sent as they are.
_PLAIN_NAMES = frozenset(
    {
        "Accept-Ranges",
        "Cache-Control",
        "Content-Length",
        "Content-Type",
        "Docker-Content-Digest",
        "Docker-Distribution-API-Version",
        "Docker-Upload-UUID",
        "ETag",
        "Link",
        "Location",
        "Range",
        "X-Content-Type-Options",
        "X-Request-Id",
    }
)
#: Fields about which gunicorn knows more: what may stand there once, and what asks for something.
_SINGLE = ("HOST", "CONTENT-TYPE")
_EXPECT = "EXPECT"


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

    def parse(self, unreader: Any) -> bytes:
        """Parse the request line and the fields; give what follows them. All but the plain heads are for gunicorn."""
        data: bytes = unreader.take_buffered()
        match = _HEAD.match(data.decode("latin-1"))
        if match is None or not self._take(match):
            unreader.unread(data)
            data = super().parse(unreader)
            return data
        return data[match.end() :]

    def _take(self, match: re.Match[str]) -> bool:
        """Take a plain head, unless it needs another look; tell whether it was taken."""
        method, target, path, query, fields = match.groups()
        headers = [(name.upper(), value.strip(" ")) for name, value in _FIELD.findall(fields)]
        names = [name for name, _ in headers]
        limits = (self.limit_request_line, self.limit_request_field_size)
        if match.end() > min(limits) or len(headers) > self.limit_request_fields:
            return False
        if _EXPECT in names or any(names.count(name) > 1 for name in _SINGLE):
            return False
        self.method, self.uri, self.path, self.query, self.fragment = method, target, path, query or "", ""
        self.version, self.headers = (1, 1), headers
        return True

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

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Take the fields. All but the plain ones are for gunicorn to judge, and to refuse."""
        fields = dict(headers)
        if len(fields) == len(headers) and all(name in _PLAIN_NAMES and _is_plain(value) for name, value in headers):
            self.headers = headers
            length = fields.get("Content-Length")
            self.response_length = None if length is None else int(length)
        else:
            super().process_headers(headers)

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


def _is_plain(value: object) -> bool:
    """Tell whether a field's value is printable ASCII, with no blanks around it."""
    return type(value) is str and value.isascii() and value.isprintable() and value.strip() == value


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    """Give a time, in seconds since the epoch, as HTTP writes it."""
    date: str = http_date(second)
    return date


class Parser(parser.RequestParser):
    """Parse one request after the other from a connection."""

    mesg_class = Request
    mesg: Request | None

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Read what is left of a body, and tell whether that is all; mostly there is nothing left."""
        if self.mesg is None or self.mesg.body.finished:
            return True
        done: bool = super().finish_body(deadline, max_bytes)
        return done
