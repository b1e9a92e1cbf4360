"""Blobs: pull, delete (end-2, end-10)."""

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse
from werkzeug.wsgi import FileWrapper

from blueprints.requests import wanted_part
from blueprints.responses import COPY, blob_headers, empty, is_known, not_modified
from registry.auth.gate import needs
from registry.auth.identity import Action
from registry.context import pierhead, store
from storage.backend import Redirect
from storage.digest import Digest

blueprint = Blueprint("blobs", __name__)
_URL = "/v2/<name:name>/blobs/<digest>"


@blueprint.get(_URL)
@needs(Action.READ)
def get(name: str, digest: Digest) -> AnyResponse:
    """Return a blob or a part of it; for HEAD, its headers."""
    size = store(name).blob_size(name, digest)
    headers = blob_headers(digest, public=pierhead().gate.is_public(name))
    if is_known(digest):
        return not_modified(headers)
    if request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(size)})
    part = wanted_part(digest, size)
    start, stop = part or (0, size)
    headers["Content-Length"] = str(stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    content = store(name).open_blob(name, digest, start, stop - start)
    if isinstance(content, Redirect):
        return redirect(content.url, 307)
    pierhead().metrics.add("blob_pulls")
    pierhead().metrics.add("blob_pull_bytes", stop - start)
    wrapper = request.environ.get("wsgi.file_wrapper", FileWrapper)
    return Response(wrapper(content, COPY), 206 if part else 200, headers, direct_passthrough=True)


@blueprint.delete(_URL)
@needs(Action.DELETE)
def delete(name: str, digest: Digest) -> Response:
    """Delete a blob that no manifest of the repository needs."""
    store(name).delete_blob(name, digest)
    return empty(202, {})
