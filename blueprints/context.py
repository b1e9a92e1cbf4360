"""What all routes share: the stores, the settings, the check of names and digests, the headers of every answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Response, current_app, request

from registry.metrics import Metrics
from storage.controller import StoreController
from storage.digest import parse_digest
from storage.image_store import ImageStore
from storage.names import check_name

if TYPE_CHECKING:
    from registry.config import Config


@dataclass(frozen=True, slots=True)
class Pierhead:
    """What `create_app` built for the routes to use."""

    config: Config
    controller: StoreController
    metrics: Metrics


def pierhead() -> Pierhead:
    """Return what the app that serves this request was built with."""
    return cast(Pierhead, current_app.extensions["pierhead"])


def store(name: str) -> ImageStore:
    """Return the store that a repository lies in."""
    return pierhead().controller.store(name)


def install(app: Flask) -> None:
    """Check the values in every URL before its route runs, and finish every answer."""
    app.url_value_preprocessor(_check_values)
    app.after_request(_finish)


def _check_values(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    if not values:
        return
    if values.get("name") is not None:
        check_name(values["name"])
    if "digest" in values:
        values["digest"] = parse_digest(values["digest"])


def _finish(response: Response) -> Response:
    if request.path.startswith("/v2"):
        response.headers["Docker-Distribution-API-Version"] = "registry/2.0"
    metrics = pierhead().metrics
    metrics.add("requests")
    metrics.add(f"responses_{response.status_code // 100}xx")
    return response
