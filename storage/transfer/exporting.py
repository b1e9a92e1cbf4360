"""Export: one tar archive that is an OCI image layout, and that `docker load` reads too.

The same content gives the same bytes: names are sorted, and nothing in the archive has a time or an owner.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from storage.backend import Backend, Redirect, Stream
from storage.digest import Digest, new_hasher, parse_digest
from storage.errors import BlobUnknown, ManifestInvalid
from storage.image_store import ImageStore
from storage.index import TAG, RepositoryIndex, tag_of
from storage.layout import BLOBS, INDEX, MARKER
from storage.manifests import IMAGES, INDEXES, MANIFESTS, MAX_SIZE, OCI_INDEX, Descriptor, Manifest, parse_document
from storage.transfer.docker import DOCKER_INDEX
from storage.transfer.errors import Damaged, Missing, SourceError
from storage.transfer.files import File
from storage.transfer.sources import IMAGE_NAME, Root, merged
from storage.transfer.walking import blobs_of, read_manifest, walk

_CHUNK = 4 * 1024 * 1024
_MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_CONFIGS = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})
_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")

Write = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on; without a variant, any will do."""

    system: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        """Write it as docker does."""
        return "/".join(part for part in (self.system, self.architecture, self.variant) if part)

    def matches(self, described: object) -> bool:
        """Tell whether a `platform`, or an image's config, is this one."""
        if not isinstance(described, dict):
            return False
        found = (described.get("os"), described.get("architecture"))
        return found == (self.system, self.architecture) and self.variant in (None, described.get("variant"))


@dataclass(frozen=True, slots=True)
class StoredContent:
    """The manifests of a repository, by digest."""

    backend: Backend
    repository: str

    def open(self, digest: Digest) -> File:
        """Read a manifest; raise Missing."""
        try:
            data = self.backend.read_blob(self.repository, digest, MAX_SIZE + 1)
        except BlobUnknown:
            raise Missing(f"{digest} is missing") from None
        return File(digest, io.BytesIO(data), 0, len(data))

    def position(self, digest: Digest) -> int:
        """Return 0: nothing here is a part of a larger file."""
        return 0


