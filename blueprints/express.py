"""The express way: pulls of manifests and blobs, and lists, most of what is asked for, without Flask.

It answers what is plainly asked and allowed, by the same calls and with the same headers as the routes do, and that
something is not there, which is asked before each push. All else goes to the routes, from the beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import orjson
from werkzeug.wsgi import FileWrapper

from blueprints.responses import COPY, Answer, blob_headers, final_headers, manifest_headers, next_link
from registry.auth.identity import CredentialsRefused, Identity, StoreUnavailable
from registry.errors import RequestRefused, status_and_body
from registry.inline import INLINE, NOT_INLINE
from registry.logs import request_id_of
from storage.backend import Redirect
from storage.digest import Digest, parse_digest
from storage.errors import BlobUnknown, ManifestUnknown, RepositoryUnknown, StorageError
from storage.names import check_name

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from blueprints.express_pushes import Pushes
    from registry.context import Pierhead
    from registry.ratelimit import RateLimit

_ROOT = "/v2/"
#: What asks for less than everything, or for something else: the routes know about it.
_SPECIAL = ("HTTP_RANGE", "HTTP_IF_NONE_MATCH")
_OK = f"{HTTPStatus.OK.value} {HTTPStatus.OK.phrase}"
_INLINE_BLOB = 64 * 1024  #: bytes of a blob that is answered while others wait
_INLINE_TAGS = 2000  #: tags of a repository that are listed while others wait

_TAGS = "/tags/list"
_CATALOG = "/v2/_catalog"
#: The queries of lists that need no decoding but of the slashes in names.
_PAGE = re.compile(r"(?:n=([0-9]{1,18}))?(?:(?:^|&)last=((?:[A-Za-z0-9._/-]|%2F)*))?")


class _Pull(NamedTuple):
    """What is asked for: a manifest or blob by its reference, or a page of a list, by how many follow what."""

    name: str
    kind: str
    reference: str
    with_body: bool
    page: tuple[int | None, str] = (None, "")


class Express:
    """A WSGI wrapper that answers plain pulls itself.

    Where the server says `INLINE`, nothing is done that could wait, and what cannot be answered so is `NOT_INLINE`.
    """

    def __init__(
        self, app: WSGIApplication, registry: Pierhead, limit: RateLimit | None, pushes: Pushes | None = None
    ) -> None:
        """Take the application that answers the rest, and what takes pushes if not it."""
        self._app = app
        self._registry = registry
        self._limit = limit
        self._pushes = pushes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        inline = INLINE in environ
        try:
            answer = self._answer(environ, inline=inline)
        except (StorageError, CredentialsRefused, StoreUnavailable, RequestRefused, OSError):
            answer = None
        if answer is None:
            return NOT_INLINE if inline else self._app(environ, start_response)
        self._registry.metrics.add_all({"requests": 1, f"responses_{answer.status[0]}xx": 1, **answer.counts})
        headers = {**answer.headers, **final_headers(request_id_of(environ))}
        headers.setdefault("Content-Length", "0")
        start_response(answer.status, list(headers.items()))
        return answer.body

    def _answer(self, environ: WSGIEnvironment, *, inline: bool) -> Answer | None:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._pulled(environ, inline=inline)
        return self._pushes.answer(environ) if self._pushes and not inline else None

    def _pulled(self, environ: WSGIEnvironment, *, inline: bool) -> Answer | None:
        pull, gate = _plain_pull(environ), self._registry.gate
        if pull is None:
            return None
        identity = gate.plain_reader(environ, pull.name) if pull.name else gate.plain_caller(environ)
        if identity is None:
            return None
        try:
            answer = self._find(pull, identity, environ, inline=inline)
        except (BlobUnknown, ManifestUnknown, RepositoryUnknown) as error:
            answer = _not_there(pull, error)
        if answer is None:
            return None
        if self._limit:
            self._limit.check(environ["REQUEST_METHOD"], environ.get("REMOTE_ADDR", ""))
        environ["REMOTE_USER"] = identity.name
        return answer

    def _find(self, pull: _Pull, identity: Identity, environ: WSGIEnvironment, *, inline: bool) -> Answer | None:
        match pull.kind:
            case "manifests":
                return self._manifest(pull, inline)
            case "blobs":
                return self._blob(pull, environ, inline)
            case "tags":
                return self._tags(pull, environ, inline)
            case "catalog":
                return None if inline else self._catalog(pull, identity, environ)
        return _json({})

    def _manifest(self, pull: _Pull, inline: bool) -> Answer | None:
        store = self._registry.controller.store(pull.name)
        recall = store.recall_manifest if inline else store.get_manifest
        manifest = recall(pull.name, pull.reference)
        if manifest is None:
            return None
        public = ":" in pull.reference and self._registry.gate.is_public(pull.name)  # of a tag nobody is told
        headers = manifest_headers(manifest, pull.reference, public=public)
        headers["Content-Length"] = str(len(manifest.data))
        if not pull.with_body:
            return Answer(_OK, headers)
        return Answer(_OK, headers, (manifest.data,), {"manifest_pulls": 1})

    def _blob(self, pull: _Pull, environ: WSGIEnvironment, inline: bool) -> Answer | None:
        store, digest = self._registry.controller.store(pull.name), parse_digest(pull.reference)
        if inline and pull.with_body:
            data = store.backend.read_now(pull.name, digest, _INLINE_BLOB)
            return None if data is None else self._blob_answer(pull, digest, len(data), (data,))
        size = store.backend.size_now(pull.name, digest)  # a blob in the bin is for the routes to take back
        if size is None or not pull.with_body:
            return None if size is None else self._blob_answer(pull, digest, size)
        content = store.open_blob(pull.name, digest, 0, size)
        if isinstance(content, Redirect):
            return None
        return self._blob_answer(pull, digest, size, environ.get("wsgi.file_wrapper", FileWrapper)(content, COPY))

    def _blob_answer(self, pull: _Pull, digest: Digest, size: int, body: Iterable[bytes] = ()) -> Answer:
        headers = blob_headers(digest, public=self._registry.gate.is_public(pull.name))
        headers["Content-Length"] = str(size)
        return Answer(_OK, headers, body, {"blob_pulls": 1, "blob_pull_bytes": size} if pull.with_body else {})

    def _tags(self, pull: _Pull, environ: WSGIEnvironment, inline: bool) -> Answer | None:
        store, (limit, after) = self._registry.controller.store(pull.name), pull.page
        if inline:
            found = store.recall_tags(pull.name, after, limit, most=_INLINE_TAGS)
        else:
            found = store.tags(pull.name, after, limit)
        if found is None:
            return None
        return _json(
            {"name": pull.name, "tags": found[0]}, self._rest(f"/v2/{pull.name}{_TAGS}", *found, limit, environ)
        )

    def _catalog(self, pull: _Pull, identity: Identity, environ: WSGIEnvironment) -> Answer:
        view, (limit, after) = self._registry.gate.view(identity), pull.page
        found = self._registry.controller.repositories(after, limit, below=view.below, visible=view.visible)
        return _json({"repositories": found[0]}, self._rest(_CATALOG, *found, limit, environ))

    def _rest(
        self, path: str, names: list[str], more: bool, limit: int | None, environ: WSGIEnvironment
    ) -> dict[str, str]:
        """Return the header that says where a list goes on, if it does."""
        if not (more and limit and names):
            return {}
        return next_link(f"{self._registry.base(environ)}{path}", n=limit, last=names[-1])


def _json(document: object, headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
    body = orjson.dumps(document)
    return Answer(_OK, {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}, (body,))


def _not_there(pull: _Pull, error: StorageError) -> Answer:
    """Say that what is asked for is not there, as the routes do."""
    status, body = status_and_body(error)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return Answer(f"{status} NOT FOUND", headers, (body,) if pull.with_body else ())


def _plain_pull(environ: WSGIEnvironment) -> _Pull | None:
    """Return what a request asks for, if that is all of a manifest or a blob, or a list; raise NameInvalid."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if not path.startswith(_ROOT) or any(header in environ for header in _SPECIAL):
        return None
    if path in (_ROOT, _CATALOG) or path.endswith(_TAGS):
        page = _PAGE.fullmatch(environ.get("QUERY_STRING", ""))
        if method != "GET" or page is None:
            return None
        name = check_name(path[len(_ROOT) : -len(_TAGS)]) if path.endswith(_TAGS) else ""
        kind = "tags" if name else "catalog" if path == _CATALOG else "ping"
        after = (page[2] or "").replace("%2F", "/")
        return _Pull(name, kind, "", True, (int(page[1]) if page[1] else None, after))
    place, _, reference = path.rpartition("/")
    name, _, kind = place.rpartition("/")
    if kind not in ("manifests", "blobs") or not reference:
        return None
    return _Pull(check_name(name[len(_ROOT) :]), kind, reference, method == "GET")
