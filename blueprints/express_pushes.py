"""Plain pushes by the express way: uploads that come whole or in one stream, and manifests by a tag or digest.

As for pulls, all else goes to the routes from the beginning. But what was begun here is not done twice: what goes wrong
then is handed to the routes, which tell it as if it had happened there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from blueprints.requests import Body, content_type, read_manifest
from blueprints.responses import Answer, pushed_blob_headers, pushed_manifest_headers, upload_headers
from registry.errors import FAILED
from storage.digest import CANONICAL, Digest, parse_digest
from storage.names import check_name

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from registry.auth.identity import Identity
    from registry.context import Pierhead
    from registry.ratelimit import RateLimit

#: What makes a push depend on more: the routes know about it.
_SPECIAL = ("HTTP_CONTENT_RANGE", "HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")
_DIGEST = re.compile(r"digest=(sha256|sha512)(?::|%3[Aa])([0-9a-f]+)")

_CREATED = "201 CREATED"
_ACCEPTED = "202 ACCEPTED"


class _Push(NamedTuple):
    """Who pushes what: `reference` is an upload session, or names a manifest."""

    environ: WSGIEnvironment
    identity: Identity
    name: str
    reference: str
    digest: Digest


class Pushes:
    """Carry out the pushes that are plainly asked for and allowed."""

    def __init__(self, registry: Pierhead, limit: RateLimit | None) -> None:
        """Take what is pushed to, and what bounds how often."""
        self._registry = registry
        self._limit = limit
        #: By the method, and whether there is a digest in the query: where, and what is done there.
        self._operations: dict[tuple[str, bool], tuple[re.Pattern[str], Callable[[_Push], Answer]]] = {
            ("POST", False): (re.compile(r"/v2/(.+)/blobs/uploads/()"), self._begin),
            ("POST", True): (re.compile(r"/v2/(.+)/blobs/uploads/()"), self._push_blob),
            ("PATCH", False): (re.compile(r"/v2/(.+)/blobs/uploads/([^/]+)"), self._append),
            ("PUT", True): (re.compile(r"/v2/(.+)/blobs/uploads/([^/]+)"), self._finish),
            ("PUT", False): (re.compile(r"/v2/(.+)/manifests/([^/]+)"), self._put_manifest),
        }

    def answer(self, environ: WSGIEnvironment) -> Answer | None:
        """Do what a request asks for; None if that is for the routes, which find it `FAILED` if it was tried here.

        Raises what is wrong before anything is done: NameInvalid, DigestInvalid, RequestRefused, CredentialsRefused
        and StoreUnavailable.
        """
        query, path = environ.get("QUERY_STRING", ""), environ["PATH_INFO"]
        where, operation = self._operations.get((environ["REQUEST_METHOD"], bool(query)), (None, None))
        target = where and where.fullmatch(path)
        wanted = _DIGEST.fullmatch(query) if query else None
        if not (operation and target) or (query and not wanted) or any(header in environ for header in _SPECIAL):
            return None
        digest = parse_digest(f"{wanted[1]}:{wanted[2]}") if wanted else Digest()
        name = check_name(target[1])
        identity = self._registry.gate.plain_writer(environ, name)
        if identity is None:
            return None
        if self._limit:
            self._limit.check(environ["REQUEST_METHOD"], environ.get("REMOTE_ADDR", ""))
        environ["REMOTE_USER"] = identity.name
        try:
            return operation(_Push(environ, identity, name, target[2], digest))
        except Exception as error:  # whatever it is, the routes answer it
            environ[FAILED] = error
            return None

    def _state(self, push: _Push, session: str, size: int) -> Answer:
        return Answer(_ACCEPTED, upload_headers(self._registry.base(push.environ), push.name, session, size))

    def _stored(self, push: _Push) -> Answer:
        headers = pushed_blob_headers(self._registry.base(push.environ), push.name, push.digest)
        return Answer(_CREATED, headers, counts={"blob_pushes": 1})

    def _begin(self, push: _Push) -> Answer:
        return self._state(push, self._registry.controller.store(push.name).begin_upload(push.name, CANONICAL), 0)

    def _push_blob(self, push: _Push) -> Answer:
        self._registry.controller.store(push.name).push_blob(push.name, push.digest, Body(push.environ))
        return self._stored(push)

    def _append(self, push: _Push) -> Answer:
        store = self._registry.controller.store(push.name)
        return self._state(push, push.reference, store.append_upload(push.name, push.reference, Body(push.environ)))

    def _finish(self, push: _Push) -> Answer:
        store = self._registry.controller.store(push.name)
        store.finish_upload(push.name, push.reference, push.digest, Body(push.environ))
        return self._stored(push)

    def _put_manifest(self, push: _Push) -> Answer:
        pushed = self._registry.controller.store(push.name).put_manifest(
            push.name,
            push.reference,
            read_manifest(push.environ),
            content_type=content_type(push.environ),
            permit=self._registry.gate.permit(push.identity, push.name),
        )
        headers = pushed_manifest_headers(self._registry.base(push.environ), push.name, pushed)
        return Answer(_CREATED, headers, counts={"manifest_pushes": 1})
