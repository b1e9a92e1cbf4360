"""The token server over HTTP: who gets a token, in the two ways that clients ask, and what it is good for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import requests
from requests import Response

from tests.conftest import MakeServer
from tests.support.oci import TIMEOUT, Json, Remote
from tests.support.server import Server
from tests.support.users import basic, bearer, htpasswd

PASSWORDS = {"alice": "alice's password", "bob": "bob's & ü %41+"}
RULES = {
    "repositories": {
        "public/**": {"anonymousPolicy": ["read"]},
        "team/**": {"policies": [{"users": ["alice"], "actions": ["read", "create"]}]},
    }
}


def settings(directory: Path, **token: Any) -> Json:
    users = htpasswd(directory / "htpasswd", PASSWORDS)
    auth = {"htpasswd": {"path": str(users)}, "token": {"service": "hub"} | token}
    return {"http": {"auth": auth, "accessControl": RULES}}


@pytest.fixture(scope="module")
def issuing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with users, rules and tokens of its own."""
    directory = tmp_path_factory.mktemp("issuing")
    with Server(directory / "data", config=settings(directory), workers=2) as server:
        yield server


def get(server: Server, headers: Mapping[str, str] | None = None, **query: Any) -> Response:
    return requests.get(f"{server.url}/v2/token", params=query, headers=headers, timeout=TIMEOUT)


def post(server: Server, **form: Any) -> Response:
    return requests.post(f"{server.url}/v2/token", data=form, timeout=TIMEOUT)


def login(server: Server, user: str = "alice", **form: Any) -> Json:
    """Exchange a password for tokens."""
    fields = {"service": "hub", "client_id": "test", "access_type": "offline"} | form
    answer = post(server, grant_type="password", username=user, password=PASSWORDS[user], **fields)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def status(server: Server, token: str, path: str = "", method: str = "GET") -> int:
    """Use a token."""
    return requests.request(method, f"{server.url}/v2/{path}", headers=bearer(token), timeout=TIMEOUT).status_code


def check_refused(answer: Response, status: int, code: str) -> None:
    """Check that a refusal has the form of all, and says nothing that it was told."""
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)
    assert all(password not in answer.text for password in PASSWORDS.values())


# GET


def test_a_user_by_get(issuing: Server) -> None:
    """The answer is what docker, containerd and others read; it is not to be kept."""
    before = datetime.now(UTC) - timedelta(seconds=2)
    answer = get(
        issuing, basic("alice", PASSWORDS["alice"]), service="hub", scope="repository:team/a:pull", account="x"
    )
    document = answer.json()
    assert answer.headers["Cache-Control"] == "no-store"
    assert document["token"] == document["access_token"]
    assert (document["expires_in"], document["token_type"]) == (300, "Bearer")
    assert before <= datetime.fromisoformat(document["issued_at"]) <= datetime.now(UTC)
    assert "refresh_token" not in document
    assert status(issuing, document["token"]) == 200
    assert status(issuing, document["token"], "team/a/blobs/uploads/", "POST") == 202
    assert status(issuing, document["token"], "other/a/blobs/uploads/", "POST") == 403


def test_nobody_in_particular(issuing: Server) -> None:
    """Anonymous gets a token that is good for what anonymous may do; docker needs one for that."""
    document = get(issuing, service="hub", offline_token="true").json()
    assert "refresh_token" not in document
    assert status(issuing, document["token"]) == 200
    assert status(issuing, document["token"], "public/a/tags/list") == 404
    assert status(issuing, document["token"], "team/a/tags/list") == 401


@pytest.mark.parametrize("offline", ["true", "1", "True"])
def test_a_refresh_token_by_get(issuing: Server, offline: str) -> None:
    document = get(issuing, basic("bob", PASSWORDS["bob"]), offline_token=offline, client_id="docker").json()
    renewed = post(issuing, grant_type="refresh_token", refresh_token=document["refresh_token"], service="hub").json()
    assert status(issuing, renewed["access_token"]) == 200


