"""What the load pushes: blobs and images that no registry has seen, and the requests that push them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.client import Connection

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
OCTETS = "application/octet-stream"

FRAME_SIZE = 32 * 1024  # what docker and podman put into one chunk of a streamed upload
CHUNK_SIZE = 10_000_000


@dataclass(frozen=True, slots=True)
class Blob:
    """Some bytes and their digest."""

    data: bytes
    digest: str

    def descriptor(self, media_type: str) -> dict[str, object]:
        """Describe the blob as a manifest does."""
        return {"mediaType": media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True, slots=True)
class Image:
    """An image of one layer."""

    config: Blob
    layer: Blob
    manifest: Blob


def blob_of(data: bytes) -> Blob:
    """Give data its digest."""
    return Blob(data, f"sha256:{hashlib.sha256(data).hexdigest()}")


def new_blob(size: int) -> Blob:
    """Make a blob of random bytes."""
    return blob_of(os.urandom(size))


def new_manifest(config: Blob, layer: Blob) -> Blob:
    """Make a manifest that differs from every other one."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.descriptor(CONFIG_TYPE),
        "layers": [layer.descriptor(LAYER_TYPE)],
        "annotations": {"org.opencontainers.image.revision": os.urandom(20).hex()},
    }
    return blob_of(json.dumps(document).encode())


def new_image(layer_size: int) -> Image:
    """Make an image: a config of about the usual size, one layer, a manifest."""
    config = blob_of(json.dumps({"architecture": "amd64", "os": "linux", "history": os.urandom(700).hex()}).encode())
    layer = new_blob(layer_size)
    return Image(config, layer, new_manifest(config, layer))


class LargeBody:
    """A large random body that turns into a new one at will.

    Only its first bytes change, which changes the digest of the whole; making it all anew would take longer
    than pushing it.
    """

    def __init__(self, size: int) -> None:
        """Fill the body with random bytes."""
        self._data = bytearray(os.urandom(size))
        self.renew()

    def renew(self) -> None:
        """Make it a body that no registry has seen."""
        self._data[:32] = os.urandom(32)
        self.digest = f"sha256:{hashlib.sha256(self._data).hexdigest()}"

    @property
    def data(self) -> memoryview:
        """The bytes, without a copy."""
        return memoryview(self._data)

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """Cut the body into chunks; each comes with its offset."""
        for offset in range(0, len(self._data), CHUNK_SIZE):
            yield offset, self.data[offset : offset + CHUNK_SIZE]

    def framed(self) -> memoryview:
        """Copy the body into the chunked transfer coding."""
        framed = bytearray()
        for offset in range(0, len(self._data), FRAME_SIZE):
            frame = self.data[offset : offset + FRAME_SIZE]
            framed += b"%x\r\n" % len(frame) + frame + b"\r\n"
        framed += b"0\r\n\r\n"
        return memoryview(framed)


def start_upload(connection: Connection, repository: str) -> str:
    """Open an upload session and give its location."""
    answer = connection.ask("POST", f"/v2/{repository}/blobs/uploads/", 202)
    return _location(answer.header("Location"))


def push_blob(connection: Connection, repository: str, digest: str, data: bytes | memoryview) -> None:
    """Push a blob with POST and PUT."""
    finish_upload(connection, start_upload(connection, repository), digest, data)


def push_streamed(connection: Connection, repository: str, digest: str, framed: memoryview) -> None:
    """Push a blob with POST, one PATCH of unknown length, and PUT."""
    location = start_upload(connection, repository)
    headers = {"Content-Type": OCTETS, "Transfer-Encoding": "chunked"}
    answer = connection.ask("PATCH", location, 202, headers=headers, body=framed)
    finish_upload(connection, _location(answer.header("Location")), digest)


def push_chunked(connection: Connection, repository: str, body: LargeBody) -> None:
    """Push a blob with POST, a PATCH with Content-Range for each chunk, and PUT."""
    location = start_upload(connection, repository)
    for offset, chunk in body.chunks():
        headers = {"Content-Type": OCTETS, "Content-Range": f"{offset}-{offset + len(chunk) - 1}"}
        answer = connection.ask("PATCH", location, 202, headers=headers, body=chunk)
        location = _location(answer.header("Location"))
    finish_upload(connection, location, body.digest)


def finish_upload(connection: Connection, location: str, digest: str, data: bytes | memoryview = b"") -> None:
    """Close an upload session with its last bytes."""
    path = f"{location}{'&' if '?' in location else '?'}digest={digest}"
    connection.ask("PUT", path, 201, headers={"Content-Type": OCTETS}, body=data)


def push_manifest(connection: Connection, repository: str, reference: str, manifest: Blob) -> None:
    """Push a manifest under a tag or its digest."""
    path = f"/v2/{repository}/manifests/{reference}"
    connection.ask("PUT", path, 201, headers={"Content-Type": MANIFEST_TYPE}, body=manifest.data)


def push_image(connection: Connection, repository: str, tag: str, image: Image) -> None:
    """Push an image the way clients do: ask for each blob, push what is not there, then the manifest."""
    for blob in (image.config, image.layer):
        connection.ask("HEAD", f"/v2/{repository}/blobs/{blob.digest}", 404)
        push_blob(connection, repository, blob.digest, blob.data)
    push_manifest(connection, repository, tag, image.manifest)


def _location(value: str | None) -> str:
    """Give the path and query of a Location header, which may be absolute or relative."""
    parts = urlsplit(value or "")
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
