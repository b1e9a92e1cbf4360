"""Real clients that log in with a password or an API key and are given tokens by the registry (`http.auth.token`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.auth.htpasswd import HtpasswdStore
from registry.auth.tokens import Tokens
from registry.config_auth import TokenConfig
from storage.layout import Layout as Directories
from tests.clients.support.images import Layout
from tests.clients.support.login import (
    PASSWORDS,
    RULES,
    Guarded,
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
from tests.support.server import Server
from tests.support.users import htpasswd

INSECURE = "--tls-verify=false"
DOCKER = pytest.mark.xdist_group("docker")
LONG_AGO = 400.0  # seconds: an access token is good for 300


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    users = htpasswd(directory / "htpasswd", PASSWORDS)
    auth = {"htpasswd": {"path": str(users)}, "token": {}, "apikey": True}
    config = {"http": {"auth": auth, "accessControl": RULES}}
    with Server(directory / "data", config=config, workers=2) as server:
        yield Guarded(server, users)
        assert " ERROR " not in server.log.read_text()
        assert not any(password in server.log.read_text() for password in PASSWORDS.values())


@pytest.fixture
def anybody(docker: Client, home: Path) -> Client:
    """Give docker without any login."""
    return docker_at(docker, home)


@pytest.fixture
def alice(docker: Client, home: Path, guarded: Guarded) -> Client:
    """Give docker, logged in."""
    client = docker_at(docker, home / "alice")
    log_in(client, guarded.host, "alice", PASSWORDS["alice"])
    return client


@pytest.fixture
def bob(docker: Client, home: Path, guarded: Guarded) -> Client:
    client = docker_at(docker, home / "bob")
    log_in(client, guarded.host, "bob", PASSWORDS["bob"])
    return client


@DOCKER
def test_docker_from_login_to_logout(anybody: Client, guarded: Guarded, repository: str) -> None:
    image = f"{guarded.host}/public/{repository}:1"
    identity = make_image(anybody, image)
    assert "unauthorized" in anybody.refused("push", image)
    assert "unauthorized" in log_in_refused(anybody, guarded.host, "alice", "wrong")
    assert "unauthorized" in log_in_refused(anybody, guarded.host, "nobody", PASSWORDS["alice"])
    assert not saved(anybody, guarded.host)
    log_in(anybody, guarded.host, "alice", PASSWORDS["alice"])
    anybody("push", image)
    anybody("logout", guarded.host)
    assert not saved(anybody, guarded.host)
    make_image(anybody, image)
    assert "unauthorized" in anybody.refused("push", image)
    assert pull_again(anybody, image) == identity


@DOCKER
def test_docker_keeps_a_token_and_no_password(alice: Client, guarded: Guarded) -> None:
    kept = saved(alice, guarded.host)
    assert kept["identitytoken"]
    assert kept["auth"] == "YWxpY2U6"  # "alice:", and no password


@DOCKER
def test_docker_pulls_what_is_not_for_everybody(
    anybody: Client, alice: Client, guarded: Guarded, repository: str
) -> None:
    image = f"{guarded.host}/alice/{repository}:1"
    identity = make_image(alice, image)
    alice("push", image)
    assert pull_again(alice, image) == identity
    # Without a login there is no difference to what does not exist; with one that may not read there is none either.
    for name in (image, f"{image}-missing"):
        assert "unauthorized: log in to do this" in anybody.refused("pull", name)
    log_in(anybody, guarded.host, "bob", PASSWORDS["bob"])
    for name in (image, f"{image}-missing"):
        assert "denied: " in anybody.refused("pull", name)


@DOCKER
def test_a_docker_login_outlives_its_access_tokens(
    anybody: Client, curl: Client, guarded: Guarded, repository: str
) -> None:
    """Docker's token is of some minutes ago, as is an access token of that time, which has expired."""
    tokens = Tokens(TokenConfig(), Directories(str(guarded.server.root)).auth, clock=lambda: time.time() - LONG_AGO)
    alice = HtpasswdStore(str(guarded.users)).verify("alice", PASSWORDS["alice"])
    assert alice is not None
    expired, _ = tokens.issue(alice)
    said = curl.refused("--include", "--header", f"Authorization: Bearer {expired}", f"{guarded.url}/v2/")
    assert 'error="invalid_token"' in said
    anybody.home.joinpath("docker").mkdir()
    login = {"auth": "YWxpY2U6", "identitytoken": tokens.issue_refresh(alice, "docker")}
    anybody.home.joinpath("docker", "config.json").write_text(json.dumps({"auths": {guarded.host: login}}))
    make_image(anybody, image := f"{guarded.host}/alice/{repository}:1")
    anybody("push", image)


