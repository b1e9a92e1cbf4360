"""What there is to import: repositories of a source, the manifests in each, and their content by digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from storage.digest import Digest, parse_digest
from storage.errors import DigestInvalid, ManifestInvalid
from storage.index import TAG, Entry, RepositoryIndex
from storage.layout import BLOBS, INDEX
from storage.transfer.errors import SourceError
from storage.transfer.files import File, Files, read_document
from storage.transfer.names import Name, parse_name

#: The annotation in which containerd and docker write an image's whole name.
IMAGE_NAME = "io.containerd.image.name"


class Content(Protocol):
    """What a source has, by digest."""

    def open(self, digest: Digest) -> File:
        """Open content, of which nothing has been checked; raise Missing and SourceError."""

    def position(self, digest: Digest) -> int:
        """Return what orders content so that it is read at the least cost."""


@dataclass(frozen=True, slots=True)
class Root:
    """A manifest to be imported with all it needs, under `tags` or without one.

    `media_type` is None where only the manifest itself says it; `called` is how the source names it.
    """

    digest: Digest
    media_type: str | None
    tags: tuple[str, ...] = ()
    called: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Something of a source that cannot be imported, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of a source; it has no name if the source gives none."""

    name: str | None
    content: Content
    roots: tuple[Root, ...] = ()
    failures: tuple[Failure, ...] = ()


class Source(Protocol):
    """What a path turned out to be: `kind` is for people; a tree's repositories have their names from their places."""

    @property
    def kind(self) -> str:
        """What people call it."""

    @property
    def is_tree(self) -> bool:
        """Whether its repositories have names of their own."""

    def repositories(self) -> Iterator[Repository]:
        """Yield what there is; raise SourceError where nothing can be read."""


@dataclass(frozen=True, slots=True)
class LayoutContent:
    """The blobs of an OCI image layout."""

    files: Files

    def open(self, digest: Digest) -> File:
        """Open a blob."""
        return self.files.open(_blob(digest))

    def position(self, digest: Digest) -> int:
        """Return where in the archive the blob lies."""
        return self.files.position(_blob(digest))


@dataclass(frozen=True, slots=True)
class OciLayout:
    """An OCI image layout, in a directory or an archive; docker writes those of several repositories in one."""

    files: Files
    kind: str = "OCI image layout"
    is_tree: bool = False

    def repositories(self) -> Iterator[Repository]:
        """Read index.json."""
        return grouped(LayoutContent(self.files), *read_index(self.files))


def read_index(files: Files) -> tuple[list[tuple[Name, Root]], list[Failure]]:
    """Return the manifests that the index.json of a layout lists, and those of its entries that are no good."""
    try:
        index = RepositoryIndex.parse(read_document(files, INDEX))
    except ManifestInvalid as error:
        raise SourceError(f"{INDEX} is damaged: {error.message}") from None
    named, failures = [], []
    for entry in index.entries:
        called = _called(entry)
        try:
            root = Root(parse_digest(entry["digest"]), entry["mediaType"], called=(called,) if called else ())
            named.append((parse_name(called) if called else Name(), root))
        except (SourceError, DigestInvalid) as error:
            failures.append(Failure(called or entry["digest"], error.message))
    if index.others:
        failures.append(Failure(INDEX, "something among the manifests is no descriptor"))
    return named, failures


def _called(entry: Entry) -> str:
    annotations = entry.get("annotations")
    names = [annotations.get(key) for key in (IMAGE_NAME, TAG)] if isinstance(annotations, dict) else []
    return next((name for name in names if isinstance(name, str) and name), "")


def _blob(digest: Digest) -> str:
    return f"{BLOBS}/{digest.algorithm}/{digest.encoded}"


def grouped(content: Content, named: Iterable[tuple[Name, Root]], failures: Iterable[Failure]) -> Iterator[Repository]:
    """Yield the repositories that images are said to be of; what has no name belongs to the only one, if it is that.

    Raises SourceError if two images have the same tag in one repository.
    """
    named = list(named)
    names = {name.repository for name, _ in named if name.repository}
    only = names.pop() if len(names) == 1 else None
    groups: dict[str | None, list[Root]] = {}
    for name, root in named:
        tags = (name.tag,) if name.tag else ()
        groups.setdefault(name.repository or only, []).append(replace(root, tags=tags))
    failed = tuple(failures)
    for number, (repository, roots) in enumerate((groups or {None: []}).items()):
        yield Repository(repository, content, merged(roots), () if number else failed)


def merged(roots: Iterable[Root]) -> tuple[Root, ...]:
    """Return each manifest once, with all its tags; raise SourceError if two have the same tag."""
    found: dict[Digest, Root] = {}
    owners: dict[str, Digest] = {}
    for root in roots:
        for tag in root.tags:
            if owners.setdefault(tag, root.digest) != root.digest:
                raise SourceError(f"two images are tagged {tag}: {owners[tag]} and {root.digest}")
        known = found.get(root.digest, root)
        tags, called = dict.fromkeys((*known.tags, *root.tags)), dict.fromkeys((*known.called, *root.called))
        found[root.digest] = replace(known, tags=tuple(tags), called=tuple(called))
    return tuple(found.values())
