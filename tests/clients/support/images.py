"""OCI image layouts on disk, small and never twice the same: what skopeo, umoci and ctr push from."""

import gzip
import io
import json
import tarfile
from pathlib import Path

from tests.support.oci import (
    OCI_CONFIG,
    OCI_LAYER,
    REF_NAME,
    Document,
    Json,
    descriptor_of,
    digest_of,
    image,
    index,
    random_bytes,
)

HELLO = "hello"


def rootfs(content: bytes) -> bytes:
    """Return a tar archive of a file system with one file in it, `/hello`."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(HELLO)
        member.size = len(content)
        member.mode = 0o644
        tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


class Layout:
    """Write an OCI image layout at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: list[Json] = []
        (root / "blobs" / "sha256").mkdir(parents=True)
        (root / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        self._write_index()

    def at(self, tag: str) -> str:
        """Return how skopeo calls what has the tag."""
        return f"oci:{self.root}:{tag}"

    def tag(self, name: str, manifest: Document) -> Document:
        """Give a manifest a tag and return it."""
        self._entries.append(manifest.descriptor(annotations={REF_NAME: name}))
        self._write_index()
        return manifest

    def image(self, content: bytes | None = None, architecture: str = "amd64", layers: int = 1) -> Document:
        """Write an image whose `/hello` is `content` (random by default) and return its manifest."""
        trees = [rootfs(content or random_bytes()) for _ in range(layers)]
        # Level 0 stores without compressing: random content would only cost time.
        described = [self._blob(gzip.compress(tree, 0, mtime=0), OCI_LAYER) for tree in trees]
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": [f"/{HELLO}"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tree) for tree in trees]},
        }
        return self._document(image(self._blob(json.dumps(config).encode(), OCI_CONFIG), described))

    def multi_arch(self, *architectures: str) -> Document:
        """Write an image for each architecture and return an index over them."""
        return self._document(index([self._for_platform(architecture) for architecture in architectures]))

    def digests(self) -> set[str]:
        """Return the digests of all manifests, configs and layers."""
        return {f"sha256:{blob.name}" for blob in (self.root / "blobs" / "sha256").iterdir()}

    def archive(self, target: Path) -> Path:
        """Write the layout as a tar archive, as `ctr images import` takes it, and return its path."""
        with tarfile.open(target, "w") as tar:
            tar.add(self.root, arcname=".")
        return target

    def _for_platform(self, architecture: str) -> Json:
        manifest = self.image(architecture=architecture)
        return manifest.descriptor(platform={"architecture": architecture, "os": "linux"})

    def _document(self, document: Document) -> Document:
        self._blob(document.body, document.media_type)
        return document

    def _blob(self, data: bytes, media_type: str) -> Json:
        descriptor = descriptor_of(data, media_type)
        (self.root / "blobs" / str(descriptor["digest"]).replace(":", "/")).write_bytes(data)
        return descriptor

    def _write_index(self) -> None:
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self._entries}))
