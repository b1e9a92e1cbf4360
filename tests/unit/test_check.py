"""The check: 204, 401 or 403 and nothing else; by the gate; and without a trace of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client, EnvironBuilder

from registry import create_app
from registry.auth.identity import Identity, StoreUnavailable
from registry.config import load
from registry.errors import RequestRefused
from registry.inline import INLINE, NOT_INLINE
from tests.support.users import basic, bearer, htpasswd

PASSWORDS = {"alice": "alice's password", "bob": "bob's"}
ALICE, BOB = (basic(name, password) for name, password in PASSWORDS.items())
RULES = {
    "repositories": {
        "team/**": {"policies": [{"users": ["alice"], "actions": ["read"]}]},
        "public/**": {"anonymousPolicy": ["read"]},
    }
}
PROXY = "192.0.2.1"
FROM_PROXY = {"REMOTE_ADDR": PROXY}
Answer = tuple[int, dict[str, str]]


def application(directory: Path, **config: Any) -> Flask:
    """Build what trusts one proxy."""
    path = directory / "config.json"
    storage, server = {"rootDirectory": str(directory / "data")}, config.pop("server", {})
    fixed = {"storage": storage, "server": {"trustedProxies": [PROXY]} | server}
    path.write_text(json.dumps(fixed | config))
    return create_app(load(str(path)))


@pytest.fixture
def guarded(tmp_path: Path) -> Flask:
    auth = {"htpasswd": {"path": str(htpasswd(tmp_path / "users", PASSWORDS))}, "token": {}}
    limits = {"rate": 1, "methods": [{"method": "GET", "rate": 1}]}
    return application(
        tmp_path,
        http={"auth": auth, "accessControl": RULES, "ratelimit": limits},
        log={"audit": str(tmp_path / "audit.jsonl")},
    )


def check(app: Flask, name: str, headers: Mapping[str, str] | None = None) -> Answer:
    answer = Client(app).get(f"/v2/_check/pull/{name}", headers=headers, environ_base=FROM_PROXY)
    assert answer.data == b""
    return answer.status_code, dict(answer.headers.items())


def test_an_open_registry(tmp_path: Path) -> None:
    for name in ("a", "team/app", "a" * 255):
        status, headers = check(application(tmp_path), name)
        assert (status, headers["X-Accel-Expires"]) == (204, "4")
        assert headers["X-Blob-Cache-Control"] == "max-age=31536000, immutable"


@pytest.mark.parametrize("name", ["", "UPPER", "a//b", "a/", "..", ".pierhead", "a/blobs", "a" * 256, "a%0ab"])
def test_what_is_no_name(tmp_path: Path, name: str) -> None:
    assert check(application(tmp_path), name)[0] == 403


@pytest.mark.parametrize(
    ("name", "headers", "status"),
    [
        ("team/app", ALICE, 204),
        ("team/app", BOB, 403),
        ("team/app", {}, 401),
        ("team/app", basic("alice", "wrong"), 401),
        ("team/app", basic("", ""), 401),
        ("team/app", bearer("nonsense"), 401),
        ("team/app", {"Authorization": "Nonsense"}, 401),
        ("team/app", {"Authorization": "Basic ???"}, 401),
        ("public/app", {}, 204),
        ("public/app", BOB, 204),
        ("public/app", basic("alice", "wrong"), 401),
        ("other", ALICE, 403),
    ],
)
def test_who_may(guarded: Flask, name: str, headers: dict[str, str], status: int) -> None:
    for _ in range(2):  # unknown, and remembered
        found, given = check(guarded, name, headers)
        assert found == status
        if status == 204:
            assert given["X-Blob-Cache-Control"].startswith("private" if name == "team/app" else "max-age")


def test_a_lock_out_is_a_refusal(guarded: Flask) -> None:
    """Guessing by the check counts; what a registry says of it, it says to the request itself."""
    statuses = [check(guarded, "team/app", basic("alice", f"wrong {number}"))[0] for number in range(12)]
    assert set(statuses[:10]) == {401}
    assert statuses[-1] == 403
    assert check(guarded, "team/app", ALICE)[0] == 403
    assert Client(guarded).get("/v2/", headers=ALICE, environ_base=FROM_PROXY).status_code == 429


@pytest.mark.parametrize("error", [StoreUnavailable("down"), RequestRefused("TOOMANYREQUESTS", 429, "slowly")])
def test_what_cannot_be_told_is_a_refusal(guarded: Flask, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(guarded.extensions["pierhead"].gate, "identify", fail)
    assert check(guarded, "team/app", ALICE)[0] == 403


def test_it_leaves_no_trace(guarded: Flask, tmp_path: Path) -> None:
    for headers in (ALICE, BOB, {}, ALICE, BOB, {}):
        check(guarded, "team/app", headers)
    assert guarded.extensions["pierhead"].metrics.totals().get("requests", 0) == 0
    assert not (tmp_path / "audit.jsonl").exists()
    assert Client(guarded).get("/v2/", headers=ALICE).status_code == 200, "the checks were counted as requests"


@pytest.mark.parametrize(
    ("given", "seconds"), [("30s", "29"), ("2500ms", "1"), ("1s", "0"), ("900ms", "0"), ("0s", "0")]
)
def test_for_how_long(tmp_path: Path, given: str, seconds: str) -> None:
    """nginx serves what it remembers to the end of the last whole second, which is not to be too long."""
    app = application(tmp_path, server={"authCache": given})
    assert check(app, "a")[1]["X-Accel-Expires"] == seconds


def test_nobody_remembers_for_longer_whom_a_directory_vouched_for(
    guarded: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry itself relies on its last word for `server.authCache`."""
    found = Identity("alice", scheme="ldap")
    monkeypatch.setattr(guarded.extensions["pierhead"].gate, "plain_reader", lambda *_: found)
    assert check(guarded, "team/app", ALICE)[1]["X-Accel-Expires"] == "0"


def test_in_the_main_thread_nobody_is_asked(guarded: Flask) -> None:
    def ask(headers: Mapping[str, str]) -> object:
        environ = EnvironBuilder("/v2/_check/pull/team/app", headers=list(headers.items()), environ_base=FROM_PROXY)
        said: list[str] = []
        parts = guarded.wsgi_app(environ.get_environ() | {INLINE: True}, lambda status, *_: said.append(status))  # type: ignore[arg-type]
        return parts if parts is NOT_INLINE else said

    assert ask(ALICE) is NOT_INLINE
    check(guarded, "team/app", ALICE)
    assert ask(ALICE) == ["204 No Content"]
    assert ask({}) is NOT_INLINE


def test_what_lies_beside_it_is_for_the_routes(tmp_path: Path) -> None:
    client = Client(application(tmp_path))
    for path in ("/v2/_check/pull", "/v2/_check/", "/v2/_check/push/a", "/_check/pull/a"):
        assert client.get(path, environ_base=FROM_PROXY).status_code in (400, 404, 405)


def test_only_a_trusted_proxy_may_ask(guarded: Flask, tmp_path: Path) -> None:
    """Anybody else would have an answer that is not counted, and is not in the audit log."""
    for address, status in (("192.0.2.2", 404), ("192.0.2.2", 429), ("", 404)):
        answer = Client(guarded).get("/v2/_check/pull/team/app", headers=ALICE, environ_base={"REMOTE_ADDR": address})
        assert answer.status_code == status
    assert guarded.extensions["pierhead"].metrics.totals()["requests"] == 3
    assert (tmp_path / "audit.jsonl").exists()
