"""The list of a repository's tags (end-8)."""

from flask import Blueprint, Response, request

from blueprints.requests import page_size
from blueprints.responses import json_response, next_page
from registry.auth.gate import needs
from registry.auth.identity import Action
from registry.context import store

blueprint = Blueprint("tags", __name__)


@blueprint.get("/v2/<name:name>/tags/list", endpoint="list")
@needs(Action.READ)
def list_tags(name: str) -> Response:
    """Return the tags, or `n` of them that follow `last`."""
    limit = page_size()
    tags, more = store(name).tags(name, request.args.get("last", ""), limit)
    link = next_page(f"/v2/{name}/tags/list", n=limit, last=tags[-1]) if more and limit and tags else None
    return json_response({"name": name, "tags": tags}, link)
