"""From a manifest to all that it lists and needs."""

from __future__ import annotations

from collections.abc import Iterator

from storage.digest import Digest, parse_digest
from storage.manifests import MANIFESTS, MAX_SIZE, Descriptor, Manifest, parse_manifest
from storage.transfer.errors import Damaged, Missing
from storage.transfer.sources import Content, Root


def walk(content: Content, root: Root) -> Iterator[tuple[Root, Manifest]]:
    """Yield the manifest and all that it lists, each after what it lists itself; indexes nest without limit.

    A child that is missing is left out. Raises Missing if the manifest itself is, and StorageError for what is no good.
    """
    seen: set[Digest] = set()
    todo: list[tuple[Root, Manifest | None]] = [(root, None)]
    while todo:
        one, manifest = todo.pop()
        if manifest:
            yield one, manifest
        elif one.digest not in seen:
            seen.add(one.digest)
            try:
                manifest = parse_manifest(read_manifest(content, one.digest), one.media_type)
            except Missing:
                if one is root:
                    raise
                continue
            todo.append((one, manifest))
            children = [child for child in manifest.children if child.media_type in MANIFESTS]
            todo += [(Root(parse_digest(child.digest), child.media_type), None) for child in reversed(children)]


def blobs_of(manifest: Manifest) -> Iterator[Descriptor]:
    """Yield what a manifest needs beside other manifests; raise DigestInvalid for what cannot be stored."""
    for part in (*manifest.blobs, *(child for child in manifest.children if child.media_type not in MANIFESTS)):
        parse_digest(part.digest)
        yield part


def read_manifest(content: Content, digest: Digest) -> bytes:
    """Return a small blob whole; raise Damaged if it is not what its digest says, Missing and SourceError."""
    with content.open(digest) as file:
        data = file.read_all(MAX_SIZE)
    if Digest.of(data, digest.algorithm) != digest:
        raise Damaged(f"{file.name} is damaged: its content is not {digest}")
    return data
