"""X-Forwarded-*: believed from trusted proxies, from nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from registry.proxy import TrustedProxies

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

FORWARDED = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "registry.example",
    "X-Forwarded-Prefix": "/images",
}


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    request = Request(environ)
    return Response(f"{request.remote_addr} {request.root_url}")(environ, start_response)


def seen(peer: str, *networks: str, headers: dict[str, str] | None = None) -> str:
    """Tell who the app thinks is asking, and where it thinks it is."""
    sent = list((FORWARDED if headers is None else headers).items())
    client = Client(TrustedProxies(echo, networks))
    return client.get("/v2/", headers=sent, environ_overrides={"REMOTE_ADDR": peer}).text


PLAIN = "http://localhost/"
PROXIED = "203.0.113.7 https://registry.example/images/"


@pytest.mark.parametrize(
    ("peer", "networks"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("10.1.2.3", ["192.168.0.0/16", "10.0.0.0/8"]),
        ("10.1.2.3", ["10.1.2.9/8"]),
        ("::1", ["::1"]),
        ("fd00::5", ["fd00::/8"]),
    ],
)
def test_a_trusted_proxy_is_believed(peer: str, networks: list[str]) -> None:
    assert seen(peer, *networks) == PROXIED


@pytest.mark.parametrize(
    ("peer", "networks"),
    [("127.0.0.2", ["127.0.0.1"]), ("11.0.0.1", ["10.0.0.0/8"]), ("::1", ["127.0.0.1"]), ("10.0.0.1", ["::/0"])],
)
def test_anybody_else_is_not(peer: str, networks: list[str]) -> None:
    assert seen(peer, *networks) == f"{peer} {PLAIN}"


@pytest.mark.parametrize("peer", ["", "nonsense", "127.0.0.1:80"])
def test_a_peer_without_an_address_is_not_trusted(peer: str) -> None:
    assert seen(peer, "0.0.0.0/0", "::/0").endswith(PLAIN)


def test_only_the_nearest_proxy_is_believed() -> None:
    headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7", "X-Forwarded-Host": "evil.example, registry.example"}
    assert seen("127.0.0.1", "127.0.0.1", headers=headers) == "203.0.113.7 http://registry.example/"


def test_a_trusted_proxy_may_say_nothing() -> None:
    assert seen("127.0.0.1", "127.0.0.1", headers={}) == f"127.0.0.1 {PLAIN}"