@DOCKER
def test_a_docker_login_outlives_a_new_signing_key(alice: Client, guarded: Guarded, repository: str) -> None:
    make_image(alice, image := f"{guarded.host}/alice/{repository}:1")
    guarded.rotate()
    alice("push", image)
    make_image(alice, image)
    guarded.rotate("--revoke")
    assert "unauthorized" in alice.refused("push", image)
    log_in(alice, guarded.host, "alice", PASSWORDS["alice"])
    alice("push", image)


@DOCKER
def test_a_new_password_ends_a_docker_login(alice: Client, guarded: Guarded, repository: str) -> None:
    make_image(alice, image := f"{guarded.host}/alice/{repository}:1")
    guarded.change_password("alice", "another")
    try:
        assert "unauthorized" in alice.refused("push", image)
        assert "unauthorized" in log_in_refused(alice, guarded.host, "alice", PASSWORDS["alice"])
        log_in(alice, guarded.host, "alice", "another")
        alice("push", image)
    finally:
        guarded.change_password("alice", PASSWORDS["alice"])


@DOCKER
def test_two_users_have_rights_of_their_own(alice: Client, bob: Client, guarded: Guarded, repository: str) -> None:
    hers, his, shared = (f"{guarded.host}/{owner}/{repository}:1" for owner in ("alice", "bob", "shared"))
    make_image(alice, hers)
    identity = make_image(bob, his)
    bob("tag", his, shared)
    alice("push", hers)
    bob("push", his)
    bob("push", shared)
    for client, image in ((alice, his), (alice, shared), (bob, hers)):
        assert "denied: " in client.refused("push", image)
    assert "denied: " in alice.refused("pull", his)
    assert "denied: " in bob.refused("pull", hers)
    assert pull_again(alice, shared) == identity


@DOCKER
@pytest.mark.parametrize(("source", "is_mounted"), [("shared", True), ("bob", False)])
def test_docker_mounts_what_it_may_read(  # noqa: PLR0913, PLR0917
    alice: Client, bob: Client, guarded: Guarded, repository: str, source: str, is_mounted: bool
) -> None:
    """Where it may not, it uploads the layer, and needs nobody's help for that."""
    with Relay(guarded.host) as relay:
        for client, user in ((alice, "alice"), (bob, "bob")):
            log_in(client, relay.host, user, PASSWORDS[user])
        image = f"{relay.host}/{source}/{repository}:1"
        copy = f"{relay.host}/alice/{repository}/copy:1"
        identity = make_image(bob, image)
        bob("push", image)
        alice("tag", image, copy)
        relay.forget()
        said = alice("push", copy)
        assert any(f"from={source}" in request.target for request in relay.uploads())
        assert (f"Mounted from {source}/{repository}" in said) == is_mounted
        assert [request.method for request in relay.uploads()].count("PATCH") == (1 if is_mounted else 2)
        alice("rmi", image)
        assert pull_again(alice, copy) == identity


