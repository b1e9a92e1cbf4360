"""Real clients that log in with a password and send it each time (`http.auth.htpasswd`, Basic), and those who guess."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
from tests.clients.support.programs import Client, Skopeo, require
from tests.support.server import Server
from tests.support.users import htpasswd

INSECURE = "--tls-verify=false"
DOCKER = pytest.mark.xdist_group("docker")
#: How `htpasswd` is told which hash to make.
HASHES = {"bcrypt": ("-B", "-C", "5"), "sha256": ("-2",), "sha512": ("-5",), "apr1": ("-m",)}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Give a server to which passwords are sent, and that knows no tokens."""
    directory = tmp_path_factory.mktemp("guarded")
    users = htpasswd(directory / "htpasswd", PASSWORDS)
    config = {"http": {"auth": {"htpasswd": {"path": str(users)}}, "accessControl": RULES}}
    with Server(directory / "data", config=config, workers=2) as server:
        yield Guarded(server, users)
        assert " ERROR " not in server.log.read_text()
        assert not any(password in server.log.read_text() for password in PASSWORDS.values())


@DOCKER
def test_docker_from_login_to_logout(docker: Client, home: Path, guarded: Guarded, repository: str) -> None:
    alice = docker_at(docker, home)
    image, foreign = (f"{guarded.host}/{owner}/{repository}:1" for owner in ("public", "bob"))
    identity = make_image(alice, image)
    assert "no basic auth credentials" in alice.refused("push", image)
    assert "401 Unauthorized" in log_in_refused(alice, guarded.host, "alice", "wrong")
    assert "401 Unauthorized" in log_in_refused(alice, guarded.host, "nobody", PASSWORDS["alice"])
    assert not saved(alice, guarded.host)
    log_in(alice, guarded.host, "alice", PASSWORDS["alice"])
    alice("push", image)
    assert pull_again(alice, image) == identity
    alice("tag", image, foreign)
    assert "denied: " in alice.refused("push", foreign)
    alice("logout", guarded.host)
    assert "no basic auth credentials" in alice.refused("push", image)
    # Docker asks nobody for an anonymous token here, as there are none: `pierhead verify` warns of that.
    assert "no basic auth credentials" in alice.refused("pull", image)


@DOCKER
@pytest.mark.parametrize("name", HASHES)
def test_docker_with_each_hash(docker: Client, home: Path, guarded: Guarded, name: str) -> None:
    """The program `htpasswd` adds a user while the registry serves."""
    require("htpasswd")
    user, password = f"user-of-{name}", "pass wörd"
    Client(("htpasswd", "-i"), home)(*HASHES[name], guarded.users, user, stdin=password.encode())
    assert f"{user}\t{name}" in guarded.pierhead("user", "list", "--htpasswd", guarded.users)
    client = docker_at(docker, home)
    assert "401 Unauthorized" in log_in_refused(client, guarded.host, user, "wrong")
    log_in(client, guarded.host, user, password)


@DOCKER
def test_a_removed_user_is_logged_out(docker: Client, home: Path, guarded: Guarded, repository: str) -> None:
    """The credentials are remembered for some seconds, but not once the file has changed."""
    htpasswd_file = ("--htpasswd", guarded.users)
    guarded.pierhead("user", "add", "--cost", "4", *htpasswd_file, "carol", stdin=b"carol's")
    client = docker_at(docker, home)
    log_in(client, guarded.host, "carol", "carol's")
    image = f"{guarded.host}/shared/{repository}:1"
    assert "name unknown" in client.refused("pull", image)
    guarded.pierhead("user", "remove", *htpasswd_file, "carol")
    assert "the credentials are not valid" in client.refused("pull", image)
    assert "401 Unauthorized" in log_in_refused(client, guarded.host, "carol", "carol's")


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_podman_and_buildah(
    request: pytest.FixtureRequest, layout: Layout, guarded: Guarded, program: str, repository: str
) -> None:
    client: Client = request.getfixturevalue(program)
    number = load_image(client, layout)
    public, hers, foreign = (f"{guarded.host}/{owner}/{repository}:1" for owner in ("public", "alice", "bob"))
    assert "unauthorized" in client.refused("push", INSECURE, number, public)
    assert "invalid username/password" in log_in_refused(client, guarded.host, "alice", "wrong", INSECURE)
    log_in(client, guarded.host, "alice", PASSWORDS["alice"], INSECURE)
    for image in (public, hers):
        client("push", INSECURE, number, image)
    assert "403 (Forbidden)" in client.refused("push", INSECURE, number, foreign)
    client("rmi", "--all", "--force")
    assert client("pull", "--quiet", INSECURE, hers).strip() == number
    client("logout", guarded.host)
    client("rmi", "--all", "--force")
    assert "unauthorized" in client.refused("pull", INSECURE, hers)
    # Unlike docker they need no login for what is for everybody.
    assert client("pull", "--quiet", INSECURE, public).strip() == number


