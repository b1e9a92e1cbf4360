"""How requests are read: bodies, ranges, conditions and numbers, each refused where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.http import parse_options_header
from werkzeug.sansio.utils import get_content_length

from registry.errors import RequestRefused
from storage.errors import ManifestTooLarge
from storage.manifests import MAX_SIZE

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_CHUNK = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/(?:[0-9]+|\*))?")
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,18}")
_LONGEST = 2**63 - 1  #: bytes that a file can have


class Body:
    """The body of a request, read as it arrives; one that ends before its Content-Length raises RequestRefused."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        """Look at the request's headers; read nothing yet. RequestRefused for a length that no file can have."""
        self._input = environ["wsgi.input"]
        encoding = environ.get("HTTP_TRANSFER_ENCODING")
        self._left = get_content_length(environ.get("CONTENT_LENGTH"), encoding)
        if self._left is None and encoding is None:
            self._left = 0
        if (self._left or 0) > _LONGEST:
            raise RequestRefused("SIZE_INVALID", 413, "nothing is that long", contentLength=str(self._left))

    @property
    def left(self) -> int | None:
        """Return how many bytes are still to come, or None where the request does not say so."""
        return self._left

    def read(self, size: int) -> bytes:
        """Return at least one and at most `size` bytes, or none at the end of the body."""
        if self._left is not None:
            size = min(size, self._left)
            if not size:
                return b""
        try:
            data: bytes = self._input.read(size)
        except (OSError, ParseException) as error:
            raise RequestRefused("SIZE_INVALID", 400, "the body could not be read", reason=str(error)) from error
        if self._left is not None:
            self._left -= len(data)
            if not data:
                raise RequestRefused("SIZE_INVALID", 400, "the body is shorter than its Content-Length")
        return data

    def read_all(self, limit: int) -> bytes:
        """Return the whole body, but no more than `limit` + 1 bytes of it."""
        data = bytearray()
        while len(data) <= limit and (part := self.read(limit + 1 - len(data))):
            data += part
        return bytes(data)


def read_manifest(environ: WSGIEnvironment) -> bytes:
    """Return a request's body; raise ManifestTooLarge for more than a manifest can have, where its length is told."""
    body = Body(environ)
    if (body.left or 0) > MAX_SIZE:
        raise ManifestTooLarge(f"a manifest has at most {MAX_SIZE} bytes", size=body.left, limit=MAX_SIZE)
    return body.read_all(MAX_SIZE)


def content_type(environ: WSGIEnvironment) -> str | None:
    """Return a request's media type without parameters, which the spec tells registries to ignore."""
    return parse_options_header(environ.get("CONTENT_TYPE"))[0].lower() or None


def chunk_start() -> int | None:
    """Return where the chunk begins by its Content-Range, if it has one that says something."""
    value = request.headers.get("Content-Range")
    if value is None or request.content_length == 0:
        return None
    match = _CHUNK.fullmatch(value.strip())
    first, last = (int(match[1]), int(match[2])) if match else (1, 0)
    if last < first:
        raise RequestRefused(
            "BLOB_UPLOAD_INVALID", 400, "Content-Range is <first>-<last>, both inclusive", contentRange=value
        )
    if request.content_length is not None and last - first + 1 != request.content_length:
        raise RequestRefused(
            "SIZE_INVALID",
            400,
            "Content-Range and Content-Length contradict each other",
            contentRange=value,
            contentLength=request.content_length,
        )
    return first


def wanted_part(digest: str, size: int) -> tuple[int, int] | None:
    """Return the bytes that Range asks for, as [start, stop), or None for all (RFC 9110, section 14).

    Several ranges, other units and what is malformed ask for all. A range outside the content, or one that ends before
    it begins, raises RequestRefused.
    """
    match = _RANGE.fullmatch(request.environ.get("HTTP_RANGE", ""))
    if match is None or not _if_range(digest):
        return None
    first, last, suffix = match.groups()
    if suffix:
        start, stop = max(size - int(suffix), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    if start >= stop:
        raise RequestRefused(
            "SIZE_INVALID",
            416,
            "the range lies outside the content",
            headers={"Content-Range": f"bytes */{size}"},
            size=size,
        )
    return start, stop


def _if_range(digest: str) -> bool:
    """Tell whether the range is wanted of the content that is there now (RFC 9110, section 13.1.5)."""
    return "HTTP_IF_RANGE" not in request.environ or request.headers["If-Range"] == f'"{digest}"'


def page_size() -> int | None:
    """Return the query's `n`, or None without one."""
    value = request.args.get("n")
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise RequestRefused("UNSUPPORTED", 400, "n must be a number, 0 or greater", parameter="n", value=value)
    return int(value)


def precondition() -> Callable[[str | None], bool] | None:
    """Return what If-Match and If-None-Match ask of the digest that is there now (RFC 9110, section 13.1).

    It may be asked in another thread, for which this request is not at hand.
    """
    match = request.if_match if "If-Match" in request.headers else None
    none_match = request.if_none_match if "If-None-Match" in request.headers else None
    if match is None and none_match is None:
        return None

    def holds(digest: str | None) -> bool:
        if match is not None and (digest is None or not match.contains(digest)):
            return False
        return digest is None or none_match is None or not none_match.contains_weak(digest)

    return holds
