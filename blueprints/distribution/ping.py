"""Determining support (end-1)."""

from flask import Blueprint, Response

from blueprints.responses import json_response

blueprint = Blueprint("ping", __name__)


@blueprint.get("/v2/")
def ping() -> Response:
    """Answer that this is a registry."""
    return json_response({})
