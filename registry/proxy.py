"""X-Forwarded-* headers: honoured from trusted proxies, without effect from anybody else."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

from registry.auth.certificates import CLIENT_CERTIFICATE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PROXIED = "pierhead.proxied"  #: a key of the WSGI environ: a trusted proxy sent this request

#: A path, which a proxy that passes a client's header on cannot turn into another host.
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%-]+)*/?")


class TrustedProxies:
    """A WSGI wrapper that believes X-Forwarded-For, -Proto, -Host and -Prefix from peers in `networks` only."""

    def __init__(self, app: WSGIApplication, networks: Sequence[str]) -> None:
        self._plain = app
        self._forwarded = ProxyFix(app, x_for=1, x_proto=1, x_host=1, x_prefix=1)
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]
        self._trusts = lru_cache(maxsize=1024)(self._is_trusted)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request, as the client whom a trusted proxy names."""
        if not self._trusts(environ.get("REMOTE_ADDR", "")):
            return self._plain(environ, start_response)
        if not _PREFIX.fullmatch(environ.get("HTTP_X_FORWARDED_PREFIX", "")):
            del environ["HTTP_X_FORWARDED_PREFIX"]
        environ.pop(CLIENT_CERTIFICATE, None)  # it is the proxy's own
        environ[PROXIED] = True
        return self._forwarded(environ, start_response)

    def _is_trusted(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:  # a unix socket has no address
            return False
        address = getattr(address, "ipv4_mapped", None) or address  # as a socket for both families has it
        return any(address in network for network in self._networks)
