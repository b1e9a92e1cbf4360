"""Pushes by the express way end as those by the routes do, byte for byte, also where they fail."""

from __future__ import annotations

import errno
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from registry import create_app
from registry.config import load
from registry.inline import INLINE, NOT_INLINE
from registry.logs import REQUEST_ID
from tests.support.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER, Document, descriptor_of, digest_of, image, index
from tests.support.users import basic, bearer, htpasswd

NAME = "team/app"
CONFIG, LAYER = b"{}", b"a layer"
MANIFEST = image(descriptor_of(CONFIG, OCI_CONFIG), [descriptor_of(LAYER, OCI_LAYER)])
PASSWORDS = {"alice": "alice's password", "bob": "bob's", "carol": "carol's"}
RULES = {
    "repositories": {
        "team/**": {
            "policies": [
                {"users": ["alice"], "actions": ["read", "create", "update"]},
                {"users": ["bob"], "actions": ["read"]},
                {"users": ["carol"], "actions": ["read", "create"]},
            ]
        },
        "public/**": {"anonymousPolicy": ["read", "create"]},
    }
}
_SESSION = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Headers = Mapping[str, str]


class Told(NamedTuple):
    """What a client is told: status, headers in their order, body. Sessions are called alike."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def location(self) -> str:
        return dict(self.headers)["Location"]


class Way:
    """One of the ways into an application of its own, and what it has counted."""

    def __init__(self, directory: Path, *, express: bool, config: Any) -> None:
        directory.mkdir()
        path = directory / "config.json"
        storage = {"rootDirectory": str(directory / "data")} | config.get("storage", {})
        path.write_text(json.dumps(config | {"storage": storage}))
        app = create_app(load(str(path)))
        self.registry = app.extensions["pierhead"]
        way: Any = app.wsgi_app._app  # type: ignore[attr-defined]  # within what answers the check
        self.express = way
        self.way = way if express else way._app
        self.session = ""

    def ask(self, method: str, target: str, body: bytes = b"", headers: Headers | None = None, **extra: Any) -> Told:
        """Make a request; `SESSION` in the target is the session that the last answer told of."""
        path, _, query = target.replace("SESSION", self.session).partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SCRIPT_NAME": "",
            "SERVER_NAME": "registry.test",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "wsgi.url_scheme": "http",
            REQUEST_ID: "a-request-id",
        }
        for name, value in (headers or {}).items():
            key = name.upper().replace("-", "_")
            environ[key if key.startswith("CONTENT_") and key != "CONTENT_RANGE" else f"HTTP_{key}"] = value
        environ = {key: value for key, value in (environ | extra).items() if value is not None}
        said: list[Any] = []
        parts = self.way(environ, lambda status, headers, _=None: said.extend((status, headers)))
        if parts is NOT_INLINE:
            return Told("not inline", [], b"")
        told = b"".join(parts)
        found = _SESSION.search(dict(said[1]).get("Location", ""))
        self.session = found[0] if found else self.session
        plain = [(name, _SESSION.sub("SESSION", value)) for name, value in said[1]]
        return Told(said[0], plain, _SESSION.sub("SESSION", told.decode()).encode())

    @property
    def counted(self) -> dict[str, int]:
        return dict(self.registry.metrics.totals())


class Both:
    """Both ways, each into an application of its own; what is asked of one is asked of the other."""

    def __init__(self, directory: Path, config: Any) -> None:
        self.ways = [Way(directory / name, express=name == "express", config=config) for name in ("express", "routes")]

    def ask(self, method: str, target: str, body: bytes = b"", headers: Headers | None = None, **extra: Any) -> Told:
        """Make a request both ways; fail unless both answer alike."""
        told = [way.ask(method, target, body, headers, **extra) for way in self.ways]
        assert told[0] == told[-1]
        return told[0]

    def push(self, name: str = NAME, headers: Headers | None = None) -> None:
        """Push the blobs of the image."""
        for data in (CONFIG, LAYER):
            told = self.ask("POST", f"/v2/{name}/blobs/uploads/?digest={digest_of(data)}", data, headers)
            assert told.status == "201 CREATED"

    def put(
        self, reference: str = "1", manifest: Document = MANIFEST, headers: Headers | None = None, **extra: Any
    ) -> Told:
        """Push a manifest."""
        headers = {"Content-Type": manifest.media_type, **(headers or {})}
        return self.ask("PUT", f"/v2/{NAME}/manifests/{reference}", manifest.body, headers, **extra)

    def only_express(self) -> None:
        """Make sure that from here on no route answers."""
        self.ways = self.ways[:1]
        self.ways[0].express._app = None


MakeBoth = Callable[..., Both]


@pytest.fixture
def make(tmp_path: Path) -> MakeBoth:
    return lambda **config: Both(tmp_path, config)


@pytest.fixture
def both(make: MakeBoth) -> Both:
    return make()


@pytest.fixture
def guarded(make: MakeBoth, tmp_path: Path) -> Both:
    users = str(htpasswd(tmp_path / "users", PASSWORDS))
    auth = {"htpasswd": {"path": users}, "token": {}}
    return make(http={"auth": auth, "accessControl": RULES})


BEGIN = f"/v2/{NAME}/blobs/uploads/"
SESSION = f"{BEGIN}SESSION"
DIGEST = digest_of(LAYER)
CHILD = index([descriptor_of(MANIFEST.body, MANIFEST.media_type)])

#: Requests, made one after the other; (method, target, body, headers).
Step = tuple[str, str, bytes, Headers]
UPLOADS: dict[str, list[Step]] = {
    "in two requests": [("POST", BEGIN, b"", {}), ("PUT", f"{SESSION}?digest={DIGEST}", LAYER, {})],
    "escaped": [("POST", BEGIN, b"", {}), ("PUT", f"{SESSION}?digest={DIGEST.replace(':', '%3A')}", LAYER, {})],
    "sha512": [("POST", BEGIN, b"", {}), ("PUT", f"{SESSION}?digest={digest_of(LAYER, 'sha512')}", LAYER, {})],
    "streamed": [
        ("POST", BEGIN, b"", {}),
        ("PATCH", SESSION, LAYER, {}),
        ("GET", SESSION, b"", {}),
        ("PUT", f"{SESSION}?digest={DIGEST}", b"", {}),
    ],
    "in pieces": [
        ("POST", BEGIN, b"", {}),
        ("PATCH", SESSION, LAYER[:3], {"Content-Range": "0-2"}),
        ("PATCH", SESSION, LAYER[:3], {"Content-Range": "0-2"}),
        ("PATCH", SESSION, LAYER[3:], {}),
        ("PUT", f"{SESSION}?digest={DIGEST}", b"", {"Content-Range": "0-0"}),
    ],
    "at once": [("POST", f"{BEGIN}?digest={DIGEST}", LAYER, {}), ("POST", f"{BEGIN}?digest={DIGEST}", LAYER, {})],
    "at once, other content": [("POST", f"{BEGIN}?digest={DIGEST}", b"other", {}), ("POST", BEGIN, b"", {})],
    "other content": [
        ("POST", BEGIN, b"", {}),
        ("PUT", f"{SESSION}?digest={DIGEST}", b"other", {}),
        ("PUT", f"{SESSION}?digest={DIGEST}", LAYER, {}),
    ],
    "twice": [
        ("POST", BEGIN, b"", {}),
        ("PUT", f"{SESSION}?digest={DIGEST}", LAYER, {}),
        ("PUT", f"{SESSION}?digest={DIGEST}", LAYER, {}),
        ("PATCH", SESSION, LAYER, {}),
    ],
    "no such session": [("PUT", f"{BEGIN}no-session?digest={DIGEST}", LAYER, {}), ("PATCH", f"{BEGIN}%2e", LAYER, {})],
    "nothing": [
        ("POST", BEGIN, b"", {}),
        ("PATCH", SESSION, b"", {}),
        ("PUT", f"{SESSION}?digest={digest_of(b'')}", b"", {}),
    ],
    "no digest": [("POST", BEGIN, b"", {}), ("PUT", SESSION, LAYER, {}), ("PUT", f"{SESSION}?digest=", LAYER, {})],
    "bad digests": [
        ("POST", BEGIN, b"", {}),
        *(
            ("PUT", f"{SESSION}?digest={digest}", LAYER, {})
            for digest in ("sha256:1", "md5:1", DIGEST.upper(), f"{DIGEST}&digest={DIGEST}", f"{DIGEST}&x=1", "sha256:")
        ),
    ],
    "other queries": [
        ("POST", f"{BEGIN}?mount={DIGEST}", b"", {}),
        ("POST", f"{BEGIN}?mount={DIGEST}&from=team/other", b"", {}),
        ("POST", f"{BEGIN}?digest-algorithm=sha512", b"", {}),
        ("POST", f"{BEGIN}?x=1", b"", {}),
        ("PATCH", f"{SESSION}?x=1", LAYER, {}),
        ("PATCH", f"{SESSION}?digest={DIGEST}", LAYER, {}),
    ],
    "odd paths": [
        (method, path, LAYER, {})
        for method in ("POST", "PUT", "PATCH")
        for path in (
            "/v2/Team/blobs/uploads/",
            "/v2/blobs/uploads/",
            "/v2//blobs/uploads/",
            f"/v2/{NAME}/blobs/uploads",
            f"/v2/{NAME}/blobs/uploads/a/b",
            f"/v2/{NAME}/blobs/blobs/uploads/x?digest={DIGEST}",
            f"/v2/{NAME}//blobs/uploads/x?digest={DIGEST}",
            f"/v2/{NAME}\n/blobs/uploads/x",
            f"/v2/{NAME}/blobs/{DIGEST}",
            f"/v2/{NAME}/tags/list",
            f"/v2/{NAME}/manifests/",
            f"/v2/{NAME}/manifests/a/b",
            "/v2/manifests/1",
            "/v2/",
            "/",
        )
    ],
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_uploads_end_alike(both: Both, kind: str) -> None:
    for method, target, body, headers in UPLOADS[kind]:
        both.ask(method, target, body, headers)
    express, routes = (way.counted for way in both.ways)
    assert express == routes


@pytest.mark.parametrize("kind", ["in two requests", "escaped", "sha512", "at once", "nothing"])
def test_plain_uploads_take_the_express(both: Both, kind: str) -> None:
    both.only_express()
    for method, target, body, headers in UPLOADS[kind]:
        assert both.ask(method, target, body, headers).status in ("201 CREATED", "202 ACCEPTED")


def test_manifests_by_tag_and_digest(both: Both) -> None:
    both.push()
    assert both.put().status == "201 CREATED"
    assert both.put(MANIFEST.digest).status == "201 CREATED"
    assert both.put("all", CHILD).status == "201 CREATED"
    subject = descriptor_of(MANIFEST.body, MANIFEST.media_type)
    referrer = image(descriptor_of(CONFIG, OCI_CONFIG), [descriptor_of(LAYER, OCI_LAYER)], subject=subject)
    assert dict(both.put(referrer.digest, referrer).headers)["OCI-Subject"] == MANIFEST.digest
    express, routes = (way.counted for way in both.ways)
    assert express == routes
    both.only_express()
    assert both.put("2").status == "201 CREATED"


WRONG: dict[str, dict[str, Any]] = {
    "tag": {"reference": ".tag"},
    "digest": {"reference": digest_of(b"other")},
    "malformed digest": {"reference": "sha256:1"},
    "no JSON": {"manifest": Document(b"no", MANIFEST.media_type)},
    "other type": {"manifest": Document(MANIFEST.body, OCI_INDEX)},
    "no type": {"manifest": Document(MANIFEST.body, "")},
    "type with parameters": {"manifest": Document(MANIFEST.body, f"{MANIFEST.media_type.upper()}; charset=utf-8")},
    "nonsense for a type": {"manifest": Document(MANIFEST.body, "; charset")},
    "what it needs is missing": {"manifest": image(descriptor_of(b"missing", OCI_CONFIG), [])},
    "too large": {"manifest": Document(b" " * (4 * 1024 * 1024 + 1), MANIFEST.media_type)},
    "cut short": {"CONTENT_LENGTH": "100000"},
    "no length": {"CONTENT_LENGTH": None},
    "If-Match": {"headers": {"If-Match": '"other"'}},
    "If-None-Match": {"headers": {"If-None-Match": "*"}},
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_with_a_manifest_is_told_alike(both: Both, kind: str) -> None:
    both.push()
    both.put("1")
    both.put(**WRONG[kind])
    express, routes = (way.counted for way in both.ways)
    assert express == routes


@pytest.mark.parametrize("user", [None, "alice", "bob", "carol", "nobody", "token", "token of bob"])
def test_nobody_may_more_by_express(guarded: Both, user: str | None) -> None:
    headers: Headers = {}
    if user and user.startswith("token"):
        name = user.partition(" of ")[2] or "alice"
        token = "/v2/token?service=pierhead&scope=repository:team/app:pull,push"
        tokens = [json.loads(way.ask("GET", token, b"", _login(name)).body)["token"] for way in guarded.ways]
        headers = bearer(tokens[0])
        for way, own in zip(guarded.ways, tokens, strict=True):
            way.ask = _with(way.ask, bearer(own))  # type: ignore[method-assign]
    elif user:
        headers = _login(user)
    for name in (NAME, "public/app", "nobody/app"):
        guarded.ask("POST", f"/v2/{name}/blobs/uploads/", b"", headers)
        for data in (CONFIG, LAYER):
            guarded.ask("POST", f"/v2/{name}/blobs/uploads/?digest={digest_of(data)}", data, headers)
        content_type = {"Content-Type": MANIFEST.media_type}
        other = image(descriptor_of(CONFIG, OCI_CONFIG), [])
        for manifest in (MANIFEST, other, other):  # create, update, and the same again
            guarded.ask("PUT", f"/v2/{name}/manifests/1", manifest.body, {**headers, **content_type})


def _login(user: str) -> dict[str, str]:
    return basic(user, PASSWORDS.get(user, "password"))


def _with(ask: Callable[..., Told], credentials: Headers) -> Callable[..., Told]:
    def asked(method: str, target: str, body: bytes = b"", headers: Headers | None = None, **extra: Any) -> Told:
        return ask(method, target, body, {**(headers or {}), **credentials}, **extra)

    return asked


def test_whose_login_is_known_takes_the_express(guarded: Both) -> None:
    guarded.push(headers=_login("alice"))
    guarded.only_express()
    assert guarded.put(headers=_login("alice")).status == "201 CREATED"


def test_a_registry_that_is_read_only(make: MakeBoth) -> None:
    both = make(http={"readOnly": True})
    assert both.ask("POST", BEGIN).status == "405 METHOD NOT ALLOWED"
    assert both.put().status == "405 METHOD NOT ALLOWED"


def test_immutable_tags(make: MakeBoth) -> None:
    both = make(storage={"immutableTags": [{"repositories": ["**"], "patterns": ["^1$"]}]})
    both.push()
    assert both.put().status == "201 CREATED"
    assert both.put(manifest=image(descriptor_of(CONFIG, OCI_CONFIG), [])).status == "403 FORBIDDEN"


def test_quotas(make: MakeBoth) -> None:
    both = make(storage={"quotas": {"team": 20}})
    assert both.ask("POST", f"{BEGIN}?digest={DIGEST}", LAYER).status == "201 CREATED"
    large = bytes(100)
    assert both.ask("POST", f"{BEGIN}?digest={digest_of(large)}", large).status == "403 FORBIDDEN"


def test_rates_are_counted_once(make: MakeBoth) -> None:
    both = make(http={"ratelimit": {"methods": [{"method": "POST", "rate": 2}]}})
    wrong = f"{BEGIN}?digest={digest_of(b'other')}"
    said = [both.ask("POST", wrong, LAYER).status for _ in range(3)]
    assert said == ["400 BAD REQUEST", "400 BAD REQUEST", "429 TOO MANY REQUESTS"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.ENOTDIR])
def test_what_the_system_refuses(both: Both, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "no")

    for way in both.ways:
        monkeypatch.setattr(way.registry.controller.store(NAME), "begin_upload", fail)
    assert both.ask("POST", BEGIN).status[0] == "5"


def test_a_bug_is_told_and_logged_as_one(
    both: Both, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for way in both.ways:
        monkeypatch.setattr(way.registry.controller.store(NAME), "put_manifest", lambda *_, **__: 1 / 0)
    assert both.put().status == "500 INTERNAL SERVER ERROR"
    assert caplog.text.count("ZeroDivisionError") == len(both.ways)


def test_with_an_audit_log_the_routes_take_pushes(make: MakeBoth, tmp_path: Path) -> None:
    both = make(log={"audit": str(tmp_path / "audit")})
    both.push()
    both.put()
    lines = (tmp_path / "audit").read_text().splitlines()
    done = [entry for entry in map(json.loads, lines) if entry["result"] == "done"]
    assert len(done) == 3 * len(both.ways)


def test_inline_nothing_is_pushed(both: Both) -> None:
    extra: dict[str, Any] = {INLINE: True}
    assert both.ways[0].ask("POST", BEGIN, **extra).status == "not inline"
    assert both.ways[0].counted["requests"] == 0
