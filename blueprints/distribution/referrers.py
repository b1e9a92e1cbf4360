"""The list of a manifest's referrers (end-12)."""

from collections.abc import Iterator

import orjson
from flask import Blueprint, Response, request

from blueprints.responses import json_response, next_page
from registry.auth.gate import needs
from registry.auth.identity import Action
from registry.context import store
from storage.digest import Digest
from storage.index import Entry
from storage.manifests import OCI_INDEX

blueprint = Blueprint("referrers", __name__)
_PAGE = 4 * 1024 * 1024  #: largest answer, in bytes, that every client can be expected to take
_ENVELOPE = 256  #: bytes of the answer around its descriptors, at most


@blueprint.get("/v2/<name:name>/referrers/<subject>", endpoint="list")
@needs(Action.READ)
def list_referrers(name: str, subject: Digest) -> Response:
    """Return the referrers, of one artifact type if one is asked for, a page at a time if they are large."""
    wanted = request.args.get("artifactType") or None
    last = request.args.get("last", "")
    found = [entry for entry in store(name).referrers(name, subject, wanted) if entry["digest"] > last]
    page = list(_first_page(found))
    headers = {}
    if wanted:
        headers["OCI-Filters-Applied"] = "artifactType"
    if len(page) < len(found):
        query = {"artifactType": wanted} if wanted else {}
        headers |= next_page(f"/v2/{name}/referrers/{subject}", **query, last=page[-1]["digest"])
    return json_response({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}, headers, OCI_INDEX)


def _first_page(entries: list[Entry]) -> Iterator[Entry]:
    """Yield as many as an answer may hold, and one at least."""
    room = _PAGE - _ENVELOPE
    for number, entry in enumerate(entries):
        room -= len(orjson.dumps(entry)) + 1
        if room < 0 and number:
            return
        yield entry
