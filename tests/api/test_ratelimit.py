"""`http.ratelimit` from outside: one limit for all workers, for each client, before anything else is asked."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.conftest import MakeServer
from tests.support.server import Server

ONCE = 0.001  # a rate that allows one request, and the next one long after the test


def limits(rate: float | None = None, **methods: float) -> dict[str, Any]:
    entries = [{"method": method, "rate": value} for method, value in methods.items()]
    return {"http": {"ratelimit": ({"rate": rate} if rate else {}) | {"methods": entries}}}


def delete(server: Server, path: str = "/v2/a/manifests/1", **headers: str) -> requests.Response:
    return requests.delete(server.url + path, headers=headers, timeout=30)


def test_workers_share_one_limit(make_server: MakeServer) -> None:
    """Of twelve clients on both workers, one gets the one request that is allowed."""
    server = make_server(workers=2, config=limits(DELETE=ONCE))
    clients = [http.client.HTTPConnection(server.host) for _ in range(12)]
    for client in clients:
        client.request("GET", "/v2/")
        client.getresponse().read()
    statuses = []
    for client in clients:
        client.request("DELETE", "/v2/a/manifests/1")
        response = client.getresponse()
        response.read()
        statuses.append(response.status)
        client.close()
    assert Counter(status == 429 for status in statuses) == {True: 11, False: 1}


def test_refusal_says_what_and_when(make_server: MakeServer) -> None:
    server = make_server(config=limits(DELETE=ONCE))
    delete(server)
    refused = delete(server)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 1000
    assert refused.headers["Content-Type"] == "application/json"
    assert refused.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    [error] = json.loads(refused.content)["errors"]
    assert error["code"] == "TOOMANYREQUESTS"
    assert "DELETE" in error["message"]


def test_refused_connection_goes_on(make_server: MakeServer) -> None:
    """A refusal ends neither the connection nor what the client may do otherwise."""
    server = make_server(config=limits(DELETE=ONCE))
    with requests.Session() as session:
        statuses = [session.delete(server.url + "/v2/a/manifests/1", timeout=30).status_code for _ in range(3)]
        assert statuses[1:] == [429, 429]
        assert session.get(server.url + "/v2/", timeout=30).status_code == 200


def test_rate_is_kept(make_server: MakeServer) -> None:
    """Whoever asks without a pause gets a second's worth, and then so many a second."""
    server = make_server(workers=2, config=limits(HEAD=20))
    begun = time.monotonic()

    def ask(_client: int) -> int:
        with requests.Session() as session:
            return sum(session.head(server.url + "/v2/", timeout=30).status_code == 200 for _ in range(60))

    with ThreadPoolExecutor(4) as pool:
        passed = sum(pool.map(ask, range(4)))
    seconds = time.monotonic() - begun
    assert 20 <= passed <= 20 + 20 * seconds + 1


def test_other_methods_and_head_are_not_bound_by_a_method_s_rate(make_server: MakeServer) -> None:
    server = make_server(config=limits(GET=50, DELETE=ONCE))
    delete(server)
    assert delete(server).status_code == 429
    for _ in range(5):
        assert requests.head(server.url + "/v2/", timeout=30).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/a/blobs/uploads/", "/nowhere", "/swagger/v2/", "/v2/NOT VALID/tags/list"]
)
def test_limit_comes_before_all_else(make_server: MakeServer, path: str) -> None:
    """A path that there is not, a name that is not valid and the pages are limited like everything."""
    server = make_server(config=limits(DELETE=ONCE))
    delete(server)
    assert delete(server, path).status_code == 429


def test_stranger_s_headers_make_no_other_client(make_server: MakeServer) -> None:
    server = make_server(config=limits(DELETE=ONCE))
    delete(server, **{"X-Forwarded-For": "203.0.113.1"})
    for number in range(2, 5):
        named = {"X-Forwarded-For": f"203.0.113.{number}", "X-Real-IP": f"203.0.113.{number}"}
        assert delete(server, **named).status_code == 429


@pytest.mark.direct("it is the proxy")
def test_clients_behind_a_trusted_proxy_are_told_apart(make_server: MakeServer) -> None:
    trusted = {"server": {"trustedProxies": ["127.0.0.1"]}}
    server = make_server(config=limits(DELETE=ONCE) | trusted)

    def status(client: str) -> int:
        return delete(server, **{"X-Forwarded-For": client}).status_code

    assert [status("203.0.113.1") == 429 for _ in range(3)] == [False, True, True]
    assert [status("203.0.113.2") == 429 for _ in range(2)] == [False, True]
    assert [status(f"2001:db8::{number}") == 429 for number in range(1, 4)] == [False, True, True]


def test_nothing_is_limited_unless_configured(server: Server) -> None:
    with requests.Session() as session:
        statuses = {session.get(server.url + "/v2/", timeout=30).status_code for _ in range(200)}
    assert 429 not in statuses
