"""Real clients that are given tokens by a server that is not the registry (`http.auth.bearer`)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.clients.support.images import Layout
from tests.clients.support.login import (
    PASSWORDS,
    docker_at,
    import_image,
    load_image,
    log_in,
    log_in_refused,
    make_image,
    pull_again,
    saved,
)
from tests.clients.support.programs import Client, Skopeo
from tests.clients.support.relay import Relay
from tests.clients.support.token_server import SERVICE, Signer, TokenServer
from tests.support.oci import TIMEOUT, Json
from tests.support.server import Server
from tests.support.users import basic, bearer

INSECURE = "--tls-verify=false"
PUSH = ["pull", "push"]
RIGHTS = {
    "": {"public": ["pull"]},
    "alice": {"public": PUSH, "alice": [*PUSH, "delete"], "shared": ["pull"]},
    "bob": {"bob": PUSH, "shared": PUSH},
}
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Trusting:
    """A registry, and the token server that it trusts."""

    server: Server
    tokens: TokenServer

    @property
    def host(self) -> str:
        """Return the registry's host and port."""
        return self.server.host


@pytest.fixture(scope="module", params=["RS256", "ES256"])
def trusting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusting]:
    directory = tmp_path_factory.mktemp("trusting")
    with TokenServer(Signer(directory, request.param), PASSWORDS, RIGHTS) as tokens:
        # Without rules of the registry's own, what a token grants is what its bearer may do.
        config = {"http": {"auth": {"bearer": tokens.config()}}}
        with Server(directory / "data", config=config, workers=2) as server:
            yield Trusting(server, tokens)
            assert " ERROR " not in server.log.read_text()


@pytest.mark.xdist_group("docker")
def test_docker_from_login_to_logout(docker: Client, home: Path, trusting: Trusting, repository: str) -> None:
    alice = docker_at(docker, home)
    public, foreign = (f"{trusting.host}/{owner}/{repository}:1" for owner in ("public", "bob"))
    identity = make_image(alice, public)
    alice("tag", public, foreign)
    assert "unauthorized" in log_in_refused(alice, trusting.host, "alice", "wrong")
    log_in(alice, trusting.host, "alice", PASSWORDS["alice"])
    assert saved(alice, trusting.host)["identitytoken"]
    alice("push", public)
    assert "access to the resource is denied" in alice.refused("push", foreign)
    alice("logout", trusting.host)
    assert pull_again(alice, public) == identity
    make_image(alice, public)
    assert "access to the resource is denied" in alice.refused("push", public)


@pytest.mark.xdist_group("docker")
@pytest.mark.parametrize(("source", "is_mounted"), [("shared", True), ("bob", False)])
def test_docker_mounts_what_its_token_covers(  # noqa: PLR0913, PLR0917
    docker: Client, home: Path, trusting: Trusting, repository: str, source: str, is_mounted: bool
) -> None:
    with Relay(trusting.host) as relay:
        alice, bob = (docker_at(docker, home / name) for name in ("alice", "bob"))
        for client, user in ((alice, "alice"), (bob, "bob")):
            log_in(client, relay.host, user, PASSWORDS[user])
        image = f"{relay.host}/{source}/{repository}:1"
        copy = f"{relay.host}/alice/{repository}/copy:1"
        identity = make_image(bob, image)
        bob("push", image)
        alice("tag", image, copy)
        relay.forget()
        assert (f"Mounted from {source}/{repository}" in alice("push", copy)) == is_mounted
        assert any(f"from={source}" in request.target for request in relay.uploads())
        alice("rmi", image)
        assert pull_again(alice, copy) == identity


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_podman_and_buildah(
    request: pytest.FixtureRequest, layout: Layout, trusting: Trusting, program: str, repository: str
) -> None:
    client: Client = request.getfixturevalue(program)
    number = load_image(client, layout)
    image = f"{trusting.host}/alice/{repository}:1"
    assert "access to the resource is denied" in client.refused("push", INSECURE, number, image)
    log_in(client, trusting.host, "alice", PASSWORDS["alice"], INSECURE)
    client("push", INSECURE, number, image)
    client("rmi", "--all", "--force")
    assert client("pull", "--quiet", INSECURE, image).strip() == number


