"""What the registry offers beside the distribution API: catalog, discovery, metrics, and the older referrers route."""

from flask import Blueprint, Response, g, request

from blueprints.requests import page_size
from blueprints.responses import json_response, next_page
from registry.auth.gate import Place, at, needs
from registry.auth.identity import Action
from registry.context import pierhead, store
from storage.digest import Digest

blueprint = Blueprint("extensions", __name__)

_SPEC = "https://github.com/opencontainers/distribution-spec/blob/main/extensions/_oci.md"


@blueprint.get("/v2/_catalog")
@at(Place.LISTING)
def catalog() -> Response:
    """Return the names of the repositories that the caller may read, or `n` of them that follow `last`."""
    limit = page_size()
    view = pierhead().gate.view(g.identity)
    names, more = pierhead().controller.repositories(
        request.args.get("last", ""), limit, below=view.below, visible=view.visible
    )
    link = next_page("/v2/_catalog", n=limit, last=names[-1]) if more and limit and names else None
    return json_response({"repositories": names}, link)


@blueprint.get("/v2/_oci/ext/discover")
@at(Place.ENTRANCE)
def discover() -> Response:
    """Return the extensions that there are for the registry."""
    return _extensions("/v2/_oci/ext/discover")


@blueprint.get("/v2/<name:name>/_oci/ext/discover")
@needs(Action.READ)
def discover_repository(name: str) -> Response:
    """Return the extensions that there are for a repository."""
    store(name).tags(name, limit=0)
    return _extensions(f"/v2/{name}/_oci/ext/discover")


def _extensions(path: str) -> Response:
    extension = {"name": "_oci", "url": _SPEC, "description": "which extensions there are", "endpoints": [path]}
    return json_response({"extensions": [extension]})


@blueprint.get("/v2/metrics")
@at(Place.METRICS)
def metrics() -> Response:
    """Return the counters of all workers, summed."""
    return json_response(pierhead().metrics.totals())


@blueprint.get("/oras/artifacts/v1/<name:name>/manifests/<subject>/referrers")
@needs(Action.READ)
def oras_referrers(name: str, subject: Digest) -> Response:
    """Return referrers as the first notation and oras clients asked for them (ORAS artifacts-spec, draft 1)."""
    return json_response({"references": store(name).referrers(name, subject, request.args.get("artifactType") or None)})
