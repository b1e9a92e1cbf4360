"""The server's log from outside: ids of requests, no credential and no forged line, whatever clients send."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.conftest import MakeServer
from tests.support.oci import TIMEOUT, Remote
from tests.support.server import Server
from tests.support.users import basic, bearer, htpasswd
from tests.support.wire import exchange, head

PASSWORD = "Sw0rdf1sh&More"
GUESS = "W0lfh0und%Guess"
BASIC = basic("alice", PASSWORD)["Authorization"].split()[1]
WRONG = basic("alice", GUESS)["Authorization"].split()[1]
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlIG9mIGFsaWNl"
SECRETS = (PASSWORD, GUESS, quote(PASSWORD), quote(GUESS), BASIC, WRONG, TOKEN, TOKEN.split(".")[2])

FORGED = "2026-01-01 00:00:00,000 INFO [1] registry.server: all is well"
TEXT_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \[\d+\] (\[[\w.-]+\] )?[\w.]+: .*|    .*")

#: Requests as they go over the wire, with credentials where they belong and where they do not.
HOSTILE = {
    "right password": head("GET", "/v2/_catalog", f"Authorization: Basic {BASIC}"),
    "wrong password": head("GET", "/v2/_catalog", f"Authorization: Basic {WRONG}"),
    "no scheme": head("GET", "/v2/_catalog", f"Authorization: {BASIC}"),
    "other scheme": head("GET", "/v2/_catalog", f"Authorization: Negotiate {BASIC}"),
    "in clear": head("GET", "/v2/_catalog", f"Authorization: alice:{PASSWORD}"),
    "no colon": head("GET", "/v2/_catalog", "Authorization: Basic U3cwcmRmMXNoJk1vcmU="),
    "token": head("GET", "/v2/_catalog", f"Authorization: Bearer {TOKEN}"),
    "twice": head("GET", "/v2/_catalog", f"Authorization: Basic {BASIC}", f"Authorization: Bearer {TOKEN}"),
    "control characters": head("GET", "/v2/_catalog", f"Authorization: Basic\x01 {BASIC}\x7f"),
    "NUL": head("GET", "/v2/_catalog", f"Authorization: Basic {BASIC}\0"),
    "high bytes": head("GET", "/v2/_catalog", f"Authorization: Basic {BASIC}\xff\x85"),
    "field without colon": head("GET", "/v2/_catalog", f"Authorization Basic {BASIC}"),
    "folded": head("GET", "/v2/_catalog", "Authorization: Basic", f" {BASIC}"),
    "bare LF": f"GET /v2/ HTTP/1.1\nHost: a\nAuthorization: Basic {BASIC}\n\n".encode(),
    "bare LF in the fields": f"GET /v2/ HTTP/1.1\r\nHost: a\nAuthorization: Basic {BASIC}\r\n\r\n".encode(),
    "cut": f"GET /v2/ HTTP/1.1\nAuthorization: Basic {BASIC}".encode(),
    "no version": f"GET /v2/?access_token={TOKEN}\r\n\r\n".encode(),
    "as a request": f"Authorization: Basic {BASIC}\r\n\r\n".encode(),
    "in the query": head("GET", f"/v2/?access_token={TOKEN}&password={quote(PASSWORD)}"),
    "in the query, escaped": head("GET", f"/v2/?%70assword={quote(PASSWORD)};token={TOKEN}"),
    "in the URL": head("GET", f"http://alice:{quote(PASSWORD)}@registry.test/v2/nowhere"),
    "in the referrer": head("GET", "/v2/", f"Referer: http://alice:{quote(PASSWORD)}@ui.test/?token={TOKEN}"),
    "in a cookie": head("GET", "/v2/", f"Cookie: session={TOKEN}", f"Proxy-Authorization: Basic {BASIC}"),
    "line in the path": head("GET", f"/v2/a%0d%0a{quote(FORGED)}/tags/list"),
    "line in the repository": head("PUT", f"/v2/a%0a{quote(FORGED)}%E2%80%A8/manifests/1"),
    "line in the query": head("GET", f"/v2/_catalog?last=%0a{quote(FORGED)}"),
    "line in the user agent": head("GET", "/v2/", f"User-Agent: a\x85{FORGED}\x9b2J"),
    "line in the method": f"GET\r{FORGED} /v2/ HTTP/1.1\r\n\r\n".encode(),
    "line in the id": head("GET", "/v2/", f"X-Request-Id: a\x85{FORGED}"),
    "line in the address": head("GET", "/v2/", f"X-Forwarded-For: 1.2.3.4\x85{FORGED}"),
}


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; a line is written after the answer."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def guarded(tmp_path: Path, **log: str) -> dict[str, Any]:
    """Return the configuration of a registry with a user, tokens, and this log."""
    users = htpasswd(tmp_path / "htpasswd", {"alice": PASSWORD})
    return {
        "http": {"auth": {"htpasswd": {"path": str(users)}, "token": {}, "apikey": True}},
        "log": {"output": str(tmp_path / "registry.log"), **log},
        "server": {"trustedProxies": ["127.0.0.1"]},
    }


def send_everything(server: Server) -> None:
    """Send what a client may send, and what it may not, with credentials in it."""
    for wire in HOSTILE.values():
        exchange(server.host, wire, cut=True)
    issue = server.url + "/v2/token"
    right, wrong = ({"username": "alice", "password": word} for word in (PASSWORD, GUESS))
    answer = requests.get(issue, headers=basic("alice", PASSWORD), params={"offline_token": "true"}, timeout=TIMEOUT)
    assert answer.ok
    for form in (right, wrong):
        requests.post(issue, {"grant_type": "password", **form}, timeout=TIMEOUT)
    for token in (TOKEN, answer.json()["token"]):
        requests.post(issue, {"grant_type": "refresh_token", "refresh_token": token}, timeout=TIMEOUT)
        requests.get(server.url + "/v2/_catalog", headers=bearer(token), timeout=TIMEOUT)
    Remote(server.url, "team/app").request("PUT", "manifests/1", headers=basic("alice", PASSWORD), data=PASSWORD)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_credential_and_no_forged_line_gets_into_the_log(make_server: MakeServer, tmp_path: Path, form: str) -> None:
    """Even at level debug. What is cut short may never reach the registry through a proxy; what was answered did."""
    server = make_server(config=guarded(tmp_path, level="debug", format=form, audit=str(tmp_path / "audit.log")))
    send_everything(server)
    log = tmp_path / "registry.log"
    answered = {"POST /v2/token HTTP": 4, "GET /v2/token?offline_token": 1, "PUT /v2/team/app/manifests/1": 1}
    wait_until(lambda: all(log.read_text().count(request) == number for request, number in answered.items()))
    lines = log.read_text().split("\n")[:-1]
    for line in lines:
        assert line.isprintable()
        if form == "text":
            assert TEXT_LINE.fullmatch(line)
            assert not line.startswith("2026-01-01 00:00:00,000")
        else:
            assert json.loads(line)["message"]
    for path in (log, tmp_path / "audit.log", server.log):
        assert [secret for secret in SECRETS if secret in path.read_text()] == []
    assert "Traceback" not in log.read_text()


def test_every_answer_has_an_id_which_the_log_has_too(make_server: MakeServer, tmp_path: Path) -> None:
    log = tmp_path / "registry.log"
    server = make_server(config={"log": {"level": "debug", "output": str(log)}}, workers=2)
    remote = Remote(server.url, "team/app")
    manifest = remote.push_image("1")
    paths = ["/v2/", "/nowhere", "/v2/UPPER/tags/list", "/v2/none/tags/list", "/swagger/v2/", "/swagger/v2/none"]
    paths += [f"/v2/team/app/manifests/{manifest.digest}", "/v2/_catalog"]
    answers = [requests.get(server.url + path, timeout=TIMEOUT) for path in paths]
    answers += [requests.request(method, server.url + "/v2/", timeout=TIMEOUT) for method in ("OPTIONS", "PUT", "HEAD")]
    numbers = [answer.headers["X-Request-Id"] for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{16,32}", number) for number in numbers)
    assert len(set(numbers)) == len(numbers)
    for number, path in zip(numbers, paths, strict=False):
        line = f'"GET {path} HTTP/1.1"'
        wait_until(lambda: any(f"[{number}]" in text and line in text for text in log.read_text().splitlines()))  # noqa: B023


@pytest.mark.direct("it is the proxy")
def test_an_id_is_taken_from_a_trusted_proxy_only(make_server: MakeServer) -> None:
    for trusted, taken in ((["127.0.0.1"], True), (["192.0.2.1"], False)):
        server = make_server(config={"server": {"trustedProxies": trusted}})
        answer = requests.get(server.url + "/v2/", headers={"X-Request-Id": "of-the-proxy"}, timeout=TIMEOUT)
        assert (answer.headers["X-Request-Id"] == "of-the-proxy") == taken


def test_the_access_log_names_who_was_let_in(make_server: MakeServer, tmp_path: Path) -> None:
    """A name that nobody vouched for may be a password in the wrong place."""
    server = make_server(config=guarded(tmp_path, level="debug"))
    for user, password in (("alice", PASSWORD), (PASSWORD, "alice")):
        requests.get(server.url + "/v2/", headers=basic(user, password), timeout=TIMEOUT)
    log = tmp_path / "registry.log"
    wait_until(lambda: '"GET /v2/ HTTP/1.1" 401' in log.read_text())
    wait_until(lambda: '127.0.0.1 "alice" "GET /v2/ HTTP/1.1" 200' in log.read_text())
    assert PASSWORD not in log.read_text()
