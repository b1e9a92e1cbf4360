"""The check: may whoever asks pull from a repository? For a proxy that serves blobs from the disk itself.

`GET /v2/_check/pull/<name>` answers 204, 401 or 403, without a body. What else the registry would say, it says to the
request itself, which a proxy passes on unless the answer is 204; so that one is counted, limited and audited, and the
check is not. Hence only trusted proxies may ask; to all others there is nothing at that path.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Flask, g

from blueprints.responses import caching
from registry.auth.identity import Action, CredentialsRefused, Identity, StoreUnavailable
from registry.context import Pierhead
from registry.errors import RequestRefused
from registry.inline import INLINE, NOT_INLINE
from registry.proxy import PROXIED
from storage.errors import NameInvalid
from storage.names import check_name

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATH = "/v2/_check/pull/"  #: no repository can be called so

#: Whose credentials are remembered for `server.authCache` here: a proxy may not remember them for as long once more.
_REMEMBERED_HERE = frozenset({"ldap"})


class PullCheck:
    """A WSGI wrapper that answers the check, by the gate that every request passes."""

    def __init__(self, flask: Flask, registry: Pierhead) -> None:
        """Take the application that answers the rest."""
        self._flask = flask
        self._app = flask.wsgi_app
        self._gate = registry.gate
        # nginx counts whole seconds, and serves what it remembers until the last of them is over: so it gets one less.
        self._seconds = max(0, int(registry.config.server.auth_cache) - 1)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if not environ["PATH_INFO"].startswith(PATH) or PROXIED not in environ:
            return self._app(environ, start_response)
        repository = environ["PATH_INFO"][len(PATH) :]
        try:
            check_name(repository)
            reader = self._gate.plain_reader(environ, repository)
            if reader is None and INLINE in environ:
                return NOT_INLINE
            status, headers = self._allowed(reader, repository) if reader else self._verdict(environ, repository)
        except CredentialsRefused:
            status, headers = HTTPStatus.UNAUTHORIZED, {}
        except (NameInvalid, RequestRefused, StoreUnavailable):
            status, headers = HTTPStatus.FORBIDDEN, {}
        start_response(f"{status.value} {status.phrase}", list(headers.items()))
        return ()

    def _verdict(self, environ: WSGIEnvironment, repository: str) -> tuple[HTTPStatus, dict[str, str]]:
        """Decide where somebody may have to be asked; raise what `Gate.identify` does."""
        with self._flask.request_context(environ):
            try:
                g.identity = self._gate.identify()
            except RequestRefused as refused:
                unknown = refused.status == HTTPStatus.UNAUTHORIZED
                return HTTPStatus.UNAUTHORIZED if unknown else HTTPStatus.FORBIDDEN, {}
            if self._gate.may(Action.READ, repository):
                return self._allowed(g.identity, repository)
            return HTTPStatus.UNAUTHORIZED if g.identity.anonymous else HTTPStatus.FORBIDDEN, {}

    def _allowed(self, reader: Identity, repository: str) -> tuple[HTTPStatus, dict[str, str]]:
        """Return 204, for how long a proxy may rely on it, and how the blobs themselves may be cached."""
        seconds = 0 if reader.scheme in _REMEMBERED_HERE else self._seconds
        blobs = caching(by_digest=True, public=self._gate.is_public(repository))
        return HTTPStatus.NO_CONTENT, {"X-Accel-Expires": str(seconds), "X-Blob-Cache-Control": blobs}