@pytest.mark.parametrize(
    "headers",
    [
        basic("alice", "wrong"),
        basic("nobody", "wrong"),
        basic("alice", ""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": "Negotiate AA"},
        {"Authorization": ""},
    ],
    ids=str,
)
def test_bad_credentials_by_get(issuing: Server, headers: dict[str, str]) -> None:
    """401 that asks for a password: this is where one is shown, not where a token is."""
    answer = get(issuing, headers, service="hub")
    check_refused(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")


@pytest.mark.parametrize(
    "scopes",
    [
        [],
        [""],
        ["repository:a:pull", "repository:b:push,pull"],
        ["repository:a:pull repository:b:pull"],
        ["registry:catalog:*"],
        ["repository(plugin):a:pull"],
        ["repository:localhost:5000/a:pull"],
        ["nonsense", ":", "::::", "*", "\0\n", "ü", "x" * 2000],
    ],
    ids=lambda scopes: ascii(scopes)[:40],
)
def test_scopes_limit_nothing(issuing: Server, scopes: list[str]) -> None:
    """The rules decide when the token is used, so that whatever was asked for does no harm."""
    document = get(issuing, basic("alice", PASSWORDS["alice"]), scope=scopes).json()
    assert document["scope"].split() == " ".join(scopes).split()
    assert status(issuing, document["token"], "team/a/blobs/uploads/", "POST") == 202


def test_another_service(issuing: Server) -> None:
    check_refused(get(issuing, service="other"), 400, "UNSUPPORTED")
    check_refused(post(issuing, grant_type="refresh_token", refresh_token="x", service="other"), 400, "UNSUPPORTED")
    assert get(issuing).status_code == 200
    assert get(issuing, service="").status_code == 200


# POST


def test_a_user_by_post(issuing: Server) -> None:
    for user in PASSWORDS:
        document = login(issuing, user, scope="repository:team/a:pull repository:team/b:push")
        assert document["scope"] == "repository:team/a:pull repository:team/b:push"
        assert document["expires_in"] == 300
        assert status(issuing, document["access_token"]) == 200


@pytest.mark.parametrize("form", [{"access_type": "online"}, {"access_type": None}, {"access_type": "x"}])
def test_without_a_refresh_token(issuing: Server, form: Json) -> None:
    assert "refresh_token" not in login(issuing, **form)


def test_refreshing(issuing: Server) -> None:
    """The refresh token stays the same, and each exchange gives another token."""
    document = login(issuing)
    refresh = document["refresh_token"]
    tokens = {document["access_token"]}
    for _ in range(3):
        answer = post(issuing, grant_type="refresh_token", refresh_token=refresh, service="hub", client_id="other")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json()["refresh_token"] == refresh
        tokens.add(answer.json()["access_token"])
    assert len(tokens) == 4
    assert all(status(issuing, token, "team/a/blobs/uploads/", "POST") == 202 for token in tokens)


def test_each_token_has_its_place(issuing: Server) -> None:
    """A refresh token is no good at the registry, nor an access token for refreshing."""
    document = login(issuing)
    assert status(issuing, document["refresh_token"]) == 401
    check_refused(
        post(issuing, grant_type="refresh_token", refresh_token=document["access_token"]), 401, "UNAUTHORIZED"
    )
    for token in (document["access_token"], document["refresh_token"]):
        check_refused(get(issuing, bearer(token)), 401, "UNAUTHORIZED")
        check_refused(get(issuing, basic("alice", token)), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    "form",
    [
        {"grant_type": "password", "username": "alice", "password": "wrong"},
        {"grant_type": "password", "username": "nobody", "password": "wrong"},
        {"grant_type": "password", "username": "alice\0", "password": PASSWORDS["alice"]},
        {"grant_type": "password", "username": "x" * 9000, "password": "y" * 9000},
        {"grant_type": "refresh_token", "refresh_token": "nonsense"},
        {"grant_type": "refresh_token", "refresh_token": "x" * 40000},
        {"grant_type": "refresh_token", "refresh_token": "ü.\0.\n"},
    ],
    ids=lambda form: ascii(form)[:60],
)
def test_bad_credentials_by_post(issuing: Server, form: Json) -> None:
    answer = post(issuing, service="hub", client_id="c", **form)
    check_refused(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"grant_type": ""},
        {"grant_type": "authorization_code", "code": "x"},
        {"grant_type": "password"},
        {"grant_type": "password", "username": "alice"},
        {"grant_type": "password", "username": "", "password": PASSWORDS["alice"]},
        {"grant_type": "password", "username": "alice", "password": ""},
        {"grant_type": "refresh_token"},
        {"grant_type": "refresh_token", "refresh_token": ""},
        {"grant_type": ["password", "password"], "username": "alice", "password": "x"},
        {"grant_type": "password", "username": ["alice", "bob"], "password": PASSWORDS["alice"]},
        {"grant_type": "password", "username": "alice", "password": PASSWORDS["alice"], "client_id": "x" * 257},
        {"grant_type": "password", "username": "alice", "password": PASSWORDS["alice"], "client_id": "a\nb"},
        {str(number): "x" for number in range(100)},
    ],
    ids=lambda form: ascii(form)[:60],
)
def test_malformed_forms(issuing: Server, form: Json) -> None:
    check_refused(post(issuing, **form), 400, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"grant_type=password&username=%FF&password=x", "application/x-www-form-urlencoded"),
        (b"grant_type=password&username=\xff&password=x", "application/x-www-form-urlencoded"),
        (b"", "application/x-www-form-urlencoded"),
        (b"&&&;;==&", "application/x-www-form-urlencoded"),
        (b'{"grant_type": "password"}', "application/json"),
        (b"grant_type=password&username=alice&password=x", "text/plain"),
        (b"grant_type=password&username=alice&password=x", None),
        (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
    ],
)
def test_bodies_that_are_no_forms(issuing: Server, body: bytes, media_type: str | None) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    answer = requests.post(f"{issuing.url}/v2/token", data=body, headers=headers, timeout=TIMEOUT)
    check_refused(answer, 400, "UNSUPPORTED")


