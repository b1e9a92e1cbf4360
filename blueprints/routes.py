"""What all routes share: how a name stands in a URL, the check of names and digests, the end of every answer."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, request
from werkzeug.routing import PathConverter

from registry.context import pierhead
from storage.digest import parse_digest
from storage.names import check_name


class NameConverter(PathConverter):
    """A repository name, or whatever stands in its place: which it is, `_check_values` says."""

    regex = "(?s:[^/].*?)"


def install(app: Flask) -> None:
    """Check the values in every URL before its route runs, and finish every answer."""
    app.url_map.converters["name"] = NameConverter
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
    if request.path.startswith(("/v2", "/oras/")):
        response.headers["Docker-Distribution-API-Version"] = "registry/2.0"
    metrics = pierhead().metrics
    metrics.add("requests")
    metrics.add(f"responses_{response.status_code // 100}xx")
    return response
