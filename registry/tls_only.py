"""No answer in clear where the configuration says TLS: a server that does not know it is found out at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from registry.errors import error_body

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

_MESSAGE = (
    "http.tls is set, but this request came without TLS: the server is not the registry's own; "
    "run pierhead serve, or gunicorn with --worker-class registry.worker.Worker"
)


class TLSOnly:
    """A WSGI wrapper that refuses what came without TLS; within TrustedProxies, whose word on that counts.

    The registry's own worker lets no such request through. Stock ones, and other servers, do not read the registry's
    configuration: with them the operator would believe in an encryption that is not there.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self._said = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request that came by TLS."""
        if environ["wsgi.url_scheme"] == "https":
            return self._app(environ, start_response)
        if not self._said:
            self._said = True
            log.error(_MESSAGE)
        body = error_body("UNSUPPORTED", _MESSAGE, {})
        start_response("400 Bad Request", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