def test_a_body_without_end(issuing: Server) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    for body in (b"password=" + b"x" * 70000, iter([b"x" * 40000, b"x" * 40000])):
        answer = requests.post(f"{issuing.url}/v2/token", data=body, headers=headers, timeout=TIMEOUT)
        check_refused(answer, 413, "SIZE_INVALID")


def test_other_methods(issuing: Server) -> None:
    for method in ("PUT", "DELETE", "PATCH"):
        answer = requests.request(method, f"{issuing.url}/v2/token", timeout=TIMEOUT)
        check_refused(answer, 405, "UNSUPPORTED")
    assert requests.head(f"{issuing.url}/v2/token", timeout=TIMEOUT).status_code == 200


# What ends a token


def rewrite(server: Server, users: Mapping[str, str]) -> None:
    htpasswd(server.root.with_name("htpasswd"), users)


def command(server: Server, *arguments: str) -> None:
    pierhead = str(Path(sys.executable).with_name("pierhead"))
    subprocess.run([pierhead, "token", *arguments, "--config", str(server.config_file)], check=True, timeout=60)


@pytest.mark.parametrize("change", [{"alice": "another password"}, {}], ids=["a new password", "a user who is gone"])
def test_a_password_that_changes(make_server: MakeServer, tmp_path: Path, change: dict[str, str]) -> None:
    """What was issued for the old one ends, be it for minutes or for weeks."""
    server = make_server(config=settings(tmp_path), workers=2)
    document = login(server)
    for _ in range(4):
        assert status(server, document["access_token"]) == 200
    rewrite(server, {"bob": PASSWORDS["bob"]} | change)
    for _ in range(4):
        answer = post(server, grant_type="refresh_token", refresh_token=document["refresh_token"])
        check_refused(answer, 401, "UNAUTHORIZED")
        assert status(server, document["access_token"]) == 401


