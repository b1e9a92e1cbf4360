"""The express way: pulls of manifests and blobs, and lists of tags, most of what is asked for, without Flask.

It answers what is plainly asked, allowed and there, by the same calls and with the same headers as the routes do. It
refuses nothing: all else goes to the routes, from the beginning.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import orjson
from werkzeug.wsgi import FileWrapper

from blueprints.responses import COPY, blob_headers, final_headers, manifest_headers, next_link
from registry.auth.identity import CredentialsRefused, StoreUnavailable
from registry.errors import RequestRefused
from registry.inline import INLINE, NOT_INLINE
from registry.logs import request_id_of
from storage.backend import Redirect
from storage.digest import parse_digest
from storage.errors import StorageError
from storage.names import check_name

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from registry.context import Pierhead
    from registry.ratelimit import RateLimit

_ROOT = "/v2/"
#: What asks for less than everything, or for something else: the routes know about it.
_SPECIAL = ("HTTP_RANGE", "HTTP_IF_NONE_MATCH")
_OK = f"{HTTPStatus.OK.value} {HTTPStatus.OK.phrase}"
_INLINE_BLOB = 64 * 1024  #: bytes of a blob that is answered while others wait
_INLINE_TAGS = 2000  #: tags of a repository that are listed while others wait

_TAGS = "/tags/list"
#: The queries of lists that need no decoding.
_PAGE = re.compile(r"(?:n=([0-9]{1,18}))?(?:(?:^|&)last=([A-Za-z0-9._-]*))?")


class _Pull(NamedTuple):
    """What is asked for: a manifest by its reference, a blob by its digest, or a list of tags by its query."""

    name: str
    kind: str
    reference: str
    with_body: bool


class _Answer(NamedTuple):
    headers: dict[str, str]
    size: int
    body: Iterable[bytes]


class Express:
    """A WSGI wrapper that answers plain pulls itself.

    Where the server says `INLINE`, nothing is done that could wait, and what cannot be answered so is `NOT_INLINE`.
    """

    def __init__(self, app: WSGIApplication, registry: Pierhead, limit: RateLimit | None) -> None:
        """Take the application that answers the rest."""
        self._app = app
        self._registry = registry
        self._limit = limit
        self._is_logged = logging.getLogger().isEnabledFor(logging.DEBUG)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        inline = INLINE in environ
        try:
            answer = self._answer(environ, inline=inline)
        except (StorageError, CredentialsRefused, StoreUnavailable, RequestRefused, OSError):
            answer = None
        if answer is None:
            return NOT_INLINE if inline else self._app(environ, start_response)
        headers = answer.headers | {"Content-Length": str(answer.size)} | final_headers(request_id_of(environ))
        start_response(_OK, list(headers.items()))
        return answer.body

    def _answer(self, environ: WSGIEnvironment, *, inline: bool) -> _Answer | None:
        pull = _plain_pull(environ)
        identity = pull and self._registry.gate.plain_reader(environ, pull.name)
        if pull is None or identity is None:
            return None
        if pull.kind == "tags":
            answer = self._tags(pull, environ, inline)
        else:
            answer = self._manifest(pull, inline) if pull.kind == "manifests" else self._blob(pull, environ, inline)
        if answer is None:
            return None
        if self._limit:
            self._limit.check(environ["REQUEST_METHOD"], environ.get("REMOTE_ADDR", ""))
        if self._is_logged:
            environ["REMOTE_USER"] = identity.name
        self._count(pull, answer.size)
        return answer

    def _manifest(self, pull: _Pull, inline: bool) -> _Answer | None:
        store = self._registry.controller.store(pull.name)
        recall = store.recall_manifest if inline else store.get_manifest
        manifest = recall(pull.name, pull.reference)
        if manifest is None:
            return None
        body = (manifest.data,) if pull.with_body else ()
        headers = manifest_headers(manifest, pull.reference, public=self._registry.gate.is_public(pull.name))
        return _Answer(headers, len(manifest.data), body)

    def _blob(self, pull: _Pull, environ: WSGIEnvironment, inline: bool) -> _Answer | None:
        store, digest = self._registry.controller.store(pull.name), parse_digest(pull.reference)
        headers = blob_headers(digest, public=self._registry.gate.is_public(pull.name))
        if inline and pull.with_body:
            data = store.backend.read_now(pull.name, digest, _INLINE_BLOB)
            return None if data is None else _Answer(headers, len(data), (data,))
        size = store.backend.size_now(pull.name, digest)  # a blob in the bin is for the routes to take back
        if size is None or not pull.with_body:
            return None if size is None else _Answer(headers, size, ())
        content = store.open_blob(pull.name, digest, 0, size)
        if isinstance(content, Redirect):
            return None
        return _Answer(headers, size, environ.get("wsgi.file_wrapper", FileWrapper)(content, COPY))

    def _tags(self, pull: _Pull, environ: WSGIEnvironment, inline: bool) -> _Answer | None:
        page = _PAGE.fullmatch(pull.reference)
        if page is None:
            return None
        store, after = self._registry.controller.store(pull.name), page[2] or ""
        limit = int(page[1]) if page[1] else None
        if inline:
            found = store.recall_tags(pull.name, after, limit, most=_INLINE_TAGS)
        else:
            found = store.tags(pull.name, after, limit)
        if found is None:
            return None
        tags, more = found
        headers = {"Content-Type": "application/json"}
        if more and limit and tags:
            base = self._registry.config.http.external_url or environ.get("SCRIPT_NAME", "")
            headers = next_link(f"{base}/v2/{pull.name}{_TAGS}", n=limit, last=tags[-1]) | headers
        body = orjson.dumps({"name": pull.name, "tags": tags})
        return _Answer(headers, len(body), (body,))

    def _count(self, pull: _Pull, size: int) -> None:
        pulled = {}
        if pull.with_body and pull.kind == "manifests":
            pulled = {"manifest_pulls": 1}
        elif pull.with_body and pull.kind == "blobs":
            pulled = {"blob_pulls": 1, "blob_pull_bytes": size}
        self._registry.metrics.add_all({"requests": 1, "responses_2xx": 1} | pulled)


def _plain_pull(environ: WSGIEnvironment) -> _Pull | None:
    """Return what a request asks for, if that is all of a manifest or a blob, or tags; raise NameInvalid."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if method not in ("GET", "HEAD") or not path.startswith(_ROOT) or any(header in environ for header in _SPECIAL):
        return None
    if path.endswith(_TAGS):
        name = check_name(path[len(_ROOT) : -len(_TAGS)])
        return _Pull(name, "tags", environ.get("QUERY_STRING", ""), True) if method == "GET" else None
    place, _, reference = path.rpartition("/")
    name, _, kind = place.rpartition("/")
    if kind not in ("manifests", "blobs") or not reference:
        return None
    return _Pull(check_name(name[len(_ROOT) :]), kind, reference, method == "GET")