@dataclass(slots=True)
class Export:
    """What is to be exported: the manifests that the archive names, all that were found from there, and sizes."""

    repository: str
    backend: Backend
    roots: tuple[Root, ...]
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many bytes of content there are."""
        return sum(self.sizes.values())


_USUAL = Platform("linux", "amd64")  #: whose image gets the tag where docker can give it to only one


# what there is


def gather(
    store: ImageStore, repository: str, reference: str | None, platform: Platform | None = None, *, sparse: bool = False
) -> Export:
    """Find what a tag or digest needs, with its referrers, or all that the repository has.

    With a platform, an index gives way to its image for that. Indexes whose children are missing are taken as they are
    if the store is `sparse`. Raises SourceError for what is not there, Missing and Damaged for what is not whole.
    """
    content = StoredContent(store.backend, repository)
    roots = _roots(store, repository, reference)
    if platform:
        roots = tuple(_for_platform(content, root, platform) for root in roots)
    export = Export(repository, store.backend, roots)
    todo = list(roots)
    while todo:
        new = _explore(export, content, todo.pop())
        if reference:
            referrers = [_root(entry) for digest in new for entry in store.referrers(repository, digest)]
            added = [root for root in referrers if root.digest not in export.manifests]
            export.roots = merged((*export.roots, *added))
            todo += added
    _measure(export, sparse)
    return export


def _roots(store: ImageStore, repository: str, reference: str | None) -> tuple[Root, ...]:
    """Return what the index lists, or what a reference names; raise SourceError and RepositoryUnknown."""
    try:
        index = RepositoryIndex.parse(store.backend.read_index(repository)[0])
    except ManifestInvalid as error:
        raise Damaged(f"{INDEX} of {repository} is damaged: {error.message}") from None
    if reference is None:
        return merged(_root(entry) for entry in index.entries if entry["mediaType"] in MANIFESTS)
    entry = (index.by_digest if ":" in reference else index.tags).get(reference)
    if entry is not None:
        return (_root(entry if ":" not in reference else {**entry, "annotations": {}}),)
    if ":" not in reference:
        raise SourceError(f"{repository} has no tag {reference}")
    found = store.get_manifest(repository, reference)
    return (Root(found.digest, found.media_type),)


def _root(entry: dict[str, Any]) -> Root:
    tag = tag_of(entry)
    return Root(parse_digest(entry["digest"]), entry["mediaType"], (tag,) if tag else ())


def _for_platform(content: StoredContent, root: Root, platform: Platform) -> Root:
    """Return the image for a platform; raise SourceError if there is none, with those that there are."""
    document = parse_document(read_manifest(content, root.digest))
    if root.media_type in INDEXES:
        children = [child for child in document.get("manifests") or () if isinstance(child, dict)]
        found = [child for child in children if platform.matches(child.get("platform"))]
        if found:
            return replace(_root({**found[0], "annotations": {}}), tags=root.tags)
        known = sorted(filter(None, (_platform_of(child) for child in children)))
    elif root.media_type in IMAGES:
        config = parse_document(read_manifest(content, parse_digest(document["config"]["digest"])))
        if platform.matches(config):
            return root
        known = [f"{config.get('os')}/{config.get('architecture')}"]
    else:
        known = []
    raise SourceError(f"there is no image for {platform}: there is {', '.join(known) or 'none for any platform'}")


def _platform_of(child: dict[str, Any]) -> str:
    platform = child.get("platform")
    parts = [platform.get(key) for key in ("os", "architecture", "variant")] if isinstance(platform, dict) else []
    return "/".join(part for part in parts if isinstance(part, str))


def _explore(export: Export, content: StoredContent, root: Root) -> list[Digest]:
    """Add what a manifest lists; return the digests of the manifests that are new."""
    new = []
    for one, manifest in walk(content, root):
        if one.digest not in export.manifests:
            export.manifests[one.digest] = manifest
            new.append(one.digest)
    return new


def _measure(export: Export, sparse: bool) -> None:
    """Find the size of everything; raise Missing with all that is missing."""
    missing: list[str] = []
    for digest, manifest in export.manifests.items():
        _add(export, digest)
        children = [child.digest for child in manifest.children if child.media_type in MANIFESTS]
        lacking = [] if sparse else [child for child in children if child not in export.manifests]
        lacking += [
            part.digest for part in blobs_of(manifest) if not _add(export, Digest(part.digest)) and not part.is_foreign
        ]
        missing += [f"{part}, which {digest} needs, is missing" for part in dict.fromkeys(lacking)]
    if missing:
        raise Missing("; ".join(missing))


def _add(export: Export, digest: Digest) -> bool:
    try:
        export.sizes[digest] = export.backend.blob_size(export.repository, digest)
    except BlobUnknown:
        return False
    return True


# what is written


def write(export: Export, out: Write, tell: Callable[[int, str], object] = lambda *_: None) -> None:
    """Write the archive; raise Damaged for content that is not what its digest says: the archive is no good then."""
    _add_file(out, MARKER, _MARKER)
    _add_file(out, INDEX, orjson.dumps(_index(export)))
    _add_file(out, DOCKER_INDEX, orjson.dumps(_docker_index(export)))
    for digest in sorted(export.sizes):
        _add_blob(out, export, digest, tell)
    out(bytes(2 * tarfile.BLOCKSIZE))


def _index(export: Export) -> dict[str, Any]:
    named = [(tag, root) for root in export.roots for tag in root.tags or ("",)]
    entries = [_entry(export, root, tag) for tag, root in sorted(named, key=lambda pair: (pair[0], pair[1].digest))]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def _entry(export: Export, root: Root, tag: str) -> dict[str, Any]:
    manifest = export.manifests[root.digest]
    entry = Descriptor(manifest.media_type, root.digest, export.sizes[root.digest]).to_json()
    library = "" if "/" in export.repository else "library/"
    names = {IMAGE_NAME: f"docker.io/{library}{export.repository}:{tag}", TAG: tag}
    return entry | ({"annotations": names} if tag else {})


def _docker_index(export: Export) -> list[dict[str, Any]]:
    """List the images that docker can load; of an index that has a tag, the image for the usual platform gets it."""
    tags: dict[Digest, list[str]] = {}
    for digest, manifest in export.manifests.items():
        if _is_loadable(export, manifest):
            tags[digest] = []
    for root in export.roots:
        chosen = _chosen(export, root.digest, tags)
        if chosen:
            tags[chosen] += root.tags
    images: dict[str, dict[str, Any]] = {}
    for digest in sorted(tags):
        config, *layers = (_path(part.digest) for part in export.manifests[digest].blobs)
        image = images.setdefault(config, {"Config": config, "RepoTags": [], "Layers": layers})
        image["RepoTags"] = sorted({*image["RepoTags"], *(f"{export.repository}:{tag}" for tag in tags[digest])})
    return [{**image, "RepoTags": image["RepoTags"] or None} for image in images.values()]


def _is_loadable(export: Export, manifest: Manifest) -> bool:
    """Tell whether this is an image of a container, all of which is here."""
    if manifest.media_type not in IMAGES or manifest.blobs[0].media_type not in _CONFIGS:
        return False
    return all(part.media_type.startswith(_LAYERS) and part.digest in export.sizes for part in manifest.blobs[1:])


def _chosen(export: Export, digest: Digest, loadable: Container[Digest]) -> Digest | None:
    """Return the image that stands for a manifest where there can be only one: of an index, else the first."""
    if digest in loadable:
        return digest
    document = parse_document(read_manifest(StoredContent(export.backend, export.repository), digest))
    children = [child for child in document.get("manifests") or () if child["digest"] in loadable]
    usual = [child for child in children if _USUAL.matches(child.get("platform"))]
    return next((Digest(child["digest"]) for child in (*usual, *children)), None)


def _path(digest: str) -> str:
    return f"{BLOBS}/{digest.replace(':', '/')}"


def _add_file(out: Write, name: str, data: bytes) -> None:
    out(_header(name, len(data)))
    out(data + _padding(len(data)))


def _add_blob(out: Write, export: Export, digest: Digest, tell: Callable[[int, str], object]) -> None:
    """Write a blob, which is checked on the way."""
    size, hasher, left = export.sizes[digest], new_hasher(digest.algorithm), export.sizes[digest]
    out(_header(_path(digest), size))
    with _opened(export, digest) as stream:
        while left and (chunk := stream.read(min(left, _CHUNK))):
            hasher.update(chunk)
            out(chunk)
            left -= len(chunk)
            tell(len(chunk), digest)
    if left or hasher.hexdigest() != digest.encoded:
        raise Damaged(f"{digest} is damaged")
    out(_padding(size))


@contextmanager
def _opened(export: Export, digest: Digest) -> Iterator[Stream]:
    try:
        stream = export.backend.open_blob(export.repository, digest)
    except BlobUnknown:
        raise Missing(f"{digest} is missing") from None
    if isinstance(stream, Redirect):
        raise SourceError(f"{digest} lies elsewhere: {stream.url}")
    try:
        yield stream
    finally:
        stream.close()


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
