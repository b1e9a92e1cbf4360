"""The audit log from outside: what a registry in use writes down, under load and while the file is rotated."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import MakeServer
from tests.support.oci import TIMEOUT, Remote, digest_of, random_bytes
from tests.support.users import basic, htpasswd

PASSWORDS = {name: f"the pass word of {name}" for name in ("alice", "bob")}
ALICE, BOB = (basic(*item) for item in PASSWORDS.items())
RULES = {"repositories": {"team/**": {"policies": [{"users": ["alice"], "actions": ["read", "create", "update"]}]}}}
CLIENTS, PUSHES = 8, 25


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def guarded(tmp_path: Path, **http: Any) -> dict[str, Any]:
    """Return the configuration of a registry with two users, of whom one may push, and an audit log."""
    auth = {"htpasswd": {"path": str(htpasswd(tmp_path / "htpasswd", PASSWORDS))}}
    return {"http": {"auth": auth, "accessControl": RULES, **http}, "log": {"audit": str(tmp_path / "audit.log")}}


def entries(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return what the lines of the files say; each has to be whole."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_push_can_be_followed(make_server: MakeServer, tmp_path: Path, path: Path) -> None:
    server = make_server(config=guarded(tmp_path), workers=2)
    path.write_text("")  # the server asked whether it answers
    remote = Remote(server.url, "team/app")
    remote.authorize(ALICE)
    manifest = remote.push_image("1.0")
    lines = entries([path])
    assert {line["user"] for line in lines} == {"alice"}
    assert {line["result"] for line in lines} == {"done"}
    last = lines[-1]
    assert (last["method"], last["path"], last["status"]) == ("PUT", "/v2/team/app/manifests/1.0", 201)
    assert (last["repository"], last["reference"], last["digest"]) == ("team/app", "1.0", manifest.digest)
    assert (last["scheme"], last["address"], last["action"]) == ("htpasswd", "127.0.0.1", "create,update")
    assert "credential" not in last
    assert path.stat().st_mode & 0o777 == 0o600


def test_each_refusal_says_why(make_server: MakeServer, tmp_path: Path, path: Path) -> None:
    server = make_server(config=guarded(tmp_path))
    path.write_text("")
    url = server.url + "/v2/team/app/tags/list"
    numbers = [
        requests.get(url, headers=headers, timeout=TIMEOUT).headers["X-Request-Id"]
        for headers in ({}, BOB, basic("alice", "a guess"), basic("a guess", "alice"))
    ]
    lines = entries([path])
    assert [line["requestId"] for line in lines] == numbers
    assert {line["result"] for line in lines} == {"refused"}
    assert {line["repository"] for line in lines} == {"team/app"}
    assert [(line["status"], line["code"], line["user"]) for line in lines] == [
        (401, "UNAUTHORIZED", ""),
        (403, "DENIED", "bob"),
        (401, "UNAUTHORIZED", ""),
        (401, "UNAUTHORIZED", ""),
    ]
    assert lines[0]["reason"] == "no credentials"
    assert "team/**" in lines[1]["reason"]
    assert [line.get("claimed") for line in lines] == [None, None, "alice", "a guess"]
    assert not any(password in path.read_text() for password in PASSWORDS.values())


def test_a_refusal_says_what_was_asked_for(make_server: MakeServer, tmp_path: Path, path: Path) -> None:
    server = make_server(config=guarded(tmp_path))
    path.write_text("")
    remote, digest, session = Remote(server.url, "team/app"), digest_of(b""), str(uuid.uuid4())
    for method, at in (
        ("GET", "manifests/1.0"),
        ("GET", f"blobs/{digest}"),
        ("GET", f"referrers/{digest}"),
        ("DELETE", f"blobs/uploads/{session}"),
    ):
        assert remote.request(method, at).status_code == 401
    assert [line["reference"] for line in entries([path])] == ["1.0", digest, digest, session]


def test_reading_leaves_no_line(make_server: MakeServer, tmp_path: Path, path: Path) -> None:
    server = make_server(config=guarded(tmp_path))
    remote = Remote(server.url, "team/app")
    remote.authorize(ALICE)
    remote.push_image("1")
    path.write_text("")
    assert remote.get("manifests/1").ok
    assert remote.get("tags/list").ok
    assert remote.get("manifests/none").status_code == 404
    assert path.read_text() == ""


def test_what_a_read_only_registry_refuses_is_a_refusal(make_server: MakeServer, tmp_path: Path, path: Path) -> None:
    server = make_server(config=guarded(tmp_path, readOnly=True))
    path.write_text("")
    answer = Remote(server.url, "team/app").request("POST", "blobs/uploads/", headers=ALICE)
    assert answer.status_code == 405
    [line] = entries([path])
    assert (line["result"], line["status"], line["user"]) == ("refused", 405, "alice")


def test_without_rules_changes_are_written_down_too(make_server: MakeServer, path: Path) -> None:
    server = make_server(config={"log": {"audit": str(path)}})
    Remote(server.url, "team/app").push_image("1")
    lines = entries([path])
    assert lines[-1]["path"] == "/v2/team/app/manifests/1"
    assert {(line["user"], line["scheme"]) for line in lines} == {("", "anonymous")}


def push_blobs(url: str, name: str) -> None:
    """Push blobs, each by one request."""
    remote = Remote(url, name)
    remote.authorize(ALICE)
    for _ in range(PUSHES):
        data = random_bytes()
        assert remote.request("POST", f"blobs/uploads/?digest={digest_of(data)}", data=data).status_code == 201


def test_no_line_is_lost_under_load_while_the_file_is_rotated(
    make_server: MakeServer, tmp_path: Path, path: Path
) -> None:
    server = make_server(config=guarded(tmp_path), workers=3)
    clients = [threading.Thread(target=push_blobs, args=(server.url, f"team/app{number}")) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    rotated = 0
    while any(client.is_alive() for client in clients):
        if path.exists():
            path.rename(path.with_suffix(f".{rotated}"))
            rotated += 1
        time.sleep(0.02)
    pushed = [line["digest"] for line in entries(tmp_path.glob("audit.*")) if line["result"] == "done"]
    assert rotated > 1
    assert len(pushed) == len(set(pushed)) == CLIENTS * PUSHES


def test_a_log_that_cannot_be_written_is_told_at_the_start(make_server: MakeServer, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.symlink_to(tmp_path / "gone" / "audit.log")
    with pytest.raises(Exception, match="cannot write the audit log"):
        make_server(config={"log": {"audit": str(locked)}})
