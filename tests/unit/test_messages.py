"""Heads that are parsed here, against gunicorn's own parser, which parses all others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http import message, wsgi
from gunicorn.http.errors import NoMoreData, ParseException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry.messages import Parser, Request, Response

PEER = ("127.0.0.1", 1)
FACTS = ("method", "uri", "path", "query", "fragment", "version", "headers", "must_close")
#: What is put into heads, here and there.
INSERTED: tuple[bytes, ...] = (
    b"",
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"\0",
    b":",
    b"/",
    b"#",
    b"?",
    b"_",
    b"\xdf",
    b"\x7f",
    b"a",
    b"Z",
)
INSERTED += (b"Host: b\r\n", b"Expect: 100-continue\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n")

PLAIN = [
    "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD /v2/a/b/manifests/1?n=2&last=a?b HTTP/1.1\r\nHost: a:1\r\nAccept: */*\r\nAccept: text/html;q=0.1\r\n\r\n",
    "PUT /v2/a/blobs/uploads/1?digest=sha256:0 HTTP/1.1\r\nhost: a\r\ncontent-length:   3  \r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\nAuthorization: Basic YTpi\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "PATCH /a?? HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "DELETE /~%2f;'()!:@[] HTTP/1.1\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
]
OTHER = [
    "GET //a HTTP/1.1\r\n\r\n",
    "GET /a#b HTTP/1.1\r\n\r\n",
    "GET http://a/b HTTP/1.1\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
    "GET / HTTP/1.1\r\nExpect: more\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
    "GET / HTTP/1.1\r\nContent-Type: a\r\nContent-Type: a\r\n\r\n",
    "GET / HTTP/1.1\r\nA_b: c\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    "GET / HTTP/1.1\r\nA : b\r\n\r\n",
    "GET / HTTP/1.1\r\n: b\r\n\r\n",
    "GET / HTTP/1.1\r\nA\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\x00\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
    "GET / HTTP/1.1\nA: b\n\n",
    "GET  / HTTP/1.1\r\n\r\n",
    "get / HTTP/1.1\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\n\r\n",
    "GET /\xe9 HTTP/1.1\r\n\r\n",
    f"GET /{'a' * 9000} HTTP/1.1\r\n\r\n",
    f"GET / HTTP/1.1\r\nA: {'a' * 9000}\r\n\r\n",
    "GET / HTTP/1.1\r\n" + "A: b\r\n" * 101 + "\r\n",
]
WRONG_BODIES = [
    "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "PUT / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
    "PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
]


class _ByGunicorn(message.Request):  # type: ignore[misc]
    """Parse as gunicorn does, but believe no peer what it says about others."""

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        return {}, []


@pytest.fixture(scope="module")
def config() -> Config:
    config = Config()
    config.set("http_parser", "python")
    return config


@pytest.fixture(scope="module")
def gone() -> Iterator[socket.socket]:
    """A client that has sent all it had to say."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        yield ours


def parsed(config: Config, gone: socket.socket, kind: type[message.Request], wire: bytes) -> object:
    """Return all that was made of a head, and what follows it; or the error."""
    parser = Parser(config, gone, PEER)
    parser.mesg_class = kind
    parser.unreader.unread(wire)
    try:
        request = next(parser)
    except (ParseException, NoMoreData, StopIteration) as error:
        return type(error), str(error)
    facts = [getattr(request, name) for name in FACTS]
    waits = request.body.continue_to is not None if kind is Request else request._expected_100_continue
    return facts, waits, message.Request.should_close(request), parser.unreader.take_buffered()


@pytest.mark.parametrize("text", PLAIN + OTHER + WRONG_BODIES)
def test_every_head_means_what_gunicorn_says(config: Config, gone: socket.socket, text: str) -> None:
    wire = text.encode("latin-1")
    assert parsed(config, gone, Request, wire) == parsed(config, gone, _ByGunicorn, wire)


@given(data=st.data())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_changed_in_a_head(config: Config, gone: socket.socket, data: st.DataObject) -> None:
    wire = bytearray(data.draw(st.sampled_from(PLAIN)).encode("latin-1"))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(wire)))
        end = min(len(wire), start + data.draw(st.integers(0, 3)))
        wire[start:end] = data.draw(st.sampled_from(INSERTED))
    assert parsed(config, gone, Request, bytes(wire)) == parsed(config, gone, _ByGunicorn, bytes(wire))


@pytest.mark.parametrize("text", PLAIN)
def test_plain_heads_do_not_need_gunicorn(
    config: Config, gone: socket.socket, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.delattr(message.Message, "parse_headers")
    parsed(config, gone, Request, text.encode())


NAMES = [
    "Content-Length",
    "Content-Type",
    "ETag",
    "Location",
    "Link",
    "Connection",
    "Upgrade",
    "Transfer-Encoding",
    "X-a",
]
NAMES += ["content-length", "Bad Name", "", "ETag\n", "\u00e9tag"]
VALUES = [
    "1",
    "text/plain",
    "",
    " padded ",
    "\tx",
    "a\r\nb",
    "a\x00",
    "\x7f",
    "\u00e9",
    "\u20ac",
    "keep-alive",
    "websocket",
]


def headed(kind: type[wsgi.Response], config: Config, gone: socket.socket, fields: list[tuple[str, str]]) -> object:
    """Return what is sent of an answer's fields, and how long its body is to be; or the error."""
    request = SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
    response = kind(request, gone, config)
    try:
        response.start_response("200 OK", list(fields))
    except (ParseException, ValueError, TypeError) as error:
        return type(error), str(error)
    return response.headers, response.response_length, response.chunked


@example(fields=[("Content-Length", "text/plain"), ("Content-Length", "1")])
@given(fields=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_fields_of_answers_are_those_that_gunicorn_sends(
    config: Config, gone: socket.socket, fields: list[tuple[str, str]]
) -> None:
    assert headed(Response, config, gone, fields) == headed(wsgi.Response, config, gone, fields)


def test_plain_fields_do_not_need_gunicorn(
    config: Config, gone: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(wsgi.Response, "process_headers")
    fields = [("Content-Length", "3"), ("Content-Type", "text/plain"), ("X-Request-Id", "a")]
    assert headed(Response, config, gone, fields) == (fields, 3, False)