@DOCKER
def test_docker_with_an_api_key(
    anybody: Client, alice: Client, curl: Client, guarded: Guarded, repository: str
) -> None:
    image = f"{guarded.host}/alice/{repository}:1"
    identity = make_image(alice, image)
    alice("push", image)
    key = guarded.make_key("alice", "--scope", "pull:alice/*/*", "--expires", "1d")
    assert "unauthorized" in log_in_refused(anybody, guarded.host, "bob", key)
    log_in(anybody, guarded.host, "alice", key)
    assert pull_again(anybody, image) == identity
    make_image(anybody, image)
    said = anybody.refused("push", image)
    assert "denied: this API key of " in said
    assert "denied: " in anybody.refused("pull", f"{guarded.host}/shared/{repository}:1")
    header = ("--header", f"Authorization: Bearer {_token(curl, guarded, 'alice', key)}")
    tags = f"{guarded.url}/v2/alice/{repository}/tags/list"
    assert json.loads(curl(*header, tags))["tags"] == ["1"]

    guarded.revoke_key(key)
    assert 'error="invalid_token"' in curl.refused("--include", *header, tags)
    assert "unauthorized" in anybody.refused("pull", image)
    assert "unauthorized" in log_in_refused(anybody, guarded.host, "alice", key)


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_podman_and_buildah(
    request: pytest.FixtureRequest, layout: Layout, guarded: Guarded, program: str, repository: str
) -> None:
    client: Client = request.getfixturevalue(program)
    number = load_image(client, layout)
    public, foreign = (f"{guarded.host}/{owner}/{repository}:1" for owner in ("public", "bob"))
    assert "log in to do this" in client.refused("push", INSECURE, number, public)
    assert "invalid username/password" in log_in_refused(client, guarded.host, "alice", "wrong", INSECURE)
    log_in(client, guarded.host, "alice", PASSWORDS["alice"], INSECURE)
    client("push", INSECURE, number, public)
    assert "403 (Forbidden)" in client.refused("push", INSECURE, number, foreign)
    assert "denied: " in client.refused("pull", INSECURE, foreign)
    client("logout", guarded.host)
    client("rmi", "--all", "--force")
    assert client("pull", "--quiet", INSECURE, public).strip() == number
    assert "log in to do this" in client.refused("push", INSECURE, number, f"{public}2")


def test_podman_finds_what_it_may_read(podman: Client, layout: Layout, guarded: Guarded, repository: str) -> None:
    number = load_image(podman, layout)
    names = {owner: f"{guarded.host}/{owner}/{repository}" for owner in ("public", "alice", "bob")}
    for owner, name in names.items():
        user = "bob" if owner == "bob" else "alice"
        podman("push", INSECURE, "--creds", f"{user}:{PASSWORDS[user]}", number, f"{name}:1")

    def found() -> set[str]:
        return set(podman("search", INSECURE, "--limit", "100", f"{guarded.host}/").split()) & set(names.values())

    assert found() == {names["public"]}
    log_in(podman, guarded.host, "alice", PASSWORDS["alice"], INSECURE)
    assert found() == {names["public"], names["alice"]}


def test_skopeo(skopeo: Skopeo, layout: Layout, guarded: Guarded, repository: str) -> None:
    pushed = layout.tag("1", layout.image())
    owners = ("public", "bob", "shared")
    public, foreign, shared = (f"docker://{guarded.host}/{owner}/{repository}:1" for owner in owners)
    hers, his = (f"{user}:{PASSWORDS[user]}" for user in ("alice", "bob"))
    assert "log in to do this" in skopeo.copy_refused(layout.at("1"), public)
    skopeo.copy(layout.at("1"), public, "--dest-creds", hers)
    assert skopeo.raw(public) == pushed.body
    # Both ends at once, each with credentials of its own.
    skopeo.copy(public, foreign, "--src-creds", hers, "--dest-creds", his)
    assert "log in to do this" in skopeo.refused("inspect", INSECURE, foreign)
    assert "denied" in skopeo.refused("inspect", INSECURE, "--creds", hers, foreign)

    log_in(skopeo, guarded.host, "bob", PASSWORDS["bob"], INSECURE)
    skopeo.copy(foreign, shared)
    skopeo("logout", guarded.host)
    assert "log in to do this" in skopeo.copy_refused(shared, f"dir:{skopeo.home}/pulled")


def test_skopeo_is_told_of_wrong_credentials(skopeo: Skopeo, guarded: Guarded, repository: str) -> None:
    said = log_in_refused(skopeo, guarded.host, "alice", "wrong", INSECURE)
    assert "invalid username/password" in said
    image = f"docker://{guarded.host}/public/{repository}:1"
    said = skopeo.refused("inspect", INSECURE, "--creds", "alice:wrong", image)
    assert "invalid username/password" in said


def test_crane(crane: Client, layout: Layout, guarded: Guarded, repository: str) -> None:
    layout.tag("1", layout.image())
    public, hers, foreign = (f"{guarded.host}/{owner}/{repository}:1" for owner in ("public", "alice", "bob"))
    assert "UNAUTHORIZED: log in to do this" in crane.refused("push", layout.root, public)
    log_in(_auth(crane), guarded.host, "alice", PASSWORDS["alice"])
    crane("push", layout.root, public)
    crane("copy", public, hers)
    assert "403 Forbidden" in crane.refused("push", layout.root, foreign)
    _auth(crane)("logout", guarded.host)
    assert crane("digest", public)
    assert "UNAUTHORIZED: log in to do this" in crane.refused("manifest", hers)
    # It saves whatever it is given, and learns later what that is worth.
    log_in(_auth(crane), guarded.host, "alice", "wrong")
    assert "the credentials are not valid" in crane.refused("digest", hers)


