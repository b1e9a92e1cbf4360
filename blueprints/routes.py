"""What all routes share: how a name stands in a URL, what is asked before each runs, the end of every answer."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, request
from werkzeug.routing import PathConverter

from blueprints.responses import final_headers
from registry.context import pierhead
from registry.errors import FAILED
from registry.logs import request_id
from storage.digest import parse_digest, parse_foreign
from storage.names import check_name


class NameConverter(PathConverter):
    """A repository name, or whatever stands in its place: which it is, `_check_values` says."""

    regex = "(?s:[^/].*?)"


def install(app: Flask) -> None:
    """Check every request before its route runs, and finish every answer."""
    app.url_map.converters["name"] = NameConverter
    app.before_request(_admit)
    app.after_request(_finish)


def _admit() -> None:
    """Let the request through to its route, if its words are well-formed and its maker may do this.

    What was tried already, and failed, is told here.
    """
    _check_values(request.view_args or {})
    pierhead().gate.admit()
    if FAILED in request.environ:
        with pierhead().gate.pushing((request.view_args or {})["name"]):
            raise request.environ[FAILED]


def _check_values(values: dict[str, Any]) -> None:
    if values.get("name") is not None:
        check_name(values["name"])
    if "digest" in values:
        values["digest"] = parse_digest(values["digest"])
    if "subject" in values:
        values["subject"] = parse_foreign(values["subject"])


def _finish(response: Response) -> Response:
    response.headers.update(final_headers(request_id()))
    if not request.path.startswith(("/v2", "/oras/")):
        del response.headers["Docker-Distribution-API-Version"]
    pierhead().metrics.add_all({"requests": 1, f"responses_{response.status_code // 100}xx": 1})
    return response
