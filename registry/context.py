"""What `create_app` built, for whoever answers a request: the settings, the stores, the counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import current_app, request
from werkzeug.wrappers import Request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from registry.auth.gate import Gate
    from registry.config import Config
    from registry.metrics import Metrics
    from storage.controller import StoreController
    from storage.image_store import ImageStore


@dataclass(frozen=True, slots=True)
class Pierhead:
    """One registry."""

    config: Config
    controller: StoreController
    gate: Gate
    metrics: Metrics

    def base(self, environ: WSGIEnvironment) -> str:
        """Return what comes before a path in URLs: `externalUrl`, else the prefix of whoever passed the request on."""
        external = self.config.http.external_url
        if external or not environ.get("SCRIPT_NAME"):
            return external or ""
        return Request(environ).script_root


def pierhead() -> Pierhead:
    """Return the registry that this request is for."""
    return cast("Pierhead", current_app.extensions["pierhead"])


def store(name: str) -> ImageStore:
    """Return the store that a repository lies in."""
    return pierhead().controller.store(name)


def location(path: str) -> str:
    """Return the URL of a path: relative to the host, with the proxy's prefix, unless `externalUrl` is set."""
    return pierhead().base(request.environ) + path