def _auth(crane: Client) -> Client:
    return Client((*crane.command, "auth"), crane.home)


def test_helm(helm: Client, guarded: Guarded, repository: str) -> None:
    helm("create", "chart")
    helm("package", "chart")
    hers, foreign = (f"oci://{guarded.host}/{owner}/{repository}" for owner in ("alice", "bob"))
    push = ("push", "chart-0.1.0.tgz")
    registry = Client((*helm.command, "registry"), helm.home)
    assert "401: Unauthorized" in helm.refused(*push, hers, "--plain-http")
    assert "the credentials are not valid" in log_in_refused(registry, guarded.host, "alice", "wrong", "--plain-http")
    log_in(registry, guarded.host, "alice", PASSWORDS["alice"], "--plain-http")
    helm(*push, hers, "--plain-http")
    assert "403: Forbidden" in helm.refused(*push, foreign, "--plain-http")
    assert "version: 0.1.0" in helm("show", "chart", f"{hers}/chart", "--plain-http")
    registry("logout", guarded.host)
    assert "log in to do this" in helm.refused("show", "chart", f"{hers}/chart", "--plain-http")


def test_oras(oras_cli: Client, guarded: Guarded, repository: str) -> None:
    (oras_cli.home / "note").write_text("a note")
    hers, foreign = (f"{guarded.host}/{owner}/{repository}:1" for owner in ("alice", "bob"))
    assert "401: Unauthorized" in oras_cli.refused("push", "--plain-http", hers, "note")
    assert "the credentials are not valid" in log_in_refused(oras_cli, guarded.host, "alice", "wrong", "--plain-http")
    log_in(oras_cli, guarded.host, "alice", PASSWORDS["alice"], "--plain-http")
    oras_cli("push", "--plain-http", hers, "note")
    assert "403: Forbidden" in oras_cli.refused("push", "--plain-http", foreign, "note")
    oras_cli("logout", guarded.host)
    assert "log in to do this" in oras_cli.refused("pull", "--plain-http", hers)


@pytest.mark.xdist_group("containerd")
def test_containerd(ctr: Client, layout: Layout, guarded: Guarded, repository: str) -> None:
    """It asks for tokens by POST, and by GET where it has no credentials."""
    public = f"{guarded.host}/public/{repository}:1"
    import_image(ctr, layout, public)
    push = ("images", "push", "--plain-http")
    assert "401" in ctr.refused(*push, public)
    assert "401" in ctr.refused(*push, "--user", "alice:wrong", public)
    assert "403" in ctr.refused(*push, "--user", f"bob:{PASSWORDS['bob']}", public)
    ctr(*push, "--user", f"alice:{PASSWORDS['alice']}", public)
    ctr("images", "remove", "--sync", public)
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", public)
    assert layout.digests() <= set(ctr("content", "list", "--quiet").split())


def test_no_credentials_as_podman_and_skopeo_send_them(curl: Client, guarded: Guarded, repository: str) -> None:
    """An empty name and an empty password are nobody's, and no login either."""
    assert " 401 " in curl.refused("--include", "--user", ":", f"{guarded.url}/v2/")
    assert "NAME_UNKNOWN" in curl.refused("--user", ":", f"{guarded.url}/v2/public/{repository}/tags/list")
    anonymous = json.loads(curl("--user", ":", f"{guarded.url}/v2/token?service=pierhead"))
    header = ("--header", f"Authorization: Bearer {anonymous['token']}")
    assert " 401 " in curl.refused("--include", *header, f"{guarded.url}/v2/alice/{repository}/tags/list")


def _token(curl: Client, guarded: Guarded, user: str, password: str) -> str:
    """Get a token as clients do, by GET."""
    answer = json.loads(curl("--user", f"{user}:{password}", f"{guarded.url}/v2/token?service=pierhead"))
    token: str = answer["token"]
    return token
