"""Plain curl against the registry: an image pushed and pulled by hand, and what curl does of its own accord."""

import json
from pathlib import Path

import pytest

from tests.clients.support.programs import Client, Skopeo
from tests.clients.support.target import Target
from tests.support.oci import (
    OCI_CONFIG,
    OCI_IMAGE,
    OCI_LAYER,
    Document,
    Json,
    descriptor_of,
    digest_of,
    image,
    random_bytes,
)

MIB = 1024 * 1024


class Hand:
    """Do with curl, request by request, what a client does."""

    def __init__(self, curl: Client, target: Target) -> None:
        self._curl = curl
        self._origin = target.server.url
        self.url = f"{target.server.url}/v2/{target.repository}"

    def session(self, method: str, url: str, *options: str, stdin: bytes = b"") -> str:
        """Open an upload session, or feed one, and return its URL from now on."""
        to_headers = ("--dump-header", "-", "--output", "/dev/null")
        headers = self._curl("--request", method, *to_headers, *options, url, stdin=stdin)
        (location,) = (line.split(": ", 1)[1] for line in headers.splitlines() if line.lower().startswith("location:"))
        return f"{self._origin}{location}" if location.startswith("/") else location

    def push_blob(self, content: Path, media_type: str) -> Json:
        """Push a file by POST and PUT and return its descriptor."""
        descriptor = descriptor_of(content.read_bytes(), media_type)
        session = self.session("POST", f"{self.url}/blobs/uploads/")
        self._curl("--upload-file", content, closing(session, descriptor["digest"]))
        return descriptor

    def push_manifest(self, manifest: Document, tag: str) -> None:
        """Push a manifest to a tag."""
        headers = ("--header", f"Content-Type: {manifest.media_type}")
        self._curl("--upload-file", "-", *headers, f"{self.url}/manifests/{tag}", stdin=manifest.body)

    def pull_range(self, url: str, span: str) -> bytes:
        """Return a range of what is at the URL."""
        part = self._curl.home / "part"
        self._curl("--range", span, "--output", part, url)
        return part.read_bytes()


def closing(session: str, digest: str) -> str:
    """Return the URL that ends an upload session."""
    return f"{session}{'&' if '?' in session else '?'}digest={digest}"


@pytest.fixture
def hand(curl: Client, target: Target) -> Hand:
    """Return a hand to do requests with."""
    return Hand(curl, target)


@pytest.fixture
def content(home: Path) -> Path:
    """Return a file of 3 MiB: before it sends more than 1 MiB, curl asks with `Expect: 100-continue`."""
    path = home / "content"
    path.write_bytes(random_bytes(3 * MIB))
    return path


def test_an_image_by_hand(curl: Client, hand: Hand, content: Path) -> None:
    config = curl.home / "config.json"
    config.write_text("{}")
    layer = hand.push_blob(content, OCI_LAYER)
    manifest = image(hand.push_blob(config, OCI_CONFIG), [layer])
    hand.push_manifest(manifest, "1")

    assert json.loads(curl(f"{hand.url}/tags/list"))["tags"] == ["1"]
    assert curl("--header", f"Accept: {OCI_IMAGE}", f"{hand.url}/manifests/1").encode() == manifest.body
    curl("--output", curl.home / "pulled", f"{hand.url}/blobs/{layer['digest']}")
    assert (curl.home / "pulled").read_bytes() == content.read_bytes()


def test_an_image_by_hand_is_one_for_others(hand: Hand, skopeo: Skopeo, target: Target) -> None:
    config = skopeo.home / "config.json"
    config.write_text(json.dumps({"architecture": "amd64", "os": "linux"}))
    manifest = image(hand.push_blob(config, OCI_CONFIG))
    hand.push_manifest(manifest, "1")
    skopeo.copy(target.by_http(), f"dir:{skopeo.home}/pulled")
    assert (skopeo.home / "pulled" / "manifest.json").read_bytes() == manifest.body


def test_a_streamed_upload(curl: Client, hand: Hand, content: Path) -> None:
    session = hand.session("POST", f"{hand.url}/blobs/uploads/")
    # From standard input curl knows no length: it sends chunks (Transfer-Encoding: chunked).
    session = hand.session("PATCH", session, "--upload-file", "-", stdin=content.read_bytes())
    digest = digest_of(content.read_bytes())
    curl("--request", "PUT", closing(session, digest))
    curl("--output", curl.home / "pulled", f"{hand.url}/blobs/{digest}")
    assert (curl.home / "pulled").read_bytes() == content.read_bytes()


def test_an_interrupted_download_goes_on(curl: Client, hand: Hand, content: Path) -> None:
    url = f"{hand.url}/blobs/{hand.push_blob(content, OCI_LAYER)['digest']}"
    (curl.home / "pulled").write_bytes(hand.pull_range(url, f"0-{MIB - 1}"))
    curl("--continue-at", "-", "--output", curl.home / "pulled", url)
    assert (curl.home / "pulled").read_bytes() == content.read_bytes()


def test_ranges(hand: Hand, content: Path) -> None:
    url = f"{hand.url}/blobs/{hand.push_blob(content, OCI_LAYER)['digest']}"
    assert hand.pull_range(url, "10-19") == content.read_bytes()[10:20]
    assert hand.pull_range(url, "-5") == content.read_bytes()[-5:]


def test_a_refusal_says_why(curl: Client, hand: Hand, content: Path) -> None:
    session = hand.session("POST", f"{hand.url}/blobs/uploads/")
    said = curl.refused("--upload-file", content, closing(session, digest_of(b"other")))
    assert "DIGEST_INVALID" in said
    assert "400" in said