def test_skopeo(skopeo: Skopeo, layout: Layout, trusting: Trusting, repository: str) -> None:
    pushed = layout.tag("1", layout.image(layers=2))
    hers, shared, copy = (
        f"docker://{trusting.host}/{name}/{repository}:1" for name in ("alice", "shared", "alice/copy")
    )
    alice, bob = (f"{user}:{PASSWORDS[user]}" for user in ("alice", "bob"))
    assert "access to the resource is denied" in skopeo.copy_refused(layout.at("1"), hers)
    skopeo.copy(layout.at("1"), hers, "--dest-creds", alice)
    skopeo.copy(hers, shared, "--src-creds", alice, "--dest-creds", bob)
    skopeo.copy(shared, copy, "--src-creds", alice, "--dest-creds", alice)
    skopeo.copy(copy, f"dir:{skopeo.home}/pulled", "--src-creds", alice)
    assert (skopeo.home / "pulled" / "manifest.json").read_bytes() == pushed.body
    skopeo("delete", INSECURE, "--creds", alice, hers)
    assert "manifest unknown" in skopeo.refused("inspect", INSECURE, "--creds", alice, hers)


@pytest.mark.xdist_group("containerd")
def test_containerd(ctr: Client, layout: Layout, trusting: Trusting, repository: str) -> None:
    image = f"{trusting.host}/public/{repository}:1"
    import_image(ctr, layout, image)
    push = ("images", "push", "--plain-http")
    assert "insufficient_scope" in ctr.refused(*push, image)
    assert "401" in ctr.refused(*push, "--user", "alice:wrong", image)
    ctr(*push, "--user", f"alice:{PASSWORDS['alice']}", image)
    ctr("images", "remove", "--sync", image)
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", image)


def test_a_challenge_leads_to_a_token_that_is_enough(trusting: Trusting, repository: str) -> None:
    """What a client does: it asks, is told where to get which token, gets it, and asks again."""
    name = f"alice/{repository}"
    uploads = f"{trusting.server.url}/v2/{name}/blobs/uploads/"
    challenge = _challenge(requests.post(uploads, timeout=TIMEOUT))
    assert "error" not in challenge
    for scope in (f"repository:{name}:pull", "repository:alice/other:pull,push"):
        challenge = _challenge(requests.post(uploads, headers=bearer(_get(challenge, scope)), timeout=TIMEOUT))
        assert challenge["error"] == "insufficient_scope"
        assert challenge["scope"] == f"repository:{name}:pull,push"
        assert challenge["service"] == SERVICE
    answer = requests.post(uploads, headers=bearer(_get(challenge, challenge["scope"])), timeout=TIMEOUT)
    assert answer.status_code == 202


def test_curl_with_tokens_that_are_no_good(curl: Client, trusting: Trusting, tmp_path: Path, repository: str) -> None:
    name = f"alice/{repository}"
    access: list[Json] = [{"type": "repository", "name": name, "actions": PUSH}]
    signer = trusting.tokens.signer
    now = int(time.time())
    good = signer.sign("alice", access)
    head, claims, signature = good.split(".")
    bad = {
        "expired": signer.sign("alice", access, exp=now - 1),
        "not valid yet": signer.sign("alice", access, nbf=now + 3600),
        "for another service": signer.sign("alice", access, aud="another"),
        "of another issuer": signer.sign("alice", access, iss="another"),
        "forged": Signer(tmp_path, signer.algorithm).sign("alice", access),
        "of another user's claims": f"{head}.{signer.sign('bob', access).split('.')[1]}.{signature}",
        "without signature": f"{head}.{claims}.",
    }
    url = f"{trusting.server.url}/v2/{name}/tags/list"
    for what, token in bad.items():
        said = curl.refused("--include", "--header", f"Authorization: Bearer {token}", url)
        assert " 401 " in said, what
        assert 'error="invalid_token"' in said, what
    assert "NAME_UNKNOWN" in curl.refused("--header", f"Authorization: Bearer {good}", url)
    said = curl.refused("--include", "--user", f"alice:{PASSWORDS['alice']}", url)
    assert " 401 " in said
    assert "Bearer realm=" in said


def _challenge(answer: requests.Response) -> dict[str, str]:
    """Return the parts of the challenge, which must be of the token protocol."""
    assert answer.status_code == 401, answer.text
    scheme, _, parts = answer.headers["WWW-Authenticate"].partition(" ")
    assert scheme == "Bearer"
    return dict(CHALLENGE.findall(parts))


def _get(challenge: dict[str, str], scope: str) -> str:
    """Get a token as the challenge says."""
    query = {"service": challenge["service"], "scope": scope}
    headers = basic("alice", PASSWORDS["alice"])
    answer = requests.get(challenge["realm"], params=query, headers=headers, timeout=TIMEOUT)
    token: str = json.loads(answer.content)["token"]
    return token
