"""The documents: which media types are manifests, and what a manifest references (image spec)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from storage.digest import is_digest
from storage.errors import ManifestInvalid, ManifestTooLarge

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ORAS_ARTIFACT = "application/vnd.cncf.oras.artifact.manifest.v1+json"

IMAGES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
ARTIFACTS = frozenset({OCI_ARTIFACT, ORAS_ARTIFACT})
MANIFESTS = IMAGES | INDEXES | ARTIFACTS
#: The types whose documents may say that they belong to another manifest.
WITH_SUBJECT = frozenset({OCI_MANIFEST, OCI_INDEX}) | ARTIFACTS

#: Layers that registries need not hold (image spec, "Non-distributable layers", and Docker's foreign layers).
FOREIGN_LAYERS = frozenset(
    {
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)
_SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

#: Largest manifest that is accepted, in bytes: the 4 MB that clients may expect, and a little.
MAX_SIZE = 4 * 1024 * 1024 + 64 * 1024
_MAX_BLOB_SIZE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content: its type, its digest (of any algorithm that the grammar allows) and its size in bytes."""

    media_type: str
    digest: str
    size: int

    @property
    def is_foreign(self) -> bool:
        """Whether this is a layer that the registry need not hold."""
        return self.media_type in FOREIGN_LAYERS

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as the specs write it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says about itself and about other content.

    `blobs` are the config and the layers, `children` the manifests of an index; `subject` is what it belongs to.
    """

    media_type: str
    artifact_type: str | None
    subject: Descriptor | None
    annotations: dict[str, str] | None
    blobs: tuple[Descriptor, ...]
    children: tuple[Descriptor, ...]


def parse_manifest(data: bytes, content_type: str | None = None) -> Manifest:
    """Return what the document says; `content_type` is its media type without parameters, where one was given.

    Raises ManifestTooLarge, and ManifestInvalid with the place in the document that is wrong.
    """
    if len(data) > MAX_SIZE:
        raise ManifestTooLarge(f"a manifest has at most {MAX_SIZE} bytes", size=len(data), limit=MAX_SIZE)
    document = parse_document(data)
    media_type = None if document.get("schemaVersion") == 1 else _media_type(document, content_type)
    if media_type is None or media_type in _SCHEMA_1:
        raise ManifestInvalid("Docker schema 1 manifests are not supported: push Docker schema 2 or OCI")
    if media_type not in MANIFESTS:
        raise ManifestInvalid(
            "not a manifest media type that this registry knows", mediaType=media_type, accepted=sorted(MANIFESTS)
        )
    return _read(document, media_type)


def parse_document(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raise ManifestInvalid where the bytes are something else."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ManifestInvalid("the document is not JSON", reason=str(error)) from None
    if not isinstance(document, dict):
        raise ManifestInvalid("the document is not a JSON object")
    return document


def _media_type(document: dict[str, Any], content_type: str | None) -> str:
    """Decide what the document is; refuse contradictions (image spec, "mediaType"; CVE-2021-41190)."""
    declared = _string(document, "mediaType", "mediaType")
    if content_type and declared and content_type != declared:
        raise ManifestInvalid(
            "Content-Type and the document's mediaType contradict each other",
            contentType=content_type,
            mediaType=declared,
        )
    if document.get("manifests") is not None and (document.get("layers") or document.get("config")):
        raise ManifestInvalid("the document is both an index ('manifests') and an image ('config', 'layers')")
    media_type = content_type or declared or _guess(document)
    if media_type is None:
        raise ManifestInvalid("the document has no mediaType, and the request has no Content-Type")
    return media_type


def _guess(document: dict[str, Any]) -> str | None:
    """Name the type of an OCI document without mediaType, which the image spec's older versions did not have."""
    if document.get("schemaVersion") != 2:  # noqa: PLR2004
        return None
    if "manifests" in document:
        return OCI_INDEX
    return OCI_MANIFEST if "config" in document else None


def _read(document: dict[str, Any], media_type: str) -> Manifest:
    if media_type not in ARTIFACTS and document.get("schemaVersion") != 2:  # noqa: PLR2004
        raise ManifestInvalid("schemaVersion must be 2", path="schemaVersion")
    blobs: list[Descriptor] = []
    children: list[Descriptor] = []
    artifact_type = _string(document, "artifactType", "artifactType")
    if media_type in INDEXES:
        children = _descriptors(document, "manifests")
    elif media_type in ARTIFACTS:
        blobs = _descriptors(document, "blobs")
    else:
        config = _descriptor(document.get("config"), "config")
        blobs = [config, *_descriptors(document, "layers")]
        artifact_type = artifact_type or config.media_type
    return Manifest(
        media_type=media_type,
        artifact_type=artifact_type,
        subject=_subject(document, media_type),
        annotations=_annotations(document),
        blobs=tuple(blobs),
        children=tuple(children),
    )


def _subject(document: dict[str, Any], media_type: str) -> Descriptor | None:
    subject = document.get("subject")
    if subject is None or media_type not in WITH_SUBJECT:
        return None
    return _descriptor(subject, "subject")


def _descriptors(document: dict[str, Any], key: str) -> list[Descriptor]:
    """Read a list of descriptors; null is the empty list, as Go's encoders write it."""
    values = document.get(key)
    if values is None:
        return []
    if not isinstance(values, list):
        raise ManifestInvalid(f"{key} must be a list of descriptors", path=key)
    return [_descriptor(value, f"{key}[{number}]") for number, value in enumerate(values)]


def _descriptor(value: object, path: str) -> Descriptor:
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{path} must be a descriptor", path=path)
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not media_type:
        raise ManifestInvalid(f"{path}.mediaType must be a media type", path=f"{path}.mediaType")
    if not isinstance(digest, str) or not is_digest(digest):
        raise ManifestInvalid(f"{path}.digest must be a digest", path=f"{path}.digest")
    if type(size) is not int or not 0 <= size <= _MAX_BLOB_SIZE:
        raise ManifestInvalid(f"{path}.size must be a number of bytes", path=f"{path}.size")
    return Descriptor(media_type, digest, size)


def _annotations(document: dict[str, Any]) -> dict[str, str] | None:
    """Read the annotations: a map of strings to strings (image spec, "Annotations: rules")."""
    annotations = document.get("annotations")
    if annotations is None:
        return None
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise ManifestInvalid("annotations must be a map of strings to strings", path="annotations")
    return annotations


def _string(document: dict[str, Any], key: str, path: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise ManifestInvalid(f"{path} must be a string", path=path)
    return value or None
