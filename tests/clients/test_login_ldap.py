"""Real clients whose users are in a directory (`http.auth.ldap`): who gets in, and what they see while it is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.support.images import Layout
from tests.clients.support.login import WRITE, docker_at, load_image, log_in, log_in_refused, make_image, pull_again
from tests.clients.support.programs import Client, Skopeo
from tests.support import slapd
from tests.support.server import Server
from tests.support.slapd import USERS, Slapd
from tests.support.users import htpasswd

INSECURE = "--tls-verify=false"
ALICE, BOB, ODD = (USERS[name] for name in ("alice", "bob", "odd"))
LOCAL = {"operator": "of the file"}
#: Of groups: alice is a developer, bob an intern.
RULES = {
    "repositories": {
        "team/**": {
            "policies": [{"groups": ["developers"], "actions": WRITE}, {"users": ["operator"], "actions": WRITE}],
            "defaultPolicy": ["read"],
        }
    }
}


@dataclass(frozen=True)
class Listed:
    """A registry whose users are in a directory, but for one who is in a file."""

    server: Server
    directory: Slapd

    @property
    def host(self) -> str:
        """Return the registry's host and port."""
        return self.server.host


@contextmanager
def listing(root: Path, scheme: str) -> Iterator[Listed]:
    """Run a directory and a registry that knows its users."""
    slapd.require()
    with Slapd(root / "slapd") as directory:
        users = htpasswd(root / "htpasswd", LOCAL)
        auth = {"ldap": directory.config(), "htpasswd": {"path": str(users)}}
        if scheme == "tokens":
            auth["token"] = {}
        # Nothing is remembered: a directory that is away is noticed at once.
        config = {"http": {"auth": auth, "accessControl": RULES}, "server": {"authCache": "0s"}}
        with Server(root / "data", config=config, workers=2) as server:
            yield Listed(server, directory)


@pytest.fixture(scope="module", params=["passwords", "tokens"])
def listed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listed]:
    with listing(tmp_path_factory.mktemp("listed"), request.param) as listed:
        yield listed


@pytest.mark.xdist_group("docker")
def test_docker_from_login_to_logout(docker: Client, home: Path, listed: Listed, repository: str) -> None:
    alice, bob = (docker_at(docker, home / name) for name in ("alice", "bob"))
    image = f"{listed.host}/team/{repository}:1"
    identity = make_image(alice, image)
    assert "nauthorized" in log_in_refused(alice, listed.host, "alice", "wrong")
    assert "nauthorized" in log_in_refused(alice, listed.host, "*", ALICE.password)
    log_in(alice, listed.host, "alice", ALICE.password)
    log_in(bob, listed.host, "bob", BOB.password)
    assert "denied: " in bob.refused("push", image)
    alice("push", image)
    assert pull_again(bob, image) == identity
    alice("logout", listed.host)
    assert alice.refused("push", image)


@pytest.mark.xdist_group("docker")
@pytest.mark.parametrize("scheme", ["passwords", "tokens"])
def test_docker_while_the_directory_is_away(
    docker: Client, home: Path, tmp_path: Path, scheme: str, repository: str
) -> None:
    """It is not told that its password is wrong; who is not in the directory goes on."""
    alice, operator = (docker_at(docker, home / name) for name in ("alice", "operator"))
    with listing(tmp_path, scheme) as listed:
        image = f"{listed.host}/team/{repository}:1"
        identity = make_image(operator, image)
        log_in(alice, listed.host, "alice", ALICE.password)
        listed.directory.stop()
        for said in (
            log_in_refused(alice, listed.host, "alice", ALICE.password),
            log_in_refused(alice, listed.host, "alice", "wrong"),
            # A push would be tried again for most of a minute.
            alice.refused("pull", image),
        ):
            assert "503" in said or "cannot be looked up now" in said
            assert "unauthorized" not in said.lower()
        log_in(operator, listed.host, "operator", LOCAL["operator"])
        operator("push", image)
        assert pull_again(operator, image) == identity


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_podman_and_buildah(
    request: pytest.FixtureRequest, layout: Layout, listed: Listed, program: str, repository: str
) -> None:
    client: Client = request.getfixturevalue(program)
    number = load_image(client, layout)
    image = f"{listed.host}/team/{repository}:1"
    assert "invalid username/password" in log_in_refused(client, listed.host, "bob", "wrong", INSECURE)
    log_in(client, listed.host, "bob", BOB.password, INSECURE)
    assert "denied: " in client.refused("push", INSECURE, number, image)
    log_in(client, listed.host, "alice", ALICE.password, INSECURE)
    client("push", INSECURE, number, image)


def test_skopeo(skopeo: Skopeo, layout: Layout, listed: Listed, repository: str) -> None:
    """Names and passwords may be odd."""
    pushed = layout.tag("1", layout.image())
    image = f"docker://{listed.host}/team/{repository}:1"
    skopeo.copy(layout.at("1"), image, "--dest-creds", f"alice:{ALICE.password}")
    log_in(skopeo, listed.host, ODD.names[0], ODD.password, INSECURE)
    assert skopeo.raw(image) == pushed.body
