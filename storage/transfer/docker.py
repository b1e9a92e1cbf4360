"""What `docker save` wrote before docker 25, and `podman save` and `skopeo copy ... docker-archive:` still write.

There are configs and layers, but no manifests: an OCI manifest is made over them, the one that docker 25 would write.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from storage.digest import Digest, parse_digest
from storage.errors import DigestInvalid
from storage.manifests import MAX_SIZE, OCI_MANIFEST
from storage.transfer.errors import Damaged, Missing, SourceError
from storage.transfer.files import File, Files, read_document
from storage.transfer.names import Name, parse_name
from storage.transfer.sources import Failure, Repository, Root, grouped

DOCKER_INDEX = "manifest.json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_GZIP = b"\x1f\x8b"
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _MadeContent:
    """Manifests that were made, and the files that they are over, by digest."""

    files: Files
    paths: dict[Digest, str] = field(default_factory=dict)
    manifests: dict[Digest, bytes] = field(default_factory=dict)

    def open(self, digest: Digest) -> File:
        """Open a manifest, or a file of the archive."""
        data = self.manifests.get(digest)
        if data is not None:
            return File(digest, io.BytesIO(data), 0, len(data))
        if digest not in self.paths:
            raise Missing(f"{digest} is missing")
        return self.files.open(self.paths[digest])

    def position(self, digest: Digest) -> int:
        """Return where in the archive the file lies."""
        return self.files.position(self.paths[digest]) if digest in self.paths else 0


@dataclass(frozen=True, slots=True)
class DockerArchive:
    """An archive of images without manifests."""

    files: Files
    kind: str = "docker archive"
    is_tree: bool = False

    def repositories(self) -> Iterator[Repository]:
        """Read manifest.json, and make a manifest for each image in it."""
        content = _MadeContent(self.files)
        named: list[tuple[Name, Root]] = []
        failures = []
        for image in _images(self.files):
            tags = _strings(image, "RepoTags")
            try:
                digest = _make_manifest(content, image)
                named += [(parse_name(tag), Root(digest, OCI_MANIFEST, called=(tag,))) for tag in tags]
                if not tags:
                    named.append((Name(), Root(digest, OCI_MANIFEST)))
            except SourceError as error:
                failures.append(Failure(", ".join(tags) or str(image.get("Config")), error.message))
        return grouped(content, named, failures)


def is_docker_index(data: bytes) -> bool:
    """Tell whether a manifest.json is that of a docker archive, which is a list."""
    return data.lstrip()[:1] == b"["


def _images(files: Files) -> list[dict[str, Any]]:
    images = _json(read_document(files, DOCKER_INDEX), DOCKER_INDEX)
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise SourceError(f"{DOCKER_INDEX} is no list of images")
    return images


def _make_manifest(content: _MadeContent, image: dict[str, Any]) -> Digest:
    """Make the manifest of an image; raise SourceError for an image that is not whole."""
    path = image.get("Config")
    if not isinstance(path, str):
        raise SourceError(f"{DOCKER_INDEX} names no config")
    data = read_document(content.files, path, MAX_SIZE)
    layers, diff_ids = _strings(image, "Layers"), _diff_ids(data, path)
    if len(layers) != len(diff_ids):
        raise SourceError(f"{DOCKER_INDEX} names {len(layers)} layers, and {path} has {len(diff_ids)}")
    config = Digest.of(data)
    content.paths[config] = path
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": _CONFIG, "digest": config, "size": len(data)},
        "layers": [_layer(content, layer, diff_id) for layer, diff_id in zip(layers, diff_ids, strict=True)],
    }
    manifest = orjson.dumps(document)
    digest = Digest.of(manifest)
    content.manifests[digest] = manifest
    return digest


def _diff_ids(config: bytes, path: str) -> list[Digest]:
    document = _json(config, path)
    rootfs = document.get("rootfs") if isinstance(document, dict) else None
    try:
        return [parse_digest(diff_id) for diff_id in _strings(rootfs, "diff_ids")] if rootfs else []
    except DigestInvalid as error:
        raise SourceError(f"{path} has a diff_id that is no digest: {error.message}") from None


def _layer(content: _MadeContent, path: str, diff_id: Digest) -> dict[str, Any]:
    """Describe a layer. One that is not compressed will be checked when it is stored: its digest is its diff_id."""
    with content.files.open(path) as file:
        start = file.read(len(_GZIP)) if file.size else b""
        size = file.size
    compressed = start == _GZIP
    digest = _digest_of_compressed(content.files, path, diff_id) if compressed else diff_id
    content.paths[digest] = path
    return {"mediaType": _LAYER + ("+gzip" if compressed else ""), "digest": digest, "size": size}


def _digest_of_compressed(files: Files, path: str, diff_id: Digest) -> Digest:
    """Return the digest of a layer that is compressed; raise Damaged if its content is not what the config says."""
    outer, inner = hashlib.sha256(), hashlib.new(diff_id.algorithm)
    with files.open(path) as file:
        decompressor = zlib.decompressobj(wbits=31)
        try:
            while chunk := file.read(_CHUNK):
                outer.update(chunk)
                while chunk:
                    inner.update(decompressor.decompress(chunk, _CHUNK))
                    chunk = decompressor.unconsumed_tail
                    if decompressor.eof and decompressor.unused_data:
                        chunk, decompressor = decompressor.unused_data, zlib.decompressobj(wbits=31)
        except zlib.error as error:
            raise Damaged(f"layer {path} is damaged: {error}") from None
    if not decompressor.eof or inner.hexdigest() != diff_id.encoded:
        raise Damaged(f"layer {path} is damaged: its content is not {diff_id}")
    return Digest(f"sha256:{outer.hexdigest()}")


def _strings(document: Any, key: str) -> list[str]:
    values = document.get(key) if isinstance(document, dict) else None
    values = [] if values is None else values
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise SourceError(f"{key} is no list of strings")
    return values


def _json(data: bytes, name: str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise SourceError(f"{name} is damaged: {error}") from None
