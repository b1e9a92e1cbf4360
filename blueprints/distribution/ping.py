"""Determining support (end-1)."""

from flask import Blueprint, Response

from blueprints.responses import json_response
from registry.auth.gate import Place, at

blueprint = Blueprint("ping", __name__)


@blueprint.get("/v2/")
@at(Place.ENTRANCE)
def ping() -> Response:
    """Answer that this is a registry."""
    return json_response({})
