"""What other tools leave behind to be imported, written by hand: archives of docker's, distribution's storage."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.clients.support.images import rootfs
from tests.support.oci import Document, Json, digest_of, random_bytes


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """Return what a tar archive is made of."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def write_tar(path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    """Write a tar archive."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


def files_of(directory: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return the files below a directory, as members of an archive."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return [member(f"./{path.relative_to(directory)}", path.read_bytes()) for path in paths]


class DockerArchive:
    """What `docker save` wrote before docker 25: layers that the images share are links, and manifest.json is last."""

    def __init__(self) -> None:
        """Begin with no image."""
        self.members: list[tuple[tarfile.TarInfo, bytes]] = []
        self.images: list[Json] = []
        self._layers: dict[bytes, str] = {}

    def image(self, *names: str, layers: Iterable[bytes] | None = None, compress: bool = False) -> bytes:
        """Add an image; return its config. Layers are uncompressed, whether or not they are stored so."""
        trees = [rootfs(random_bytes())] if layers is None else list(layers)
        diff_ids = [digest_of(tree) for tree in trees]
        config = json.dumps({"os": "linux", "n": len(self.images), "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        name = f"{digest_of(config.encode())[7:]}.json"
        self.members.append(member(name, config.encode()))
        paths = [self._layer(tree, compress) for tree in trees]
        self.images.append({"Config": name, "RepoTags": list(names) or None, "Layers": paths})
        return config.encode()

    def _layer(self, tree: bytes, compress: bool) -> str:
        path = f"layer{len(self.members)}/layer.tar"
        known = self._layers.setdefault(tree, path)
        if known != path:
            self.members.append(member(path, kind=tarfile.SYMTYPE, link=f"../{known}"))
        else:
            self.members.append(member(path, gzip.compress(tree) if compress else tree))
        return path

    def write(self, path: Path, mode: str = "w") -> Path:
        """Write the archive."""
        index = member("manifest.json", json.dumps(self.images).encode())
        return write_tar(path, [*self.members, index], mode)


class DistributionTree:
    """The storage of distribution's registry."""

    def __init__(self, root: Path) -> None:
        """Make it, in its usual place below a root."""
        self.root = root
        self.v2 = root / "docker/registry/v2"
        for name in ("blobs", "repositories"):
            (self.v2 / name).mkdir(parents=True)

    def blob(self, data: bytes, media_type: str) -> Json:
        """Write a blob and return its descriptor."""
        digest = digest_of(data)
        self.data(digest).parent.mkdir(parents=True, exist_ok=True)
        self.data(digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def data(self, digest: str) -> Path:
        """Return where a blob lies."""
        return self.v2 / "blobs/sha256" / digest[7:9] / digest[7:] / "data"

    def manifest(self, repository: str, manifest: Document, *tags: str) -> Document:
        """Write a manifest, a revision of a repository, and tags that have it."""
        self.blob(manifest.body, manifest.media_type)
        self.link(self.manifests(repository) / "revisions/sha256" / manifest.digest[7:], manifest.digest)
        for tag in tags:
            self.link(self.manifests(repository) / "tags" / tag / "current", manifest.digest)
        return manifest

    def manifests(self, repository: str) -> Path:
        """Return where a repository's manifests are named."""
        return self.v2 / "repositories" / repository / "_manifests"

    def link(self, directory: Path, digest: str) -> None:
        """Write a file with a digest in it."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "link").write_text(digest)
