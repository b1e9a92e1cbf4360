"""The description of the API, put together from swagger/*.yml, and Swagger UI to read it and try it out."""

import re
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import yaml
from flask import Blueprint, Flask, Response, redirect, request
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response as AnyResponse

from registry.auth.gate import public

PREFIX = "/swagger/v2"

_SOURCES = files("swagger")

# The page may load nothing from, and send nothing to, another host. flasgger's template has its script inline.
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'"
)

Part = dict[str, Any]


def register(app: Flask) -> None:
    """Serve Swagger UI at /swagger/v2/ and the description at /swagger/v2/swagger.json.

    flasgger is imported, and the description read, when somebody first asks: most workers are never asked.
    """
    site = cache(lambda: _build_site(describe(app.url_map)))

    @public
    def serve(page: str = "") -> AnyResponse:
        return Response.from_app(site(), request.environ)

    blueprint = Blueprint("docs", __name__, url_prefix=PREFIX)
    blueprint.add_url_rule("/", "index", serve)
    blueprint.add_url_rule("/<path:page>", "page", serve)
    app.register_blueprint(blueprint)


def describe(url_map: Map) -> Part:
    """Return the Swagger 2.0 description of the routes: an endpoint's operation is the YAML file that bears its name.

    Routes whose endpoint has no file are left out.
    """
    description = _read("definitions")
    common = description.pop("x-every-operation")
    description["info"]["version"] = version("pierhead")
    _add_headers(description["responses"], common["headers"])
    paths: Part = {}
    for rule in sorted((rule for rule in url_map.iter_rules() if _source(rule.endpoint).is_file()), key=path_of):
        path = path_of(rule)
        operation = _read(rule.endpoint)
        operation["responses"] = common["responses"] | operation["responses"]
        _add_headers(operation["responses"], common["headers"])
        item = paths.setdefault(path, {"parameters": _path_parameters(path)})
        item.update(_operations(rule, operation, description["responses"]))
    return description | {"paths": paths}


def path_of(rule: Rule) -> str:
    """Return a rule as Swagger writes it: `/v2/<name:name>/tags/list` is `/v2/{name}/tags/list`."""
    return re.sub(r"<(?:[^<>]+:)?([^<>:]+)>", r"{\1}", rule.rule)


def _path_parameters(path: str) -> list[Part]:
    return [{"$ref": f"#/parameters/{name}"} for name in re.findall(r"{(\w+)}", path)]


def _operations(rule: Rule, operation: Part, shared_responses: Part) -> Part:
    """Return the rule's operations by method; a GET that has `x-head` is described as a HEAD too."""
    head_summary = operation.pop("x-head", None)
    methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
    operations: Part = {method.lower(): operation for method in sorted(methods)}
    if head_summary:
        responses = {
            status: _without_body(shared_responses, response) for status, response in operation["responses"].items()
        }
        operations["head"] = operation | {"summary": head_summary, "responses": responses}
    return operations


def _without_body(shared_responses: Part, response: Part) -> Part:
    if "$ref" in response:
        response = shared_responses[response["$ref"].removeprefix("#/responses/")]
    return {key: value for key, value in response.items() if key != "schema"}


def _add_headers(responses: Part, headers: Part) -> None:
    for response in responses.values():
        if "$ref" not in response:
            response["headers"] = response.get("headers", {}) | headers


def _source(name: str) -> Any:
    return _SOURCES / f"{name}.yml"


def _read(name: str) -> Part:
    part: Part = yaml.safe_load(_source(name).read_text(encoding="utf-8"))
    return part


def _build_site(description: Part) -> Flask:
    """Build flasgger's Swagger UI for a description, as an application of its own.

    flasgger hooks into every request of the application it is given; the registry's requests need none of that.
    """
    from flasgger import LazyJSONEncoder, LazyString, Swagger  # type: ignore[import-untyped]  # noqa: PLC0415

    site = Flask(__name__, template_folder=str(_SOURCES / "templates"), static_folder=None)
    site.json = LazyJSONEncoder(site)
    # Behind a proxy that adds a prefix to paths, "try it out" has to add it as well.
    base_path = LazyString(lambda: request.script_root or "/")
    Swagger(site, template=description | {"basePath": base_path}, config=_flasgger_config(description))
    site.add_url_rule(f"{PREFIX}/index.html", view_func=site.view_functions["flasgger.apidocs"])
    site.before_request(_drop_query)
    site.after_request(_confine_to_this_host)
    return site


def _flasgger_config(description: Part) -> Part:
    return {
        "title": description["info"]["title"],
        "specs_route": f"{PREFIX}/",
        "static_url_path": f"{PREFIX}/static",
        "specs": [{"endpoint": "description", "route": f"{PREFIX}/swagger.json", "rule_filter": lambda rule: False}],
        "headers": [],
        "hide_top_bar": True,
        "auth": {},
        "ui_params": {"displayOperationId": False},
    }


def _drop_query() -> AnyResponse | None:
    """Redirect to the address without its query: Swagger UI would show whatever description `?url=` names."""
    return redirect(request.script_root + request.path) if request.query_string else None


def _confine_to_this_host(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"  # for browsers that do not know frame-ancestors
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
