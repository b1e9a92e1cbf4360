"""Checks of the way that clients take: is it this registry that answers, and do its answers lead back to it?"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urljoin, urlsplit

from werkzeug.http import parse_dict_header

from registry.checks.check import Check, fail, ok, warn
from registry.config import Config

_SECONDS = 15.0
_BODY = 2 * 1024 * 1024  #: more than proxies take unless they are told to
_APART = 30.0  #: seconds


def check_url(config: Config, url: str, repository: str | None) -> Iterator[Check]:
    """Ask a registry by the URL that its clients use; with a repository, also begin an upload there, and cancel it."""
    parts = urlsplit(url)
    try:
        answer, _ = _ask(parts, "GET", "/v2/")
    except (OSError, http.client.HTTPException) as error:
        yield fail(url, "answers", f"{type(error).__name__}: {error}")
        return
    if answer.getheader("Docker-Distribution-API-Version") != "registry/2.0" or answer.status not in (200, 401):
        yield fail(url, "answers", f"status {answer.status} for /v2/, and not from a registry: see the proxy's routes")
        return
    yield ok(url, "answers", f"a registry, with status {answer.status}")
    yield _clock(url, answer.getheader("Date"))
    yield from _realm(url, parts, answer.getheader("WWW-Authenticate") or "")
    if not config.server.trusted_proxies:
        yield warn(
            url, "server.trustedProxies", "is empty: behind a proxy, all clients have its address, and one rate limit"
        )
    if repository:
        try:
            yield from _upload(url, parts, repository)
        except (OSError, http.client.HTTPException) as error:
            yield fail(url, "upload", f"{type(error).__name__}: {error}")


def _clock(url: str, date: str | None) -> Check:
    try:
        apart = parsedate_to_datetime(date or "").timestamp() - time.time()
    except ValueError:
        return warn(url, "clock", "the answer has no Date")
    if abs(apart) > _APART:
        return warn(
            url, "clock", f"the server's is {apart:+.0f} s apart from this machine's: tokens expire at the wrong time"
        )
    return ok(url, "clock", "the server's is this machine's")


def _realm(url: str, parts: SplitResult, challenge: str) -> Iterator[Check]:
    """Compare where clients are sent for a token with where they come from."""
    scheme, _, rest = challenge.partition(" ")
    if scheme.lower() != "bearer":
        return
    realm = parse_dict_header(rest).get("realm") or ""
    sent = urlsplit(realm)
    if sent.path.endswith("/v2/token") and (sent.scheme, sent.netloc) != (parts.scheme, parts.netloc):
        advice = "let the proxy send X-Forwarded-Proto and -Host, and set server.trustedProxies or http.externalUrl"
        yield fail(url, "proxy headers", f"clients are sent to {realm} for a token: {advice}")
    else:
        yield ok(url, "proxy headers", f"clients are sent to {realm} for a token")


def _upload(url: str, parts: SplitResult, repository: str) -> Iterator[Check]:
    """Begin an upload, send a body that some proxies refuse, and cancel it."""
    answer, _ = _ask(parts, "POST", f"/v2/{repository}/blobs/uploads/")
    if answer.status != 202:  # noqa: PLR2004
        yield warn(
            url, "upload", f"status {answer.status}: not tried any further; name a repository that anybody may push to"
        )
        return
    location = urlsplit(urljoin(f"{url.rstrip('/')}/v2/", answer.getheader("Location") or ""))
    expected = (parts.scheme, parts.netloc)
    if (location.scheme, location.netloc) != expected or not location.path.startswith(f"{parts.path.rstrip('/')}/v2/"):
        yield fail(
            url, "Location", f"uploads are sent to {location.geturl()}: see http.externalUrl and the proxy's headers"
        )
        return
    yield ok(url, "Location", "uploads are sent back to this URL")
    path = location.path.removeprefix(parts.path.rstrip("/"))
    answer, _ = _ask(parts, "PATCH", path, iter([bytes(_BODY)]))
    if answer.status == 202:  # noqa: PLR2004
        yield ok(url, "large bodies", "2 MiB in chunks pass")
    else:
        yield fail(
            url,
            "large bodies",
            f"2 MiB in chunks: status {answer.status}; lift the proxy's limit (nginx: client_max_body_size 0)",
        )
    _ask(parts, "DELETE", path)


def _ask(
    parts: SplitResult, method: str, path: str, body: Iterator[bytes] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """Ask for a path below the URL's own; certificates are verified."""
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.netloc, timeout=_SECONDS, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_SECONDS)
    try:
        connection.request(
            method,
            parts.path.rstrip("/") + path,
            body=body,
            encode_chunked=body is not None,
            headers={"Transfer-Encoding": "chunked"} if body else {},
        )
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()
