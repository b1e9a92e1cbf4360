"""The API description is whole: each route has its operation, each operation its route and its form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from flask import Flask

from blueprints.docs import describe, path_of
from registry import create_app
from registry.config import HTTPConfig, default_config
from registry.config_auth import AuthConfig, TokenConfig
from registry.errors import RULES
from storage.digest import ALGORITHMS
from tests.support.oci import ERROR_CODES, Json

#: Routes that are not the API but show it.
UNDESCRIBED = {"docs.index", "docs.page"}
#: The GETs whose HEAD is an operation of the distribution spec ("Checking if content exists in the registry").
WITH_HEAD = {"manifests.get", "blobs.get"}
SHARED = "definitions"

Operation = tuple[str, str]


@pytest.fixture(scope="module")
def app() -> Flask:
    """Build an app that has every route; only the routes are looked at."""
    auth = AuthConfig(apikey=True, token=TokenConfig())
    return create_app(replace(default_config(), http=HTTPConfig(auth=auth)))


@pytest.fixture(scope="module")
def description(app: Flask) -> Json:
    """Put the description together."""
    return describe(app.url_map)


def routed(app: Flask) -> Iterator[Operation]:
    """Yield the method and path of all that the app routes, HEAD only where it is an operation of its own."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint not in UNDESCRIBED:
            left_out = {"OPTIONS"} if rule.endpoint in WITH_HEAD else {"OPTIONS", "HEAD"}
            for method in (rule.methods or set()) - left_out:
                yield method.lower(), path_of(rule)


def described(description: Json) -> dict[Operation, Json]:
    """Return the operations by method and path."""
    return {
        (method, path): operation
        for path, item in description["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def test_what_is_routed_is_described_and_what_is_described_is_routed(app: Flask, description: Json) -> None:
    """A route without its YAML file, or an operation that no route answers, is an error."""
    assert set(described(description)) == set(routed(app))


def test_each_file_belongs_to_an_endpoint(app: Flask) -> None:
    """A file whose endpoint was renamed or removed is an error."""
    names = {file.name.removesuffix(".yml") for file in files("swagger").iterdir() if file.name.endswith(".yml")}
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules()}
    assert names - endpoints == {SHARED}


def test_each_operation_is_described_in_full(description: Json) -> None:
    """An operation has a summary, a known tag, a success, and a body in each of its errors but HEAD's."""
    tags = {tag["name"] for tag in description["tags"]}
    for (method, path), operation in described(description).items():
        where = f"{method} {path}"
        assert operation["summary"], where
        assert set(operation["tags"]) <= tags, where
        responses = {status: resolve(description, response) for status, response in operation["responses"].items()}
        assert any(status.startswith("2") for status in responses), where
        for status, response in responses.items():
            assert "Docker-Distribution-API-Version" in response["headers"], where
            if status >= "400" and method != "head":
                assert response["schema"] == {"$ref": "#/definitions/Error"}, where


def test_all_that_is_shared_is_used(description: Json) -> None:
    """Each reference leads somewhere, and nothing shared is left that no operation refers to."""
    references = set(find_references(description))
    for reference in references:
        resolve(description, {"$ref": reference})
    shared = {
        f"#/{section}/{name}" for section in ("parameters", "responses", "definitions") for name in description[section]
    }
    assert shared == references


def test_errors_have_the_codes_of_the_spec(description: Json) -> None:
    """Spec "Error Codes": the description names the fourteen, which include all that the registry answers."""
    item = description["definitions"]["Error"]["properties"]["errors"]["items"]
    codes = set(item["properties"]["code"]["enum"])
    assert codes == ERROR_CODES
    assert {rule.code for rule in RULES.values()} <= codes


def test_every_digest_algorithm_is_described(description: Json) -> None:
    """The digests that are described are those that the registry supports."""
    start = described(description)["post", "/v2/{name}/blobs/uploads/"]
    algorithms = next(found["enum"] for found in start["parameters"] if found.get("name") == "digest-algorithm")
    assert tuple(algorithms) == ALGORITHMS


def resolve(description: Json, part: Json) -> Json:
    """Return what a part refers to, or the part itself."""
    if "$ref" not in part:
        return part
    _, section, name = part["$ref"].split("/")
    found: Json = description[section][name]
    return found


def find_references(part: Any) -> Iterator[str]:
    """Yield every reference in a part of the description."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for below in part:
            yield from find_references(below)
