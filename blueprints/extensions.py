"""What the registry offers beside the distribution API: catalog, discovery, metrics, and the older referrers route."""

from flask import Blueprint, Response, request

from blueprints.requests import page_size
from blueprints.responses import json_response, next_page
from registry.context import pierhead, store
from storage.digest import Digest

blueprint = Blueprint("extensions", __name__)

_SPEC = "https://github.com/opencontainers/distribution-spec/blob/main/extensions/_oci.md"


@blueprint.get("/v2/_catalog")
def catalog() -> Response:
    """Return the names of all repositories, or `n` of them that follow `last`."""
    limit = page_size()
    names, more = pierhead().controller.repositories(request.args.get("last", ""), limit)
    link = next_page("/v2/_catalog", n=limit, last=names[-1]) if more and limit and names else None
    return json_response({"repositories": names}, link)


@blueprint.get("/v2/_oci/ext/discover", defaults={"name": None})
@blueprint.get("/v2/<name:name>/_oci/ext/discover")
def discover(name: str | None) -> Response:
    """Return the extensions that there are for the registry, or for a repository."""
    if name is not None:
        store(name).tags(name, limit=0)
    path = f"/v2/{name}/_oci/ext/discover" if name else "/v2/_oci/ext/discover"
    extension = {"name": "_oci", "url": _SPEC, "description": "which extensions there are", "endpoints": [path]}
    return json_response({"extensions": [extension]})


@blueprint.get("/v2/metrics")
def metrics() -> Response:
    """Return the counters of all workers, summed."""
    return json_response(pierhead().metrics.totals())


@blueprint.get("/oras/artifacts/v1/<name:name>/manifests/<digest>/referrers")
def oras_referrers(name: str, digest: Digest) -> Response:
    """Return referrers as the first notation and oras clients asked for them (ORAS artifacts-spec, draft 1)."""
    return json_response({"references": store(name).referrers(name, digest, request.args.get("artifactType") or None)})
