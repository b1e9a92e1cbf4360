"""A docker engine under TLS: its own directory of certificates, a client's certificate, and a password beside it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.support.images import Layout
from tests.clients.support.login import (
    PASSWORDS,
    RULES,
    docker_at,
    load_image,
    log_in,
    log_in_refused,
    make_image,
    pull_again,
)
from tests.clients.support.programs import Client, Skopeo
from tests.support.certificates import Authority, Pair
from tests.support.oci import Json
from tests.support.server import Server
from tests.support.users import htpasswd

pytestmark = pytest.mark.direct("certificates of clients end at a proxy")

DOCKER = pytest.mark.xdist_group("docker")
#: Where docker looks, and nowhere else.
CERTIFICATES = Path("/etc/docker/certs.d")


def address() -> str:
    """Return an address of this machine: docker verifies no certificate on a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        found: str = probe.getsockname()[0]
        return found


@dataclass(frozen=True)
class Secured:
    """A server, who signs certificates for it, and that of a client."""

    server: Server
    authority: Authority
    alice: Pair
    address: str

    @property
    def host(self) -> str:
        """Return host and port."""
        return f"{self.address}:{self.server.port}"

    def fill(self, directory: Path, *, authority: bool = True, certificate: bool = True) -> None:
        """Put files into a directory as docker, podman and skopeo want them."""
        directory.mkdir(parents=True)
        if authority:
            shutil.copy(self.authority.cert, directory / "ca.crt")
        if certificate:
            shutil.copy(self.alice.cert, directory / "client.cert")
            shutil.copy(self.alice.key, directory / "client.key")

    @contextmanager
    def known_to_docker(self, **what: bool) -> Iterator[None]:
        """Let the engine know the authority, and have the certificate; take all away in the end."""
        directory = CERTIFICATES / self.host
        self.fill(directory, **what)
        try:
            yield
        finally:
            shutil.rmtree(directory)
            with suppress(OSError):  # somebody else's certificates are in it, too
                CERTIFICATES.rmdir()


Secure = Callable[..., Secured]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """Give a function that starts a server with TLS and these ways to log in."""
    with ExitStack() as running:

        def make(**auth: Any) -> Secured:
            root = tmp_path_factory.mktemp("secured")
            authority = Authority(root)
            pair = authority.server(hosts=("localhost", "127.0.0.1", address()))
            tls = {"cert": str(pair.cert), "key": str(pair.key), "cacert": str(authority.cert)}
            rules = {name: rule for name, rule in RULES["repositories"].items() if auth or name != "public/**"}
            http = {"address": "0.0.0.0", "tls": tls, "auth": auth, "accessControl": {"repositories": rules}}
            server = running.enter_context(Server(root / "data", workers=2, config={"http": http}))
            return Secured(server, authority, authority.client("alice"), address())

        yield make


@pytest.fixture(scope="module")
def required(secure: Secure) -> Secured:
    """Give a server that lets nobody in without a certificate."""
    return secure()


@pytest.fixture(scope="module", params=["passwords", "tokens"])
def beside(request: pytest.FixtureRequest, secure: Secure, tmp_path_factory: pytest.TempPathFactory) -> Secured:
    """Give a server to which one may show a certificate, or a password."""
    users = htpasswd(tmp_path_factory.mktemp("users") / "htpasswd", PASSWORDS)
    auth: Json = {"htpasswd": {"path": str(users)}} | ({"token": {}} if request.param == "tokens" else {})
    return secure(**auth)


@DOCKER
def test_docker_with_a_certificate(docker: Client, home: Path, required: Secured, repository: str) -> None:
    client = docker_at(docker, home)
    image, foreign = (f"{required.host}/{owner}/{repository}:1" for owner in ("alice", "bob"))
    identity = make_image(client, image)
    client("tag", image, foreign)
    with required.known_to_docker():
        client("push", image)
        assert pull_again(client, image) == identity
        assert "denied: " in client.refused("push", foreign)


@DOCKER
def test_docker_without_a_certificate(docker: Client, home: Path, required: Secured, repository: str) -> None:
    client = docker_at(docker, home)
    make_image(client, image := f"{required.host}/alice/{repository}:1")
    with required.known_to_docker(certificate=False):
        assert "certificate required" in client.refused("push", image)


