"""Uploads: start, state, chunks, finish, cancel, and mounts (end-4, end-5, end-6, end-11, end-13, end-14)."""

from flask import Blueprint, Response, request

from blueprints.requests import Body, chunk_start
from blueprints.responses import empty, pushed_blob_headers, upload_headers
from registry.auth.gate import needs
from registry.auth.identity import Action
from registry.context import location, pierhead, store
from storage.digest import CANONICAL, Digest, check_algorithm, parse_digest
from storage.names import check_name

blueprint = Blueprint("uploads", __name__)
_URL = "/v2/<name:name>/blobs/uploads/<session>"


@blueprint.post("/v2/<name:name>/blobs/uploads/")
@needs(Action.CREATE, Action.UPDATE)
def start(name: str) -> Response:
    """Mount a blob, store one that comes with this request, or start a session."""
    query = request.args
    if "mount" in query and _mount(name, parse_digest(query["mount"]), query.get("from")):
        return _created(name, parse_digest(query["mount"]))
    if "digest" in query:
        digest = parse_digest(query["digest"])
        store(name).push_blob(name, digest, Body(request.environ))
        return _created(name, digest)
    algorithm = check_algorithm(query.get("digest-algorithm", CANONICAL))
    return _state(202, name, store(name).begin_upload(name, algorithm), 0)


@blueprint.get(_URL)
@needs(Action.CREATE, Action.UPDATE)
def state(name: str, session: str) -> Response:
    """Tell how far an upload has come."""
    return _state(204, name, session, store(name).upload_size(name, session))


@blueprint.patch(_URL)
@needs(Action.CREATE, Action.UPDATE)
def append(name: str, session: str) -> Response:
    """Append a chunk, or a stream of any length."""
    return _state(202, name, session, store(name).append_upload(name, session, Body(request.environ), chunk_start()))


@blueprint.put(_URL)
@needs(Action.CREATE, Action.UPDATE)
def finish(name: str, session: str) -> Response:
    """Append the last chunk, if any, and make the upload a blob."""
    digest = parse_digest(request.args.get("digest", ""))
    store(name).finish_upload(name, session, digest, Body(request.environ), chunk_start())
    return _created(name, digest)


@blueprint.delete(_URL)
@needs(Action.CREATE, Action.UPDATE)
def cancel(name: str, session: str) -> Response:
    """End an upload and drop its bytes."""
    store(name).cancel_upload(name, session)
    return empty(204, {})


def _mount(name: str, digest: Digest, source: str | None) -> bool:
    """Mount what the caller may read; where they may not, they have to push it, as if it were not there."""
    controller, gate = pierhead().controller, pierhead().gate
    may = gate.may(Action.READ, check_name(source)) if source else gate.may_read_all(controller.prefix(name))
    return may and controller.mount(name, digest, source or None)


def _created(name: str, digest: Digest) -> Response:
    pierhead().metrics.add("blob_pushes")
    return empty(201, pushed_blob_headers(location(""), name, digest))


def _state(status: int, name: str, session: str, size: int) -> Response:
    return empty(status, upload_headers(location(""), name, session, size))
