"""How answers are made: where things are, what they are, when they need not be sent again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlencode

import orjson
from flask import Response, request

from registry.context import location
from storage.digest import Digest
from storage.image_store import PushedManifest, StoredManifest


class Answer(NamedTuple):
    """An answer that is made without Flask: its status line, its own headers, its body, and what it counts as."""

    status: str
    headers: Mapping[str, str]
    body: Iterable[bytes] = ()
    counts: Mapping[str, int] = MappingProxyType({})


COPY = 1024 * 1024  #: bytes that are copied at a time where the kernel cannot send the file itself
#: What lies under its digest never changes.
_IMMUTABLE = "max-age=31536000, immutable"
_PRIVATE = f"private, {_IMMUTABLE}"


def next_page(path: str, **query: str | int) -> dict[str, str]:
    """Return the Link header to the rest of a list (RFC 5988) whose path this is."""
    return next_link(location(path), **query)


def next_link(url: str, **query: str | int) -> dict[str, str]:
    """Return the Link header to the rest of a list (RFC 5988) whose URL this is."""
    return {"Link": f'<{url}?{urlencode(query)}>; rel="next"'}


def json_response(
    document: object, headers: Mapping[str, str] | None = None, media_type: str = "application/json"
) -> Response:
    """Return a JSON document."""
    return Response(orjson.dumps(document), headers=headers, content_type=media_type)


def empty(status: int, headers: Mapping[str, str]) -> Response:
    """Return an answer without a body."""
    response = Response(status=status, headers=headers)
    del response.headers["Content-Type"]
    return response


def caching(*, by_digest: bool, public: bool) -> str:
    """Return Cache-Control: what has its digest in the URL may be kept unasked, if public by shared caches too."""
    if not by_digest:
        return "no-cache"
    return _IMMUTABLE if public else _PRIVATE


def content_headers(digest: Digest, media_type: str, cache_control: str) -> dict[str, str]:
    """Return what identifies content, and how it may be kept."""
    return {
        "Docker-Content-Digest": digest,
        "Content-Type": media_type,
        "ETag": f'"{digest}"',
        "Cache-Control": cache_control,
    }


def manifest_headers(manifest: StoredManifest, reference: str, *, public: bool) -> dict[str, str]:
    """Return what is said of a manifest that is pulled, from a repository that anybody may read if it is `public`."""
    cache_control = caching(by_digest=":" in reference, public=public)
    headers = content_headers(manifest.digest, manifest.media_type, cache_control)
    if manifest.warning:
        headers["Warning"] = f'299 - "{manifest.warning}"'
    return headers


def blob_headers(digest: Digest, *, public: bool) -> dict[str, str]:
    """Return what is said of a blob that is pulled, from a repository that anybody may read if it is `public`."""
    cache_control = caching(by_digest=True, public=public)
    return content_headers(digest, "application/octet-stream", cache_control) | {"Accept-Ranges": "bytes"}


def upload_headers(base: str, name: str, session: str, size: int) -> dict[str, str]:
    """Return where an upload goes on, and how many bytes it has; `base` is what comes before the path in URLs."""
    return {
        "Location": f"{base}/v2/{name}/blobs/uploads/{session}",
        "Range": f"0-{max(size - 1, 0)}",
        "Docker-Upload-UUID": session,
    }


def pushed_blob_headers(base: str, name: str, digest: Digest) -> dict[str, str]:
    """Return what is said of a blob that was pushed, or mounted; `base` is what comes before the path in URLs."""
    return {"Location": f"{base}/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}


def pushed_manifest_headers(base: str, name: str, pushed: PushedManifest, tags: Sequence[str] = ()) -> dict[str, str]:
    """Return what is said of a manifest that was pushed; `tags` are those of the query, `base` is as above."""
    headers = {
        "Location": f"{base}/v2/{name}/manifests/{pushed.digest}",
        "Docker-Content-Digest": pushed.digest,
        "ETag": f'"{pushed.digest}"',
    }
    if tags:
        headers["OCI-Tag"] = ", ".join(dict.fromkeys(tags))
    if pushed.subject:
        headers["OCI-Subject"] = pushed.subject
    return headers


def final_headers(request_id: str) -> dict[str, str]:
    """Return what every answer of the distribution API ends with."""
    return {
        "Docker-Distribution-API-Version": "registry/2.0",
        # A blob may be a page with a script, and its pusher somebody else than who opens it in a browser.
        "X-Content-Type-Options": "nosniff",
        "X-Request-Id": request_id,
    }


def is_known(digest: Digest) -> bool:
    """Tell whether the client says, by If-None-Match, that it has the content already."""
    return "HTTP_IF_NONE_MATCH" in request.environ and request.if_none_match.contains_weak(digest)


def not_modified(headers: Mapping[str, str]) -> Response:
    """Return 304 for content that the client has."""
    return empty(304, headers)
