"""Behind a proxy: where Location and Link lead, and whose X-Forwarded headers are believed."""

from __future__ import annotations

import pytest

from tests.conftest import MakeServer
from tests.support.oci import Remote, digest_of, expect_status, index, random_bytes

pytestmark = pytest.mark.direct("they are the proxy")

FORGED = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "8443",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=203.0.113.7;host=evil.example;proto=https",
}


def addresses(remote: Remote, headers: dict[str, str]) -> list[str]:
    """Do what answers with a Location or a Link, and return all of them, one of each kind."""
    data = random_bytes()
    digest = digest_of(data)
    started = remote.post("blobs/uploads/", headers=headers)
    path = "blobs/uploads/" + started.headers["Docker-Upload-UUID"]
    patched = remote.patch(path, data=data, headers=headers)
    state = remote.get(path, headers=headers)
    disordered = remote.patch(path, data=b"x", headers={**headers, "Content-Range": "500-500"})
    closed = remote.put(path, params={"digest": digest}, headers=headers)
    mounted = remote.post("blobs/uploads/", params={"mount": digest, "from": remote.name}, headers=headers)
    pushed = remote.put_manifest(index([]), "1", headers=headers)
    remote.push(index([]), "2")
    answers = [started, patched, state, disordered, closed, mounted, pushed]
    assert [answer.status_code for answer in answers] == [202, 202, 204, 416, 201, 201, 201]
    link = remote.get("tags/list?n=1", headers=headers).headers["Link"]
    return [*(answer.headers["Location"] for answer in answers), link[1 : link.index(">")]]


def test_locations_are_relative(remote: Remote) -> None:
    """Spec "POST then PUT": the location MAY be relative, which is right behind any proxy."""
    for address in addresses(remote, {}):
        assert address.startswith(f"/v2/{remote.name}/")


def test_forwarded_headers_of_a_stranger_are_ignored(remote: Remote) -> None:
    """X-Forwarded headers of a peer that is no trusted proxy change nothing."""
    for address in addresses(remote, FORGED):
        assert address.startswith(f"/v2/{remote.name}/")


def test_host_header_leads_nowhere(remote: Remote) -> None:
    """RFC 9110 (section 7.2): a client's Host does not get into addresses, where caches would keep it."""
    for address in addresses(remote, {"Host": "evil.example"}):
        assert "evil" not in address


@pytest.mark.parametrize("proxies", [["127.0.0.1"], ["127.0.0.0/8"], ["10.0.0.0/8", "::1", "127.0.0.1/32"]])
def test_prefix_of_a_trusted_proxy_is_honoured(make_server: MakeServer, repository: str, proxies: list[str]) -> None:
    """A proxy that serves the registry below a path says so in X-Forwarded-Prefix."""
    remote = Remote(make_server(config={"server": {"trustedProxies": proxies}}).url, repository)
    headers = {"X-Forwarded-Prefix": "/registry", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "reg.example"}
    for address in addresses(remote, headers):
        assert address.startswith(("/registry/v2/", "https://reg.example/registry/v2/")), address
    for address in addresses(remote, {}):
        assert address.startswith("/v2/")


def test_proxy_that_is_not_listed_is_ignored(make_server: MakeServer, repository: str) -> None:
    """Only a peer in `server.trustedProxies` is believed, not whoever claims to come from one."""
    remote = Remote(make_server(config={"server": {"trustedProxies": ["10.0.0.0/8", "::1"]}}).url, repository)
    for address in addresses(remote, {**FORGED, "X-Forwarded-For": "10.0.0.1"}):
        assert address.startswith("/v2/")


@pytest.mark.parametrize("prefix", ["//evil.example", "https://evil.example", "/a b", "/../..", "a", "/a\x80", "/"])
def test_odd_prefix_leads_to_no_other_host(make_server: MakeServer, repository: str, prefix: str) -> None:
    """A prefix is a path: from a proxy that passes a client's header on, it cannot name a host."""
    remote = Remote(make_server(config={"server": {"trustedProxies": ["127.0.0.1"]}}).url, repository)
    answer = remote.post("blobs/uploads/", headers={"X-Forwarded-Prefix": prefix.encode("latin-1")})
    expect_status(answer, 202, 400)
    location = answer.headers.get("Location", "/")
    assert location.startswith("/")
    assert not location.startswith("//")


@pytest.mark.parametrize("url", ["https://registry.example.com", "https://example.com:8443/registry/"])
def test_external_url_makes_locations_absolute(make_server: MakeServer, repository: str, url: str) -> None:
    """Spec "POST then PUT": the location MAY be absolute; with `http.externalUrl` it is, whatever the headers say."""
    remote = Remote(make_server(config={"http": {"externalUrl": url}}).url, repository)
    for headers in ({}, FORGED):
        *locations, link = addresses(remote, headers)
        for location in locations:
            assert location.startswith(f"{url.rstrip('/')}/v2/{repository}/"), location
        assert link.startswith((f"{url.rstrip('/')}/v2/{repository}/", f"/v2/{repository}/"))