@DOCKER
def test_docker_trusts_no_other_authority(docker: Client, home: Path, required: Secured, repository: str) -> None:
    client = docker_at(docker, home)
    make_image(client, image := f"{required.host}/alice/{repository}:1")
    with required.known_to_docker(authority=False):
        if required.address == "127.0.0.1":
            client("push", image)
        else:
            assert "unknown authority" in client.refused("push", image)


@DOCKER
def test_docker_with_a_password_and_no_certificate(
    docker: Client, home: Path, beside: Secured, repository: str
) -> None:
    bob = docker_at(docker, home)
    image, foreign = (f"{beside.host}/{owner}/{repository}:1" for owner in ("bob", "alice"))
    identity = make_image(bob, image)
    bob("tag", image, foreign)
    with beside.known_to_docker(certificate=False):
        assert "nauthorized" in log_in_refused(bob, beside.host, "bob", "wrong")
        log_in(bob, beside.host, "bob", PASSWORDS["bob"])
        bob("push", image)
        assert pull_again(bob, image) == identity
        assert "denied: " in bob.refused("push", foreign)
        bob("logout", beside.host)
        assert bob.refused("push", image)


@DOCKER
def test_docker_with_both_is_who_its_certificate_says(
    docker: Client, home: Path, beside: Secured, repository: str
) -> None:
    """It sends what it has saved of a login only where /v2/ asks for it, and that lets the certificate in."""
    client = docker_at(docker, home)
    hers, his = (f"{beside.host}/{owner}/{repository}:1" for owner in ("alice", "bob"))
    make_image(client, hers)
    client("tag", hers, his)
    with beside.known_to_docker():
        client("push", hers)
        log_in(client, beside.host, "bob", PASSWORDS["bob"])
        assert "denied: " in client.refused("push", his)


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_podman_and_buildah(  # noqa: PLR0913, PLR0917
    request: pytest.FixtureRequest, layout: Layout, home: Path, beside: Secured, program: str, repository: str
) -> None:
    client: Client = request.getfixturevalue(program)
    number = load_image(client, layout)
    beside.fill(home / "both")
    beside.fill(home / "authority", certificate=False)
    hers, his = (f"{beside.host}/{owner}/{repository}:1" for owner in ("alice", "bob"))
    client("push", "--cert-dir", home / "both", number, hers)
    assert "unauthorized" in client.refused("push", "--cert-dir", home / "authority", number, his)
    log_in(client, beside.host, "bob", PASSWORDS["bob"], "--cert-dir", home / "authority")
    client("push", "--cert-dir", home / "authority", number, his)
    assert "403 (Forbidden)" in client.refused("push", "--cert-dir", home / "authority", number, hers)


def test_skopeo(skopeo: Skopeo, layout: Layout, home: Path, beside: Secured, repository: str) -> None:
    layout.tag("1", layout.image())
    beside.fill(home / "both")
    beside.fill(home / "authority", certificate=False)
    hers, his = (f"docker://{beside.host}/{owner}/{repository}:1" for owner in ("alice", "bob"))
    bob = ("--dest-creds", f"bob:{PASSWORDS['bob']}")
    skopeo("copy", "--dest-cert-dir", home / "both", layout.at("1"), hers)
    skopeo("copy", "--dest-cert-dir", home / "authority", *bob, layout.at("1"), his)
    skopeo("copy", "--src-cert-dir", home / "both", hers, f"dir:{home}/pulled")
    assert "unauthorized" in skopeo.refused("copy", "--src-cert-dir", home / "authority", hers, f"dir:{home}/none")


def test_curl(curl: Client, beside: Secured) -> None:
    trusting = ("--cacert", beside.authority.cert)
    showing = ("--cert", beside.alice.cert, "--key", beside.alice.key)
    url = f"{beside.server.url}/v2/"
    assert curl(*trusting, *showing, url) == "{}"
    assert "401" in curl.refused(*trusting, url)
    if "token" not in beside.server.config_file.read_text():
        assert curl(*trusting, "--user", f"bob:{PASSWORDS['bob']}", url) == "{}"
    # A wrong password is not made good by a certificate.
    assert "401" in curl.refused(*trusting, *showing, "--user", "bob:wrong", url)
