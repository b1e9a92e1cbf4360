"""The one table: what went wrong -> OCI error code, HTTP status and headers (distribution spec, "Error Codes")."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from registry.auth.identity import StoreUnavailable
from registry.context import location
from registry.logs import request_id
from storage import errors as store
from storage.errors import StorageError

log = logging.getLogger(__name__)

#: In the environment of a request: what kept it from being done, where that was not tried by its route. It has begun,
#: so it is not tried again; the route's own way says what went wrong.
FAILED: Final = "pierhead.failed"


class RequestRefused(Exception):
    """A request that is wrong as HTTP, before any store is asked: its code, status and message, and a detail."""

    def __init__(
        self, code: str, status: int, message: str, *, headers: Mapping[str, str] | None = None, **detail: object
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.message = message
        self.headers = headers
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Rule:
    """How a kind of error is answered."""

    code: str
    status: int
    headers: Callable[[StorageError], Mapping[str, str]] = lambda _: {}


def _upload_state(error: StorageError) -> Mapping[str, str]:
    """Tell the client of a chunked upload where to go on ("Pushing a blob in chunks")."""
    offset = error.offset if isinstance(error, store.UploadOutOfOrder) else 0
    return {
        "Location": location(request.path),
        "Range": f"0-{max(offset - 1, 0)}",
        "Docker-Upload-UUID": (request.view_args or {}).get("session", ""),
    }


def other_methods() -> set[str]:
    """Return the methods that this request's URL has beside its own."""
    adapter = current_app.create_url_adapter(request)
    return set(adapter.allowed_methods() if adapter else ()) - {request.method}


def _allowed_instead(_error: StorageError) -> Mapping[str, str]:
    """List the methods that a URL has beside the one that is refused (RFC 9110, section 15.5.6)."""
    return {"Allow": ", ".join(sorted(other_methods()))}


RULES: dict[type[StorageError], Rule] = {
    store.NameInvalid: Rule("NAME_INVALID", 400),
    store.DigestInvalid: Rule("DIGEST_INVALID", 400),
    store.DigestMismatch: Rule("DIGEST_INVALID", 400),
    store.TagInvalid: Rule("MANIFEST_INVALID", 400),
    store.RepositoryUnknown: Rule("NAME_UNKNOWN", 404),
    store.ManifestUnknown: Rule("MANIFEST_UNKNOWN", 404),
    store.ManifestInvalid: Rule("MANIFEST_INVALID", 400),
    store.ManifestTooLarge: Rule("MANIFEST_INVALID", 413),
    store.ReferencesUnknown: Rule("MANIFEST_BLOB_UNKNOWN", 400),
    store.PreconditionFailed: Rule("MANIFEST_INVALID", 412),
    store.TagImmutable: Rule("DENIED", 403),
    store.StillReferenced: Rule("DENIED", 405, _allowed_instead),
    store.QuotaExceeded: Rule("DENIED", 403),
    store.BlobUnknown: Rule("BLOB_UNKNOWN", 404),
    store.UploadUnknown: Rule("BLOB_UPLOAD_UNKNOWN", 404),
    store.UploadOutOfOrder: Rule("BLOB_UPLOAD_INVALID", 416, _upload_state),
    store.IndexChanged: Rule("UNSUPPORTED", 503, lambda _: {"Retry-After": "1"}),
    store.IndexDamaged: Rule("UNSUPPORTED", 503),
}

#: What is wrong with a request that belongs to no operation: status -> message.
_HTTP_MESSAGES = {
    404: "no operation of the API has this path: /swagger/v2/ describes those that there are",
    405: "this path does not have this method: Allow lists those that it has",
}

#: What the operating system refuses: errno -> (code, status, message, headers).
_SYSTEM: dict[int, tuple[str, int, str, dict[str, str]]] = {
    errno.ENOSPC: ("UNSUPPORTED", 507, "no space left on the registry's disk", {}),
    errno.EDQUOT: ("UNSUPPORTED", 507, "the registry's disk quota is used up", {}),
    errno.EIO: ("UNSUPPORTED", 503, "the registry's disk fails", {}),
    errno.EROFS: ("UNSUPPORTED", 503, "the registry's disk is read-only", {}),
    errno.EACCES: ("UNSUPPORTED", 503, "the registry has no permission for this on its disk", {}),
    errno.EPERM: ("UNSUPPORTED", 503, "the registry has no permission for this on its disk", {}),
    errno.EMFILE: ("TOOMANYREQUESTS", 503, "the registry has too many files open", {"Retry-After": "1"}),
    errno.ENFILE: ("TOOMANYREQUESTS", 503, "the registry's host has too many files open", {"Retry-After": "1"}),
}


def install(app: Flask) -> None:
    """Answer every failure of the app in OCI form, whatever route it comes from."""
    app.register_error_handler(StorageError, _on_storage_error)
    app.register_error_handler(RequestRefused, _on_refused)
    app.register_error_handler(StoreUnavailable, _on_store_unavailable)
    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(OSError, _on_system_error)
    app.register_error_handler(Exception, _on_bug)


def error_body(code: str, message: str, detail: object) -> bytes:
    """Return the body of an answer with one error."""
    return _body(code, message, [detail])


def status_and_body(error: StorageError) -> tuple[int, bytes]:
    """Return how an error is answered, without the headers that some have."""
    rule = RULES[type(error)]
    missing = error.missing if isinstance(error, store.ReferencesUnknown) else []
    details: list[object] = [{"digest": digest} for digest in missing] or [error.detail]
    return rule.status, _body(rule.code, error.message, details)


def _on_storage_error(error: StorageError) -> Response:
    return _respond(*status_and_body(error), RULES[type(error)].headers(error))


def _on_refused(error: RequestRefused) -> Response:
    return _respond(error.status, error_body(error.code, error.message, error.detail), error.headers)


def _on_store_unavailable(error: StoreUnavailable) -> Response:
    headers = {"Retry-After": str(error.retry_after)}
    return _respond(503, error_body("UNSUPPORTED", error.message, {"reason": "user store unavailable"}), headers)


def _on_http_error(error: HTTPException) -> Response:
    """Answer what Flask itself refuses, such as an unknown route or a method that it does not have."""
    status = error.code or 500
    headers = {key: value for key, value in error.get_headers() if key in ("Allow", "Location", "Retry-After")}
    message = _HTTP_MESSAGES.get(status) or error.description or error.name
    detail = {"method": request.method, "path": request.path}
    return _respond(status, error_body("UNSUPPORTED", message, detail), headers)


def _on_system_error(error: OSError) -> Response:
    known = _SYSTEM.get(error.errno or 0)
    if known is None:
        return _on_bug(error)
    code, status, message, headers = known
    log.error("%s: %s %s: %s", message, request.method, request.path, error)
    return _respond(status, error_body(code, message, {"reason": error.strerror}), headers)


def _on_bug(error: Exception) -> Response:
    """Answer 500 and log what happened under an id that the client is told too."""
    number = request_id()
    log.error("request %s failed: %s %s", number, request.method, request.path, exc_info=error)
    return _respond(500, error_body("UNSUPPORTED", "the registry failed on this request", {"requestId": number}))


def _body(code: str, message: str, details: Sequence[object]) -> bytes:
    errors = [{"code": code, "message": message, "detail": detail} for detail in details]
    return json.dumps({"errors": errors}, separators=(",", ":")).encode() + b"\n"


def _respond(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, mimetype="application/json")
