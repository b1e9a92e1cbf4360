"""Which pages may read the registry's answers: the headers, case by case."""

from __future__ import annotations

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from registry import cors
from registry.errors import RequestRefused
from registry.errors import install as install_errors

PAGE = "https://ui.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}


def client(*origins: str) -> FlaskClient:
    """Give a client of an app that lets nobody in, for pages of these origins."""
    app = Flask("registry")
    install_errors(app)
    cors.install(app, origins)

    @app.before_request
    def refuse() -> None:
        raise RequestRefused("UNAUTHORIZED", 401, "log in first", headers={"WWW-Authenticate": "Basic"})

    app.add_url_rule("/v2/", view_func=Response)
    return app.test_client()


def permissions(answer: TestResponse) -> dict[str, str]:
    """Return the headers of an answer that browsers heed."""
    return {key.removeprefix("Access-Control-"): value for key, value in answer.headers if key.startswith("Access-")}


def test_without_origins_there_is_no_header() -> None:
    answer = client().get("/v2/", headers={"Origin": PAGE})
    assert permissions(answer) == {}
    assert "Vary" not in answer.headers
    assert client().options("/v2/", headers=PREFLIGHT | {"Origin": PAGE}).status_code == 401


@pytest.mark.parametrize(
    ("configured", "origin"),
    [
        (PAGE, PAGE),
        ("https://ui.example.com:443", PAGE),
        ("http://ui.example.com:80", "http://ui.example.com"),
        ("https://ui.example.com/", PAGE),
        ("https://ui.example.com:8443", "https://ui.example.com:8443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_page_of_an_origin_may_read_even_what_is_refused(configured: str, origin: str) -> None:
    answer = client("https://other.example.com", configured).get("/v2/", headers={"Origin": origin})
    assert answer.status_code == 401
    found = permissions(answer)
    assert found["Allow-Origin"] == origin
    assert found["Allow-Credentials"] == "true"
    exposed = set(found["Expose-Headers"].split(", "))
    assert exposed > {"Docker-Content-Digest", "Link", "Location", "Range", "WWW-Authenticate", "X-Request-Id"}
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "null",
        "*",
        "https://evil.example.com",
        "http://ui.example.com",
        "https://ui.example.com:8443",
        "https://ui.example.com.evil.com",
        "https://ui.example.com/",
        "https://UI.example.com",
        f"{PAGE} https://evil.example.com",
        f"{PAGE}, https://evil.example.com",
    ],
)
def test_no_other_page_may(origin: str | None) -> None:
    """What is said to one origin is not for another, nor is a cache to think so."""
    headers = {"Origin": origin} if origin is not None else {}
    answer = client(PAGE).get("/v2/", headers=headers)
    assert permissions(answer) == {}
    assert answer.headers["Vary"] == "Origin"
    preflight = client(PAGE).options("/v2/", headers=PREFLIGHT | headers)
    assert preflight.status_code == 401
    assert permissions(preflight) == {}


def test_any_page_may_but_not_with_the_browsers_credentials() -> None:
    answer = client("*").get("/v2/", headers={"Origin": "https://anywhere.example.com"})
    found = permissions(answer)
    assert found.keys() == {"Allow-Origin", "Expose-Headers"}
    assert found["Allow-Origin"] == "*"
    assert "Vary" not in answer.headers
    assert permissions(client("*").get("/v2/")) == {}


@pytest.mark.parametrize("origins", [(PAGE,), ("*",)])
@pytest.mark.parametrize("path", ["/v2/", "/nowhere"])
def test_a_browser_may_ask_without_credentials(origins: tuple[str, ...], path: str) -> None:
    answer = client(*origins).options(path, headers=PREFLIGHT | {"Origin": PAGE})
    assert (answer.status_code, answer.data) == (204, b"")
    assert "Content-Type" not in answer.headers
    found = permissions(answer)
    assert set(found["Allow-Methods"].split(", ")) == {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
    assert {"Authorization", "Content-Type", "Content-Range", "Range"} < set(found["Allow-Headers"].split(", "))
    assert int(found["Max-Age"]) > 0


def test_what_only_looks_like_a_browsers_question_has_to_log_in() -> None:
    for headers in ({"Origin": PAGE}, {"Access-Control-Request-Method": "PUT"}):
        assert client(PAGE).options("/v2/", headers=headers).status_code == 401
    assert client(PAGE).put("/v2/", headers=PREFLIGHT | {"Origin": PAGE}).status_code == 401
