"""How answers are made: locations, links, and what identifies content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from requests.utils import parse_header_links

from blueprints import responses
from registry import create_app
from registry.config import default_config
from registry.context import location
from storage.digest import Digest

DIGEST = Digest.of(b"content")
MakeApp = Callable[[str | None], Flask]


@pytest.fixture
def make_app(tmp_path: Path) -> MakeApp:
    """Give a function that makes an app with an `externalUrl`."""

    def make_app(external_url: str | None) -> Flask:
        config = default_config()
        storage = replace(config.storage, root_directory=str(tmp_path))
        return create_app(replace(config, storage=storage, http=replace(config.http, external_url=external_url)))

    return make_app


@pytest.mark.parametrize(
    ("external_url", "prefix", "expected"),
    [
        (None, "", "/v2/a/b"),
        (None, "/images", "/images/v2/a/b"),
        ("https://registry.example", "", "https://registry.example/v2/a/b"),
        ("https://registry.example/x", "/images", "https://registry.example/x/v2/a/b"),
    ],
)
def test_where_things_are(make_app: MakeApp, external_url: str | None, prefix: str, expected: str) -> None:
    with make_app(external_url).test_request_context("/v2/", environ_overrides={"SCRIPT_NAME": prefix}):
        assert location("/v2/a/b") == expected


@pytest.mark.parametrize("last", ["v1", "a/b", "a&n=0", "a b", 'a">; rel="prev', "\u00e9", "100%"])
def test_the_link_to_the_next_page_survives_any_name(make_app: MakeApp, last: str) -> None:
    app = make_app(None)
    with app.test_request_context("/v2/"):
        value = responses.next_page("/v2/a/tags/list", n=5, last=last)["Link"]
    assert value.isascii()
    (link,) = parse_header_links(value)
    assert link["rel"] == "next"
    with app.test_request_context(link["url"]) as context:
        assert context.request.path == "/v2/a/tags/list"
        assert context.request.args.to_dict() == {"n": "5", "last": last}


def test_what_is_said_of_content() -> None:
    headers = responses.blob_headers(DIGEST, public=True)
    assert headers["Docker-Content-Digest"] == DIGEST
    assert headers["ETag"] == f'"{DIGEST}"'
    assert headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("public", [True, False])
def test_only_what_lies_under_its_digest_is_immutable_and_only_what_is_public_is_shared(public: bool) -> None:
    kept = responses.caching(by_digest=True, public=public)
    assert "immutable" in kept
    assert ("private" in kept) is not public
    assert responses.caching(by_digest=False, public=public) == "no-cache"


@pytest.mark.parametrize(
    ("header", "known"),
    [
        (None, False),
        (f'"{DIGEST}"', True),
        (f'W/"{DIGEST}"', True),
        (f'"other", "{DIGEST}"', True),
        ("*", True),
        ('"other"', False),
    ],
)
def test_what_the_client_has_already(header: str | None, known: bool) -> None:
    headers = {} if header is None else {"If-None-Match": header}
    with Flask("app").test_request_context("/", headers=headers):
        assert responses.is_known(DIGEST) == known


def test_an_answer_without_a_body_has_no_type() -> None:
    answer = responses.empty(202, {"X": "y"})
    assert (answer.status_code, answer.headers["X"], answer.data) == (202, "y", b"")
    assert "Content-Type" not in answer.headers
