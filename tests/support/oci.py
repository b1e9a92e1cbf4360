"""Content for tests: OCI and Docker documents, their digests, and the requests that push them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import urljoin

import requests

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ORAS_ARTIFACT = "application/vnd.cncf.oras.artifact.manifest.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"

TIMEOUT = 60.0
ERROR_CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}

Json: TypeAlias = dict[str, Any]


class Answer(Protocol):
    """Describe what the checks here read of an HTTP answer, whoever received it."""

    @property
    def status_code(self) -> int:
        """Return the HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers, case-insensitively."""

    @property
    def content(self) -> bytes:
        """Return the whole body."""


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of `data` as `algorithm:hex`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def random_bytes(size: int = 64) -> bytes:
    """Return content that no other test has."""
    return os.urandom(size)


def descriptor_of(data: bytes, media_type: str, algorithm: str = "sha256", **extra: Any) -> Json:
    """Return the descriptor of `data`, with `extra` properties."""
    return {"mediaType": media_type, "digest": digest_of(data, algorithm), "size": len(data), **extra}


@dataclass(frozen=True)
class Document:
    """Hold a manifest as it is pushed: its bytes and its media type."""

    body: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """Return the sha256 digest."""
        return digest_of(self.body)

    @property
    def content(self) -> Json:
        """Return the parsed JSON."""
        parsed: Json = json.loads(self.body)
        return parsed

    def descriptor(self, algorithm: str = "sha256", **extra: Any) -> Json:
        """Return the descriptor that another document refers to this one with."""
        return descriptor_of(self.body, self.media_type, algorithm, **extra)


def document(content: Any, media_type: str) -> Document:
    """Return `content` as a JSON document of that media type."""
    return Document(json.dumps(content).encode(), media_type)


def image(config: Json, layers: Iterable[Json] = (), media_type: str = OCI_IMAGE, **fields: Any) -> Document:
    """Return an image manifest, OCI's or Docker's; `fields` are artifactType, subject, annotations and the like."""
    content = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": list(layers), **fields}
    return document(content, media_type)


def index(children: Iterable[Json], media_type: str = OCI_INDEX, **fields: Any) -> Document:
    """Return an image index or a Docker manifest list over the descriptors `children`."""
    content = {"schemaVersion": 2, "mediaType": media_type, "manifests": list(children), **fields}
    return document(content, media_type)


def oras_artifact(artifact_type: str, blobs: Iterable[Json] = (), **fields: Any) -> Document:
    """Return a manifest of the ORAS artifacts spec."""
    content = {"mediaType": ORAS_ARTIFACT, "artifactType": artifact_type, "blobs": list(blobs), **fields}
    return document(content, ORAS_ARTIFACT)


def referrers_tag(digest: str) -> str:
    """Return the tag that the referrers tag schema gives a digest: both halves cut, joined by a hyphen."""
    algorithm, encoded = digest.split(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


class Remote:
    """Talk to one repository of a registry.

    Paths are relative to `/v2/<name>/`; an absolute path or URL, such as a Location, is taken as it is.
    """

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self._session = requests.Session()

    def authorize(self, headers: Mapping[str, str]) -> None:
        """Send these headers with every request from now on."""
        self._session.headers.update(headers)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send one request, following no redirect, and return the answer whatever it is."""
        url = urljoin(f"{self.url}/v2/{self.name}/", path)
        return self._session.request(method, url, timeout=TIMEOUT, allow_redirects=False, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """Send a GET."""
        return self.request("GET", path, **options)

    def head(self, path: str, **options: Any) -> requests.Response:
        """Send a HEAD."""
        return self.request("HEAD", path, **options)

    def put(self, path: str, **options: Any) -> requests.Response:
        """Send a PUT."""
        return self.request("PUT", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """Send a POST."""
        return self.request("POST", path, **options)

    def patch(self, path: str, **options: Any) -> requests.Response:
        """Send a PATCH."""
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> requests.Response:
        """Send a DELETE."""
        return self.request("DELETE", path, **options)

    def start_upload(self, **params: str) -> str:
        """Open an upload session and return its location."""
        answer = self.post("blobs/uploads/", params=params)
        expect_status(answer, 202)
        return answer.headers["Location"]

    def finish_upload(self, location: str, digest: str, **options: Any) -> requests.Response:
        """Close an upload session with `digest` and return the answer."""
        return self.put(location, params={"digest": digest}, **options)

    def push_blob(self, data: bytes, media_type: str = OCI_LAYER, algorithm: str = "sha256") -> Json:
        """Push a blob by POST and PUT and return its descriptor."""
        descriptor = descriptor_of(data, media_type, algorithm)
        expect_status(self.finish_upload(self.start_upload(), descriptor["digest"], data=data), 201)
        return descriptor

    def put_manifest(self, manifest: Document, reference: str | None = None, **options: Any) -> requests.Response:
        """Send a manifest to a tag or digest (its own by default) and return the answer."""
        headers = {"Content-Type": manifest.media_type, **options.pop("headers", {})}
        return self.put(f"manifests/{reference or manifest.digest}", data=manifest.body, headers=headers, **options)

    def push(self, manifest: Document, reference: str | None = None, **options: Any) -> Document:
        """Push a manifest whose content is already there, and return it."""
        expect_status(self.put_manifest(manifest, reference, **options), 201)
        return manifest

    def build_image(self, media_type: str = OCI_IMAGE, *, algorithm: str = "sha256", **fields: Any) -> Document:
        """Push a config and a layer of unique content and return the image over them, not yet pushed."""
        docker = media_type == DOCKER_IMAGE
        config = self.push_blob(random_bytes(), DOCKER_CONFIG if docker else OCI_CONFIG, algorithm)
        layer = self.push_blob(random_bytes(), DOCKER_LAYER if docker else OCI_LAYER, algorithm)
        return image(config, [layer], media_type, **fields)

    def push_image(self, reference: str | None = None, **fields: Any) -> Document:
        """Push an image of unique content to a tag, or by digest only, and return its manifest."""
        return self.push(self.build_image(**fields), reference)

    def push_referrer(self, subject: Json, artifact_type: str = "application/vnd.example", **fields: Any) -> Document:
        """Push an artifact with an empty config that refers to `subject`."""
        config = self.push_blob(b"{}", OCI_EMPTY)
        return self.push(image(config, [], artifactType=artifact_type, subject=subject, **fields))

    def referrers(self, digest: str, **params: str) -> list[Json]:
        """Return the descriptors of the first page of the referrers of `digest`."""
        answer = self.get(f"referrers/{digest}", params=params)
        expect_status(answer, 200)
        manifests: list[Json] = answer.json()["manifests"]
        return manifests

    def tags(self, **params: str) -> list[str]:
        """Return the first page of the tags."""
        answer = self.get("tags/list", params=params)
        expect_status(answer, 200)
        tags: list[str] = answer.json()["tags"]
        return tags


def expect_status(answer: Answer, *statuses: int) -> None:
    """Fail, showing the answer's body, unless its status is one of `statuses`."""
    if answer.status_code not in statuses:
        raise AssertionError(f"status {answer.status_code}, expected {statuses}: {answer.content[:1000]!r}")


def expect_error(answer: Answer, status: int | Iterable[int], *codes: str) -> list[Json]:
    """Check an error answer against the spec's "Error Codes" and return its `errors`.

    Every error must have a code of the spec's fourteen, a message that says something, and a detail; the first
    one must be among `codes` where some are given.
    """
    expect_status(answer, *([status] if isinstance(status, int) else status))
    shown = repr(answer.content[:1000])
    assert answer.headers["Content-Type"].split(";")[0] == "application/json", shown
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0", answer.headers
    body = json.loads(answer.content)
    assert list(body) == ["errors"], shown
    assert body["errors"], shown
    errors: list[Json] = body["errors"]
    for error in errors:
        assert error["code"] in ERROR_CODES, shown
        assert isinstance(error["message"], str), shown
        assert len(error["message"]) > len("error"), shown
        assert "detail" in error, shown
    assert not codes or errors[0]["code"] in codes, f"{shown}, expected {codes}"
    return errors


def next_link(answer: Answer) -> str | None:
    """Return the target of the RFC 5988 `Link` with `rel="next"`, or None where there is no Link."""
    if "Link" not in answer.headers:
        return None
    links = requests.utils.parse_header_links(answer.headers["Link"])
    assert answer.headers["Link"].startswith("<"), answer.headers["Link"]
    assert [link["rel"] for link in links] == ["next"], answer.headers["Link"]
    return links[0]["url"]
