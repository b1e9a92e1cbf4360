"""The ordinary log: text or JSON, each line with its request's id, none with a credential or forged by a client."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import random
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, has_request_context, request

from registry.config import LOG_LEVELS, LogConfig
from storage.clock import timestamp

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Where a request's id lies in its environment: the server's own messages, after the application, know it from there.
REQUEST_ID = "pierhead.request_id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: What only the wrapper that believes a trusted proxy puts there: no client can.
_FROM_PROXY = "werkzeug.proxy_fix.orig"

_ADDRESS = re.compile(r"[0-9A-Fa-f.:%-]{1,64}")

_LONGEST = 8192  #: characters of a message
_LONGEST_URL = 2048
_LONGEST_FIELD = 256

#: Parameters of queries that are no secret; the values of all others are not shown.
_HARMLESS = frozenset(
    {
        "account",
        "artifactType",
        "client_id",
        "digest",
        "digest-algorithm",
        "from",
        "last",
        "mount",
        "n",
        "offline_token",
        "scope",
        "service",
        "tag",
    }
)
_PARAMETER = re.compile(r"([?&;])([^\s=&;?\"']*)=([^\s&;\"']*)")
_USER_IN_URL = re.compile(r"(?<=//)[^\s/@\"']*@")
#: A credential after what announces it: unlike most words it has a capital, a digit or a sign beyond its first letter.
_ANNOUNCED = re.compile(
    r"((?i:authorization['\"]?[\s:=]{1,8}['\"]?(?:(?:basic|bearer|negotiate)\s{1,8})?"
    r"|\b(?:basic|bearer|negotiate)[\s:=]{1,8}['\"]?))"
    r"(?=[^\s\"',;]{1,512}[A-Z0-9+/=_])[^\s\"',;]{6,}"
)
_TOKEN = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)+")
_HIDDEN = "***"

#: How levels are called in JSON: as in the configuration.
_LEVELS = {number: name for name, number in LOG_LEVELS.items() if name not in ("trace", "panic")}


def configure(log: LogConfig) -> None:
    """Send the log where the configuration says; a file that is rotated away is opened anew. Raises OSError."""
    handler = _handler(log.output)
    handler.setFormatter(JSONLines() if log.format == "json" else TextLines())
    handler.addFilter(_note_request)
    logging.basicConfig(handlers=[handler], level=LOG_LEVELS[log.level], force=True)


def _handler(output: str) -> logging.Handler:
    stream = {"stdout": sys.stdout, "stderr": sys.stderr}.get(output)
    if stream is None:
        return logging.handlers.WatchedFileHandler(output, encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        # A user's name must not cost the line where the system's language has no letters for it.
        stream.reconfigure(errors="backslashreplace")
    return logging.StreamHandler(stream)


# The id of a request


def request_id() -> str:
    """Return the id of the request that is being served: a trusted proxy's X-Request-Id, else 16 random digits."""
    return request_id_of(request.environ)


def request_id_of(environ: WSGIEnvironment) -> str:
    """Return the id of the request with this environment, which keeps it."""
    found: str | None = environ.get(REQUEST_ID)
    if found is None:
        found = environ[REQUEST_ID] = _given_id(environ) or f"{random.getrandbits(64):016x}"
    return found


def _given_id(environ: WSGIEnvironment) -> str | None:
    given = environ.get("HTTP_X_REQUEST_ID", "") if _FROM_PROXY in environ else ""
    return given if _GIVEN_ID.fullmatch(given) else None


def _note_request(record: logging.LogRecord) -> bool:
    """Write down which request a record belongs to, unless whoever made the record did."""
    if not hasattr(record, "request_id"):
        record.request_id = request_id() if has_request_context() else ""
    return True


# How a record becomes a line


class TextLines(logging.Formatter):
    """Write a line for people; what follows of a traceback is indented, so that it cannot look like a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        number = getattr(record, "request_id", "")
        of_request = f" [{number}]" if number else ""
        head = f"{self.formatTime(record)} {record.levelname} [{record.process}]{of_request} {record.name}: "
        lines = [head + printable(_message(record)), *map(printable, _traceback(self, record).splitlines())]
        return "\n    ".join(lines)


class JSONLines(logging.Formatter):
    """Write an object for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "time": timestamp(record.created),
            "level": _LEVELS.get(record.levelno, record.levelname.lower()),
            "logger": record.name,
            "pid": record.process,
            "requestId": getattr(record, "request_id", ""),
            "message": _message(record),
            "exception": _traceback(self, record),
        }
        return json_line({key: value for key, value in entry.items() if value != ""})


def _message(record: logging.LogRecord) -> str:
    return shortened(redacted(record.getMessage()), _LONGEST)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the traceback; the one that the record may hold was written by a formatter that hides nothing."""
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return redacted("\n".join(parts))


def json_line(entry: Mapping[str, object]) -> str:
    """Return an object as one line of printable ASCII, without the line's end."""
    return json.dumps(entry, separators=(",", ":"), default=str)


def printable(text: str) -> str:
    """Return text with whatever could forge a line, or hide a part of one, as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shortened(text: str, limit: int) -> str:
    """Return text with at most so many characters, and a note of how many are missing."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more)"


def redacted(text: str) -> str:
    """Return text without credentials: in queries, in URLs, after the words that announce them, and tokens."""
    text = _USER_IN_URL.sub(_HIDDEN + "@", text)
    text = _PARAMETER.sub(_hide_value, text)
    text = _ANNOUNCED.sub(r"\1" + _HIDDEN, text)
    return _TOKEN.sub(_HIDDEN, text)


def _hide_value(match: re.Match[str]) -> str:
    before, name, value = match.groups()
    return f"{before}{name}={value if name in _HARMLESS else _HIDDEN}"


# The access log


def install(app: Flask) -> None:
    """Let the access log, if there is one, name the user; after `configure`."""
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        app.after_request(_note_user)


def _note_user(response: Response) -> Response:
    """Write the user's name where CGI programs find it; a name that nobody vouched for may be a secret."""
    identity = g.get("identity")
    request.environ["REMOTE_USER"] = identity.name if identity else ""
    return response


def access_line(environ: WSGIEnvironment, path: str, response: Any, seconds: float) -> str:
    """Return what the access log says of a request: who, what, the answer's status and bytes, where from, with what.

    No header is shown but Referer and User-Agent. `path` is the target's, as it was sent, `response` gunicorn's.
    """
    query, address = environ["QUERY_STRING"], environ.get("REMOTE_ADDR") or "-"
    target = shortened(f"{path}?{query}" if query else path, _LONGEST_URL)
    parts = (
        address if _ADDRESS.fullmatch(address) else _quoted(shortened(address, _LONGEST_FIELD)),
        _quoted(shortened(environ.get("REMOTE_USER") or "-", _LONGEST_FIELD)),
        _quoted(f"{environ['REQUEST_METHOD']} {target} {environ['SERVER_PROTOCOL']}"),
        str(response.status).partition(" ")[0],
        str(response.sent),
        _quoted(shortened(environ.get("HTTP_REFERER", "-"), _LONGEST_FIELD)),
        _quoted(shortened(environ.get("HTTP_USER_AGENT", "-"), _LONGEST_FIELD)),
        f"{seconds:.3f}",
    )
    return " ".join(parts)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
