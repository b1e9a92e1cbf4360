"""Real clients under TLS: each with an authority of our own, and with a certificate of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.support.images import Layout
from tests.clients.support.login import load_image
from tests.clients.support.programs import Client, Skopeo, require
from tests.support.certificates import Authority, Pair
from tests.support.oci import digest_of, random_bytes
from tests.support.server import Server

pytestmark = pytest.mark.direct("certificates of clients end at a proxy")


@dataclass(frozen=True)
class Secured:
    """A server that wants certificates, who signs them, and one of a client's."""

    server: Server
    authority: Authority
    alice: Pair

    def directory(self, home: Path, *, with_certificate: bool = True) -> Path:
        """Make a directory as docker, podman and skopeo know it, and return it."""
        directory = home / "certs.d"
        directory.mkdir()
        shutil.copy(self.authority.cert, directory / "ca.crt")
        if with_certificate:
            shutil.copy(self.alice.cert, directory / "client.cert")
            shutil.copy(self.alice.key, directory / "client.key")
        return directory


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    root = tmp_path_factory.mktemp("secured")
    authority = Authority(root)
    pair = authority.server()
    http = {
        "tls": {"cert": str(pair.cert), "key": str(pair.key), "cacert": str(authority.cert)},
        "accessControl": {
            "repositories": {"team/**": {"policies": [{"users": ["alice"], "actions": ["read", "create", "update"]}]}}
        },
    }
    with Server(root / "data", workers=2, config={"http": http}) as server:
        yield Secured(server, authority, authority.client("alice"))
        assert " ERROR " not in server.log.read_text()


def test_curl(curl: Client, secured: Secured) -> None:
    trusting = ("--cacert", secured.authority.cert)
    showing = ("--cert", secured.alice.cert, "--key", secured.alice.key)
    assert curl(*trusting, *showing, f"{secured.server.url}/v2/") == "{}"
    assert "certificate required" in curl.refused(*trusting, f"{secured.server.url}/v2/")
    assert "certificate" in curl.refused(*showing, "--cacert", secured.alice.cert, f"{secured.server.url}/v2/")
    plain = curl.refused(f"http://{secured.server.host}/v2/")
    assert "HTTP request to an HTTPS server" in plain


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_curl_with_a_large_body(curl: Client, home: Path, secured: Secured, version: str, framing: str) -> None:
    """Before so much curl asks whether it may send."""
    data = random_bytes(5_000_000)
    (home / "body").write_bytes(data)
    trusting = (f"--tlsv{version}", "--tls-max", version, "--cacert", secured.authority.cert)
    showing = ("--cert", secured.alice.cert, "--key", secured.alice.key)
    chunked = ("--header", "Transfer-Encoding: chunked") if framing == "chunks" else ()
    url = f"{secured.server.url}/v2/team/app/blobs"
    curl(*trusting, *showing, *chunked, "--data-binary", "@body", f"{url}/uploads/?digest={digest_of(data)}")
    curl(*trusting, *showing, "--output", "back", f"{url}/{digest_of(data)}")
    assert (home / "back").read_bytes() == data


def test_openssl(home: Path, secured: Secured) -> None:
    require("openssl")
    openssl = Client(("openssl", "s_client", "-connect", secured.server.host), home)
    files = ("-CAfile", secured.authority.cert, "-cert", secured.alice.cert, "-key", secured.alice.key)
    request = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    said = openssl(*files, "-verify_return_error", "-alpn", "h2,http/1.1", "-ign_eof", stdin=request)
    assert "Verify return code: 0 (ok)" in said
    assert "ALPN protocol: http/1.1" in said
    assert "HTTP/1.1 200 OK" in said


def test_openssl_cannot_renegotiate(home: Path, secured: Secured) -> None:
    """A client could make the server work a hundred times as much as itself."""
    require("openssl")
    files = ("-CAfile", secured.authority.cert, "-cert", secured.alice.cert, "-key", secured.alice.key)
    command = ["openssl", "s_client", "-connect", secured.server.host, "-tls1_2", *map(str, files)]
    said = subprocess.run(command, input=b"R\n", capture_output=True, check=False, timeout=60)
    assert b"RENEGOTIATING" in said.stderr
    assert b"no renegotiation" in said.stderr.lower()


def test_skopeo(skopeo: Skopeo, layout: Layout, home: Path, secured: Secured) -> None:
    pushed = layout.tag("1", layout.image(layers=3))
    directory = secured.directory(home)
    image = f"docker://{secured.server.host}/team/app:1"
    skopeo("copy", "--dest-cert-dir", directory, layout.at("1"), image)
    pulled = Layout(home / "pulled")
    skopeo("copy", "--src-cert-dir", directory, image, pulled.at("back"))
    assert skopeo.raw(pulled.at("back")) == pushed.body
    denied = f"docker://{secured.server.host}/other/app:1"
    assert "403 (Forbidden)" in skopeo.refused("copy", "--dest-cert-dir", directory, layout.at("1"), denied)


def test_skopeo_without_a_certificate(skopeo: Skopeo, layout: Layout, home: Path, secured: Secured) -> None:
    layout.tag("1", layout.image())
    directory = secured.directory(home, with_certificate=False)
    image = f"docker://{secured.server.host}/team/app:1"
    assert "certificate required" in skopeo.refused("copy", "--dest-cert-dir", directory, layout.at("1"), image)
    assert "unknown authority" in skopeo.refused("copy", layout.at("1"), image)


def test_podman(podman: Client, layout: Layout, home: Path, secured: Secured) -> None:
    directory = secured.directory(home)
    image = f"{secured.server.host}/team/podman:1"
    number = load_image(podman, layout)
    podman("push", "--cert-dir", directory, number, image)
    podman("pull", "--cert-dir", directory, image)