def test_the_same_password_hashed_anew(make_server: MakeServer, tmp_path: Path) -> None:
    """Which password a hash is of cannot be told, so tokens of the old one end: who changes a hash means it."""
    server = make_server(config=settings(tmp_path))
    refresh = login(server)["refresh_token"]
    lines = [
        f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()}\n"
        for name, password in PASSWORDS.items()
    ]
    (tmp_path / "htpasswd").write_text("".join(lines))
    check_refused(post(server, grant_type="refresh_token", refresh_token=refresh), 401, "UNAUTHORIZED")
    assert login(server)["refresh_token"] != refresh


def test_tokens_outlive_a_restart(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(config=settings(tmp_path), workers=2)
    document = login(server)
    server.restart()
    assert status(server, document["access_token"]) == 200
    renewed = post(server, grant_type="refresh_token", refresh_token=document["refresh_token"])
    assert renewed.status_code == 200


def test_rotation_under_load(make_server: MakeServer, tmp_path: Path) -> None:
    """A new key ends no token, and with --revoke it ends all: in every worker from the next request on."""
    server = make_server(config=settings(tmp_path), workers=3)
    issued = [login(server) for _ in range(3)]
    for _ in range(3):
        command(server, "rotate")
        issued.append(login(server))
        for document in issued * 3:
            assert status(server, document["access_token"]) == 200
    command(server, "rotate", "--revoke")
    for document in issued * 3:
        assert status(server, document["access_token"]) == 401
        answer = post(server, grant_type="refresh_token", refresh_token=document["refresh_token"])
        check_refused(answer, 401, "UNAUTHORIZED")
    for _ in range(6):
        assert status(server, login(server)["access_token"]) == 200


def test_the_rules_of_the_moment_decide(make_server: MakeServer, tmp_path: Path) -> None:
    """A token says who somebody is: what they may do changes with the rules while it is good."""
    server = make_server(config=settings(tmp_path))
    token = login(server, "bob")["access_token"]
    assert status(server, token, "team/a/tags/list") == 403
    document = json.loads(server.config_file.read_text())
    document["http"]["accessControl"]["repositories"]["team/**"]["policies"].append(
        {"users": ["bob"], "actions": ["read"]}
    )
    server.config_file.write_text(json.dumps(document))
    deadline = time.monotonic() + 60
    while status(server, token, "team/a/tags/list") != 404:  # the rules settle first
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_challenge_leads_here(issuing: Server) -> None:
    """The realm of the challenge is where tokens are, and its service is what they are for."""
    answer = requests.get(f"{issuing.url}/v2/team/a/tags/list", timeout=TIMEOUT)
    header = answer.headers["WWW-Authenticate"]
    assert header == (f'Bearer realm="{issuing.url}/v2/token",service="hub",scope="repository:team/a:pull"')


def test_pushing_and_pulling_with_a_token(issuing: Server, repository: str) -> None:
    remote = Remote(issuing.url, f"team/{repository}")
    remote.authorize(bearer(login(issuing)["access_token"]))
    pushed = remote.push_image("1")
    assert remote.request("GET", "manifests/1").headers["Docker-Content-Digest"] == pushed.digest


def test_nothing_secret_is_logged(make_server: MakeServer, tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    server = make_server(config=settings(tmp_path) | {"log": {"level": "debug", "audit": str(audit)}})
    document = login(server)
    get(server, basic("alice", PASSWORDS["alice"]))
    post(server, grant_type="refresh_token", refresh_token=document["refresh_token"])
    post(server, grant_type="refresh_token", refresh_token=document["refresh_token"][:-9])
    status(server, document["access_token"])
    status(server, document["access_token"][:-9])
    server.stop()
    log = server.log.read_text() + audit.read_text()
    assert "/v2/token" in audit.read_text()
    assert document["refresh_token"].split(".")[0] not in log
    for secret in (PASSWORDS["alice"], document["access_token"][-30:-10], document["refresh_token"][-30:-10]):
        assert secret not in log


def test_without_tokens_there_is_no_token_server(server: Server) -> None:
    check_refused(get(server), 404, "UNSUPPORTED")