def test_skopeo(skopeo: Skopeo, layout: Layout, guarded: Guarded, repository: str) -> None:
    pushed = layout.tag("1", layout.image())
    public, hers = (f"docker://{guarded.host}/{owner}/{repository}:1" for owner in ("public", "alice"))
    alice = f"alice:{PASSWORDS['alice']}"
    assert "unauthorized" in skopeo.copy_refused(layout.at("1"), hers)
    skopeo.copy(layout.at("1"), hers, "--dest-creds", alice)
    skopeo.copy(hers, public, "--src-creds", alice, "--dest-creds", alice)
    assert skopeo.raw(public) == pushed.body
    said = skopeo.refused("inspect", INSECURE, "--creds", "alice:wrong", public)
    assert "the credentials are not valid" in said
    log_in(skopeo, guarded.host, "alice", PASSWORDS["alice"], INSECURE)
    assert skopeo.raw(hers) == pushed.body


@pytest.mark.xdist_group("containerd")
def test_containerd(ctr: Client, layout: Layout, guarded: Guarded, repository: str) -> None:
    image = f"{guarded.host}/alice/{repository}:1"
    import_image(ctr, layout, image)
    push = ("images", "push", "--plain-http")
    pull = ("images", "pull", "--plain-http", "--snapshotter", "native")
    alice = ("--user", f"alice:{PASSWORDS['alice']}")
    assert "401" in ctr.refused(*push, image)
    assert "401" in ctr.refused(*pull, "--user", "alice:wrong", image)
    ctr(*push, *alice, image)
    ctr("images", "remove", "--sync", image)
    assert "unauthorized" in ctr.refused(*pull, image).lower()
    ctr(*pull, *alice, image)


@pytest.mark.xdist_group("containerd")
def test_one_command_with_a_wrong_password_locks_nobody_out(
    ctr: Client, layout: Layout, guarded: Guarded, repository: str
) -> None:
    """It asks for all blobs at once, and several times for each, with the same wrong password."""
    import_image(ctr, layout, image := f"{guarded.host}/bob/{repository}:1", layers=20)
    assert "401" in ctr.refused("images", "push", "--plain-http", "--user", "bob:wrong", image)
    ctr("images", "push", "--plain-http", "--user", f"bob:{PASSWORDS['bob']}", image)


def test_no_credentials_as_podman_and_skopeo_send_them(curl: Client, guarded: Guarded, repository: str) -> None:
    """Who has neither sends an empty name and an empty password, and often enough to look like a guesser."""
    nobody = ("--user", ":")
    for _ in range(25):
        assert "NAME_UNKNOWN" in curl.refused(*nobody, f"{guarded.url}/v2/public/{repository}/tags/list")
    assert " 401 " in curl.refused("--include", *nobody, f"{guarded.url}/v2/alice/{repository}/tags/list")
    assert " 401 " in curl.refused("--include", *nobody, f"{guarded.url}/v2/")


def test_guessing_locks_out_who_guesses_and_nobody_else(curl: Client, guarded: Guarded) -> None:
    """The user who is guessed at still logs in from another address, and others do from the same."""
    guarded.pierhead("user", "add", "--cost", "4", "--htpasswd", guarded.users, "dave", stdin=b"dave's")
    url = f"{guarded.url}/v2/"
    said = ""
    for number in range(20):
        said = curl.refused("--include", "--user", f"dave:guess {number}", url)
        if " 429 " in said:
            break
        assert " 401 " in said
    assert "TOOMANYREQUESTS" in said
    assert "retry-after: " in said.lower()
    assert "TOOMANYREQUESTS" in curl.refused("--user", "dave:dave's", url)
    assert curl("--user", "dave:dave's", "--interface", "127.0.0.2", url) == "{}"
    assert curl("--user", f"alice:{PASSWORDS['alice']}", url) == "{}"
