"""Pages of other origins: which of them browsers let read the registry's answers (Fetch standard, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flask import Flask, Response, request

#: What a browser shows to pages only if it is listed here.
_EXPOSED = ", ".join(
    (
        "Allow",
        "Content-Range",
        "Docker-Content-Digest",
        "Docker-Distribution-API-Version",
        "Docker-Upload-UUID",
        "ETag",
        "Link",
        "Location",
        "OCI-Chunk-Min-Length",
        "OCI-Filters-Applied",
        "OCI-Subject",
        "OCI-Tag",
        "Range",
        "Retry-After",
        "WWW-Authenticate",
        "X-Request-Id",
    )
)
#: What a page may send; `*` would not cover Authorization.
_ACCEPTED = ", ".join(
    (
        "Accept",
        "Authorization",
        "Cache-Control",
        "Content-Range",
        "Content-Type",
        "If-Match",
        "If-None-Match",
        "If-Range",
        "Range",
        "X-Requested-With",
    )
)
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": _ACCEPTED,
    "Access-Control-Max-Age": "7200",  # the longest that Chromium remembers an answer
}
_ANY = "*"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def install(app: Flask, origins: Iterable[str]) -> None:
    """Let pages of these origins, or of any if one is `*`, read the answers; without origins change nothing.

    Install it before what authenticates: a browser asks first, without credentials, whether it may send some.
    """
    allowed = frozenset(map(_as_browsers_write, origins))
    if allowed:
        sharing = _ForAll() if _ANY in allowed else _ForSome(allowed)
        app.before_request(sharing.answer_preflight)
        app.after_request(sharing.permit)


class _ForAll:
    """Let every page read what it can get with credentials of its own, never with those that the browser keeps."""

    def answer_preflight(self) -> Response | None:
        """Answer a browser that asks whether a page may make a request, if it may."""
        environ = request.environ
        is_question = "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ and environ["REQUEST_METHOD"] == "OPTIONS"
        if not (is_question and self.granted()):
            return None
        response = Response(status=204, headers=_PREFLIGHT)
        del response.headers["Content-Type"]
        return response

    def permit(self, response: Response) -> Response:
        """Say who may read an answer, an error too."""
        response.headers.update(self.granted())
        return response

    def granted(self) -> Mapping[str, str]:
        """Return the headers that let this request's page read the answer; none if it may not, or there is no page."""
        if "HTTP_ORIGIN" not in request.environ:
            return {}
        return {"Access-Control-Allow-Origin": _ANY, "Access-Control-Expose-Headers": _EXPOSED}


class _ForSome(_ForAll):
    """Let pages of some origins read answers, also those got with a password or certificate that the browser keeps."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def permit(self, response: Response) -> Response:
        """Say who may read an answer, and to caches that others may not."""
        response.headers.add("Vary", "Origin")
        return super().permit(response)

    def granted(self) -> Mapping[str, str]:
        """Return the headers that let this request's page read the answer; none if it may not, or there is no page."""
        origin = request.environ.get("HTTP_ORIGIN")
        if origin not in self._origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": _EXPOSED,
        }


def _as_browsers_write(origin: str) -> str:
    """Return an origin without its scheme's own port, as browsers send it (RFC 6454, section 6.2)."""
    scheme, _, rest = origin.rstrip("/").partition("://")
    return f"{scheme}://{rest.removesuffix(_DEFAULT_PORTS.get(scheme, ''))}" if rest else origin
