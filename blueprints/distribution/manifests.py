"""Manifests: pull, push, delete (end-3, end-7, end-9)."""

from flask import Blueprint, Response, request

from blueprints.requests import content_type, precondition, read_manifest
from blueprints.responses import empty, is_known, manifest_headers, not_modified, pushed_manifest_headers
from registry.auth.gate import needs
from registry.auth.identity import Action
from registry.context import location, pierhead, store

blueprint = Blueprint("manifests", __name__)
_URL = "/v2/<name:name>/manifests/<reference>"


@blueprint.get(_URL)
@needs(Action.READ)
def get(name: str, reference: str) -> Response:
    """Return a manifest as it was pushed; for HEAD, its headers."""
    manifest = store(name).get_manifest(name, reference)
    headers = manifest_headers(manifest, reference, public=pierhead().gate.is_public(name))
    if is_known(manifest.digest):
        return not_modified(headers)
    if request.method == "GET":
        pierhead().metrics.add("manifest_pulls")
    return Response(manifest.data, headers=headers)


@blueprint.put(_URL)
@needs(Action.CREATE, Action.UPDATE)
def put(name: str, reference: str) -> Response:
    """Store a manifest, under the tags of the query too."""
    tags = request.args.getlist("tag")
    with pierhead().gate.pushing(name) as permit:
        pushed = store(name).put_manifest(
            name,
            reference,
            read_manifest(request.environ),
            content_type=content_type(request.environ),
            tags=tags,
            precondition=precondition(),
            permit=permit,
        )
    pierhead().metrics.add("manifest_pushes")
    return empty(201, pushed_manifest_headers(location(""), name, pushed, tags))


@blueprint.delete(_URL)
@needs(Action.DELETE)
def delete(name: str, reference: str) -> Response:
    """Delete a tag, or a manifest with all its tags."""
    store(name).delete_manifest(name, reference)
    pierhead().metrics.add("manifest_deletes")
    return empty(202, {})
