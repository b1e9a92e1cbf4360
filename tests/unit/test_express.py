"""The express way answers as the routes do, byte for byte; and it is the one that answers what is plainly asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client, EnvironBuilder

from blueprints.express import Express
from registry import create_app
from registry.config import load
from registry.inline import INLINE, NOT_INLINE
from registry.logs import REQUEST_ID
from tests.support.oci import OCI_CONFIG, OCI_LAYER, descriptor_of, digest_of, image
from tests.support.users import basic, bearer, htpasswd

NAME = "team/app"
LAYER, LARGE = b"a layer", bytes(200_000)
PASSWORDS = {"alice": "alice's password", "bob": "bob's"}
RULES = {
    "repositories": {
        "team/**": {"policies": [{"users": ["alice"], "actions": ["read", "create", "update"]}]},
        "public/**": {"anonymousPolicy": ["read"], "policies": [{"users": ["alice"], "actions": ["read", "create"]}]},
    }
}
DIGEST = digest_of(LAYER)
MANIFEST = image(descriptor_of(b"{}", OCI_CONFIG), [descriptor_of(data, OCI_LAYER) for data in (LAYER, LARGE)])

#: (status, headers, body); the first two are what WSGI's start_response gets.
Answer = tuple[str, list[tuple[str, str]], bytes]


class Place:
    """An application with an image in some repositories, and both ways into it."""

    def __init__(self, directory: Path, **config: Any) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({"storage": {"rootDirectory": str(directory / "data")}} | config))
        self.app: Flask = create_app(load(str(path)))
        self.way: Any = self.app.wsgi_app._app  # type: ignore[attr-defined]  # within what answers the check

    def push(self, name: str = NAME, **headers: str) -> None:
        client = Client(self.app)
        for data in (b"{}", LAYER, LARGE):
            url = f"/v2/{name}/blobs/uploads/?digest={digest_of(data)}"
            assert client.post(url, data=data, headers=headers).status_code == 201
        for tag in ("0", "1"):
            put = client.put(
                f"/v2/{name}/manifests/{tag}", data=MANIFEST.body, content_type=MANIFEST.media_type, headers=headers
            )
            assert put.status_code == 201

    def both(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> tuple[Answer, Answer]:
        """Return the answers by way of the express, and of the routes."""
        return self.ask(self.way, method, path, headers), self.ask(self.way._app, method, path, headers)

    def ask(  # noqa: PLR0913
        self,
        app: Any,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        inline: bool = False,
        address: str = "127.0.0.1",
    ) -> Answer:
        environ = EnvironBuilder(path, method=method, headers=list((headers or {}).items())).get_environ()
        environ |= {REQUEST_ID: "a-request-id", "REMOTE_ADDR": address} | ({INLINE: True} if inline else {})
        said: list[Any] = []
        parts = app(environ, lambda status, headers, _=None: said.extend((status, headers)))
        body = b"".join(parts)
        if parts is NOT_INLINE:
            return "not inline", [], b""
        return said[0], said[1], body

    @property
    def counted(self) -> dict[str, int]:
        return dict(self.app.extensions["pierhead"].metrics.totals())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.push()
    return made


@pytest.fixture
def guarded(tmp_path: Path) -> Place:
    auth = {"htpasswd": {"path": str(htpasswd(tmp_path / "users", PASSWORDS))}, "token": {}, "apikey": True}
    made = Place(tmp_path, http={"auth": auth, "accessControl": RULES})
    for name in (NAME, "public/app"):
        made.push(name, **basic("alice", PASSWORDS["alice"]))
    return made


#: Queries of lists of tags: those that the express knows, and others.
LISTS = ["n=1", "n=0", "n=1&last=1", "last=1", "last=", "n=2&last=0", "n=", "n=x", "n=-1", "n=1&last=%31", "last=1&n=1"]
LISTS += ["n=1&n=2", "n=1&", "&n=1", "n=1&last=0&last=1", "x=1", f"n={'9' * 18}", f"n={'9' * 19}"]
REFERENCES = ["manifests/1", f"manifests/{MANIFEST.digest}", f"blobs/{DIGEST}", f"blobs/{digest_of(LARGE)}"]
PATHS = [
    *(f"/v2/{NAME}/{reference}" for reference in REFERENCES),
    f"/v2/{NAME}/manifests/2",
    f"/v2/{NAME}/manifests/sha256:1",
    f"/v2/{NAME}/manifests/{digest_of(b'no')}",
    f"/v2/{NAME}/manifests/",
    f"/v2/{NAME}/manifests/1/",
    f"/v2/{NAME}/manifests/.",
    f"/v2/{NAME}/blobs/{digest_of(b'no')}",
    f"/v2/{NAME}/blobs/{DIGEST.upper()}",
    f"/v2/{NAME}/blobs/uploads",
    f"/v2/{NAME}/blobs/uploads/",
    f"/v2/{NAME}/tags/list",
    *(f"/v2/{NAME}/tags/list?{query}" for query in LISTS),
    "/v2/team/none/tags/list",
    "/v2/_catalog",
    *(f"/v2/_catalog?{query}" for query in (*LISTS, "last=team/app", "n=1&last=team%2F", "last=team%2fapp", "last=%2")),
    "/v2/_catalog/",
    "/v2/?n=1",
    "/v2/Team/tags/list",
    "/v2/tags/list",
    f"/v2/{NAME}/manifests/1?n=1&digest=x",
    f"/v2//{NAME}/manifests/1",
    f"/v2/{NAME}//manifests/1",
    f"/v2/{NAME}/%2e%2e/app/manifests/1",
    f"/v2/team%2fapp/blobs/{DIGEST}",
    "/v2/Team/manifests/1",
    "/v2/t%C3%A4m/manifests/1",
    "/v2/manifests/1",
    "/v2/blobs/manifests/1",
    "/v2/a/manifests/b/manifests/1",
    f"/v2/a/blobs/manifests/blobs/{DIGEST}",
    f"/oras/artifacts/v1/{NAME}/manifests/{MANIFEST.digest}/referrers",
    "/v2/",
    "/",
]
HEADERS: list[dict[str, str]] = [
    {},
    {"Range": "bytes=1-2"},
    {"Range": "bytes=900000-"},
    {"If-None-Match": f'"{DIGEST}"'},
    {"If-None-Match": f'"{MANIFEST.digest}"'},
    {"If-None-Match": "*"},
    {"If-Range": '"other"', "Range": "bytes=1-2"},
    {"Accept": "text/html"},
    {"Origin": "https://elsewhere.example"},
    {"Authorization": "Basic nonsense"},
    {"X-Forwarded-For": "1.2.3.4"},
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_both_answer_alike(place: Place, method: str, path: str) -> None:
    for headers in HEADERS if method in ("GET", "HEAD") else [{}]:
        if method == "DELETE" and not path.endswith("manifests/2"):
            continue  # the second one would find nothing
        express, routes = place.both(method, path, headers)
        assert express == routes, headers


def without_routes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Iterator[bytes]:
        raise AssertionError("a route was asked")

    monkeypatch.setattr(place.way, "_app", refuse)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_plain_pulls_take_the_express(
    place: Place, monkeypatch: pytest.MonkeyPatch, method: str, reference: str
) -> None:
    without_routes(place, monkeypatch)
    assert place.ask(place.way, method, f"/v2/{NAME}/{reference}")[0] == "200 OK"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_both_count_alike(place: Place, method: str, reference: str) -> None:
    counts = []
    for way in (place.way, place.way._app):
        before = place.counted
        place.ask(way, method, f"/v2/{NAME}/{reference}")
        counts.append({name: number - before[name] for name, number in place.counted.items()})
    assert counts[0] == counts[1]
    assert counts[0]["requests"] == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", PATHS)
def test_inline_it_is_the_same_answer_or_none(place: Place, method: str, path: str) -> None:
    place.ask(place.way, method, path)  # so that it is in memory, if ever
    for headers in HEADERS:
        inline = place.ask(place.way, method, path, headers, inline=True)
        assert inline in (place.ask(place.way._app, method, path, headers), ("not inline", [], b""))
    if path.removeprefix(f"/v2/{NAME}/") in REFERENCES and not (method == "GET" and digest_of(LARGE) in path):
        assert place.ask(place.way, method, path, inline=True)[0] == "200 OK"


def test_inline_nothing_is_read_that_is_not_in_memory(place: Place, tmp_path: Path) -> None:
    fresh = Place(tmp_path)
    for path in (f"/v2/{NAME}/manifests/1", f"/v2/{NAME}/blobs/{digest_of(LARGE)}"):
        assert fresh.ask(fresh.way, "GET", path, inline=True)[0] == "not inline"
    assert fresh.ask(fresh.way, "GET", f"/v2/{NAME}/manifests/1")[0] == "200 OK"
    assert fresh.ask(fresh.way, "GET", f"/v2/{NAME}/manifests/1", inline=True)[0] == "200 OK"
    place.push()
    index = tmp_path / "data" / NAME / "index.json"
    index.write_bytes(index.read_bytes() + b"\n")
    assert fresh.ask(fresh.way, "GET", f"/v2/{NAME}/manifests/1", inline=True)[0] == "not inline"


def test_inline_no_index_is_read_for_what_it_may_list(place: Place, tmp_path: Path) -> None:
    """A digest without an entry can be a child: to know that takes all indexes, which a thread has to read first."""
    fresh, missing = Place(tmp_path), f"/v2/{NAME}/manifests/{digest_of(b'missing')}"
    fresh.ask(fresh.way, "GET", f"/v2/{NAME}/manifests/1")
    assert fresh.ask(fresh.way, "HEAD", missing, inline=True)[0] == "not inline"
    assert fresh.ask(fresh.way, "HEAD", missing)[0] == "404 NOT FOUND"
    assert fresh.ask(fresh.way, "HEAD", missing, inline=True)[0] == "404 NOT FOUND"


def test_what_is_missing_is_told_by_express(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = digest_of(b"missing")
    place.ask(place.way, "GET", f"/v2/{NAME}/manifests/1")
    without_routes(place, monkeypatch)
    for method in ("GET", "HEAD"):
        for path in (f"/v2/{NAME}/manifests/missing", f"/v2/team/none/manifests/{missing}"):
            assert place.ask(place.way, method, path)[0] == "404 NOT FOUND"
    for path in (f"/v2/{NAME}/manifests/missing", f"/v2/{NAME}/blobs/{missing}", f"/v2/team/none/blobs/{missing}"):
        assert place.ask(place.way, "HEAD", path, inline=True)[0] == "404 NOT FOUND"


def test_a_blob_in_the_bin_comes_back(place: Place) -> None:
    backend = place.app.extensions["pierhead"].controller.store(NAME).backend
    for method in ("GET", "HEAD"):
        assert backend.bin_blobs(NAME, [digest for digest in backend.list_blobs(NAME) if digest == DIGEST], 0)
        assert place.ask(place.way, method, f"/v2/{NAME}/blobs/{DIGEST}", inline=True)[0] == "not inline"
        assert place.ask(place.way, method, f"/v2/{NAME}/blobs/{DIGEST}")[0] == "200 OK"


Credentials = Callable[[Place], dict[str, str]]


def token(place: Place, user: str) -> str:
    answer = Client(place.app).get("/v2/token?service=pierhead", headers=basic(user, PASSWORDS[user]))
    return str(answer.get_json()["token"])


CREDENTIALS: dict[str, Credentials] = {
    "none": lambda _: {},
    "empty": lambda _: basic("", ""),
    "alice": lambda _: basic("alice", PASSWORDS["alice"]),
    "bob": lambda _: basic("bob", PASSWORDS["bob"]),
    "wrong": lambda _: basic("alice", "wrong"),
    "unknown": lambda _: basic("zoe", "password"),
    "no colon": lambda _: {"Authorization": "Basic YWxpY2U="},
    "not UTF-8": lambda _: {"Authorization": "Basic /zr/"},
    "lower case": lambda _: {"Authorization": basic("alice", PASSWORDS["alice"])["Authorization"].replace("B", "b", 1)},
    "token": lambda place: bearer(token(place, "alice")),
    "token of another": lambda place: bearer(token(place, "bob")),
    "cut token": lambda place: bearer(token(place, "alice")[:-3]),
    "no token": lambda _: bearer("token"),
    "two spaces": lambda _: {"Authorization": basic("alice", PASSWORDS["alice"])["Authorization"].replace(" ", "  ")},
    "other scheme": lambda _: {"Authorization": "Negotiate abc"},
}


@pytest.mark.parametrize("kind", CREDENTIALS)
@pytest.mark.parametrize("inline", [False, True], ids=["", "inline"])
def test_nobody_gets_more_by_express(guarded: Place, kind: str, inline: bool) -> None:
    headers = CREDENTIALS[kind](guarded)
    for name in (NAME, "public/app", "nobody/app"):
        for method in ("GET", "HEAD"):
            for reference in REFERENCES:
                path = f"/v2/{name}/{reference}"
                routes = guarded.ask(guarded.way._app, method, path, headers)
                express = guarded.ask(guarded.way, method, path, headers, inline=inline)
                assert express == routes or (inline and express[0] == "not inline"), (name, reference)


@pytest.mark.parametrize("kind", ["alice", "token"])
def test_who_is_known_takes_the_express(guarded: Place, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    headers = CREDENTIALS[kind](guarded)
    path = f"/v2/{NAME}/manifests/1"
    assert guarded.ask(guarded.way, "GET", path, headers)[0] == "200 OK"
    without_routes(guarded, monkeypatch)
    assert guarded.ask(guarded.way, "GET", path, headers, inline=True)[0] == "200 OK"


def test_a_list_of_all_shows_what_may_be_read(guarded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for credentials in CREDENTIALS.values():
        headers = credentials(guarded)
        for path in ("/v2/_catalog", "/v2/_catalog?n=1", "/v2/"):
            express, routes = guarded.both("GET", path, headers)
            assert express == routes
            assert guarded.ask(guarded.way, "GET", path, headers, inline=True) in (routes, ("not inline", [], b""))
    alice, token_of_bob = CREDENTIALS["alice"](guarded), CREDENTIALS["token of another"](guarded)
    without_routes(guarded, monkeypatch)
    for headers, seen in ((alice, ["public/app", NAME]), (token_of_bob, ["public/app"])):
        body = guarded.ask(guarded.way, "GET", "/v2/_catalog", headers)[2]
        assert json.loads(body) == {"repositories": seen}


def test_whether_this_is_a_registry_is_told_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    without_routes(place, monkeypatch)
    assert place.ask(place.way, "GET", "/v2/", inline=True)[::2] == ("200 OK", b"{}")


def test_a_password_that_was_changed_is_good_no_longer(guarded: Place, tmp_path: Path) -> None:
    headers = basic("alice", PASSWORDS["alice"])
    assert guarded.ask(guarded.way, "GET", f"/v2/{NAME}/manifests/1", headers)[0] == "200 OK"
    htpasswd(tmp_path / "users", {"alice": "another"})
    assert guarded.ask(guarded.way, "GET", f"/v2/{NAME}/manifests/1", headers)[0] == "401 UNAUTHORIZED"


def test_rates_are_limited_by_express_too(tmp_path: Path) -> None:
    place = Place(tmp_path, http={"ratelimit": {"methods": [{"method": "GET", "rate": 1}]}})
    place.push()
    path = f"/v2/{NAME}/manifests/1"
    said = [place.ask(place.way, "GET", path, inline=inline)[0] for inline in (False, False, True)]
    assert said == ["200 OK", "429 TOO MANY REQUESTS", "not inline"]
    assert place.ask(place.way, "GET", path, address="192.0.2.2", inline=True)[0] == "200 OK"


def test_of_other_origins_the_routes_tell(tmp_path: Path) -> None:
    place = Place(tmp_path, http={"allowOrigin": "https://app.example"})
    assert not isinstance(place.way, Express)


def test_the_warning_is_the_same(tmp_path: Path) -> None:
    policy = {"repositories": ["**"], "keepTags": [{"patterns": ["^kept"]}]}
    storage = {"rootDirectory": str(tmp_path / "data"), "retention": {"delay": "1h", "policies": [policy]}}
    place = Place(tmp_path, storage=storage)
    place.push()
    express, routes = place.both("GET", f"/v2/{NAME}/manifests/1")
    assert express == routes
    assert "Warning" in dict(express[1])
    assert place.ask(place.way, "GET", f"/v2/{NAME}/manifests/1", inline=True)[0] == "not inline"


@pytest.mark.parametrize(
    ("config", "script", "base"),
    [
        ({}, "/prefix", "/prefix"),
        ({}, "/prefix/", "/prefix"),
        ({"externalUrl": "https://a.example/x"}, "/prefix", "https://a.example/x"),
    ],
)
def test_the_link_to_the_rest_of_a_list_is_the_one_of_the_routes(
    tmp_path: Path, config: Any, script: str, base: str
) -> None:
    place = Place(tmp_path, http=config)
    place.push()
    environ = EnvironBuilder(f"/v2/{NAME}/tags/list?n=1").get_environ() | {"SCRIPT_NAME": script}
    links: list[str] = []

    def start(_status: str, headers: list[tuple[str, str]], _exception: object = None) -> None:
        links.append(dict(headers)["Link"])

    for way in (place.way, place.way._app):
        b"".join(way(environ | {REQUEST_ID: "a-request-id"}, start))
    assert links[0] == links[1] == f'<{base}/v2/{NAME}/tags/list?n=1&last=0>; rel="next"'
