"""Whole registries on disk: the storage of distribution (docker-registry), and directories of OCI layouts, as zot's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from storage.digest import ALGORITHMS, Digest, is_digest, parse_digest
from storage.errors import DigestInvalid
from storage.layout import BLOBS, INDEX
from storage.transfer.errors import Missing, SourceError
from storage.transfer.files import Directory, File, read_document
from storage.transfer.sources import Failure, LayoutContent, Repository, Root, merged, read_index

_MANIFESTS = "_manifests"
_MAX_LINK = 256  #: bytes that a file with a digest in it may have
_ABOVE = ("", "/v2", "/registry/v2", "/docker/registry/v2")


@dataclass(frozen=True, slots=True)
class _BlobStore:
    """The content of distribution's storage, which all its repositories share."""

    files: Directory

    def open(self, digest: Digest) -> File:
        """Open a blob."""
        return self.files.open(f"blobs/{digest.algorithm}/{digest.encoded[:2]}/{digest.encoded}/data")

    def position(self, digest: Digest) -> int:
        """Return 0: each blob is a file of its own."""
        return 0


@dataclass(frozen=True, slots=True)
class DistributionTree:
    """The storage of distribution's registry, from its directory `v2` on."""

    root: str
    kind: str = "distribution storage"
    is_tree: bool = True

    def repositories(self) -> Iterator[Repository]:
        """Yield each repository with all its revisions, tagged or not."""
        files = Directory(self.root)
        for name in _below(f"{self.root}/repositories", lambda path: os.path.isdir(f"{path}/{_MANIFESTS}")):
            directory = f"repositories/{name}/{_MANIFESTS}"
            revisions = {digest: Root(digest, None) for digest in self._revisions(directory)}
            failures = []
            for tag in _listed(f"{self.root}/{directory}/tags"):
                try:
                    digest = _read_link(files, f"{directory}/tags/{tag}/current/link")
                    root = revisions[digest]
                except KeyError:
                    failures.append(Failure(tag, "its manifest was deleted there"))
                except SourceError as error:
                    failures.append(Failure(tag, error.message))
                else:
                    revisions[digest] = replace(root, tags=(*root.tags, tag))
            # Those without a tag come last: most are there by then, since an index lists them.
            roots = sorted(revisions.values(), key=lambda root: not root.tags)
            yield Repository(name, _BlobStore(files), tuple(roots), tuple(failures))

    def _revisions(self, directory: str) -> Iterator[Digest]:
        """Yield the manifests that were not deleted."""
        for algorithm in ALGORITHMS:
            path = f"{self.root}/{directory}/revisions/{algorithm}"
            for encoded in _listed(path):
                if is_digest(digest := f"{algorithm}:{encoded}") and os.path.exists(f"{path}/{encoded}/link"):
                    yield Digest(digest)


def find_distribution(path: str) -> DistributionTree | None:
    """Return the storage of distribution that lies at a path or below it, in its usual place."""
    for below in _ABOVE:
        if all(os.path.isdir(f"{path}{below}/{name}") for name in ("repositories", "blobs")):
            return DistributionTree(path + below)
    return None


@dataclass(frozen=True, slots=True)
class LayoutTree:
    """A directory in which OCI image layouts lie under the names of repositories."""

    root: str
    kind: str = "directory of OCI image layouts"
    is_tree: bool = True

    def repositories(self) -> Iterator[Repository]:
        """Yield each layout; one that cannot be read is a repository of which everything has failed."""
        for name in layouts_below(self.root):
            files = Directory(f"{self.root}/{name}")
            try:
                named, failures = read_index(files)
                tagged = (replace(root, tags=(called.tag,) if called.tag else ()) for called, root in named)
                yield Repository(name, LayoutContent(files), merged(tagged), tuple(failures))
            except SourceError as error:
                yield Repository(name, LayoutContent(files), (), (Failure(INDEX, error.message),))


def layouts_below(root: str) -> Iterator[str]:
    """Yield the names of the directories that have an index.json."""
    return _below(root, lambda path: os.path.isfile(f"{path}/{INDEX}"))


def _below(root: str, is_one: Callable[[str], bool]) -> Iterator[str]:
    """Yield, in order, the names of those directories at any depth that are one; links are not followed."""
    todo = [""]
    while todo:
        name = todo.pop()
        if name and is_one(f"{root}/{name}"):
            yield name
        below = [part for part in _listed(f"{root}/{name}") if not part.startswith((".", "_")) and part != BLOBS]
        todo += [f"{name}/{part}" if name else part for part in reversed(below)]


def _listed(path: str) -> list[str]:
    """Return the sorted names of the directories in a directory."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return []


def _read_link(files: Directory, name: str) -> Digest:
    try:
        return parse_digest(read_document(files, name, _MAX_LINK).decode("ascii", "replace").strip())
    except Missing:
        raise SourceError("it has no manifest there") from None
    except DigestInvalid:
        raise SourceError(f"{name} holds no digest") from None
