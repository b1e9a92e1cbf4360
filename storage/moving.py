"""A repository gets another name: its blobs are linked first, then its index is there, and only then gone here."""

from __future__ import annotations

from contextlib import ExitStack

from storage.backend import Backend, Version
from storage.controller import StoreController
from storage.digest import Digest
from storage.errors import BlobUnknown, RepositoryUnknown
from storage.index import RepositoryIndex
from storage.undo import make_note


class NotMovable(Exception):
    """The repository cannot get the new name, and why."""


def move(controller: StoreController, source: str, target: str, *, dry_run: bool = False) -> int:
    """Give a repository another name; return the number of its blobs. Those nested in it keep theirs.

    At every moment at least one of the two is whole; after a crash it can be done again. What is pushed to the old name
    meanwhile moves too, or makes a repository of that name anew.

    Raises RepositoryUnknown, ManifestInvalid if an index is damaged, NotMovable, and QuotaExceeded.
    """
    here, there = controller.store(source).backend, controller.store(target).backend
    _, index = _read(here, source)
    _check_free(there, target, index)
    digests = list(here.list_blobs(source))
    if dry_run:
        return len(digests)
    for digest in digests:  # what comes to be missing is seen below, once nothing changes any more
        controller.mount(target, digest, source)
    with ExitStack() as stack:
        for name in sorted((source, target)):  # whoever takes two locks takes them in this order
            stack.enter_context((here if name == source else there).lock(name))
        version, index = _read(here, source)
        known = _check_free(there, target, index)
        digests = list(here.list_blobs(source))
        for digest in digests:
            _bring(controller, source, target, digest)
        there.swap_index(target, index.data, known)
        for pulled in here.pulls(source):
            there.record_pull(target, Digest(pulled))
        here.note_removed(source, make_note(index.entries))
        here.swap_index(source, RepositoryIndex(index.document).data, version)
    return len(digests)


def _read(backend: Backend, name: str) -> tuple[Version, RepositoryIndex]:
    data, version = backend.read_index(name)
    index = RepositoryIndex.parse(data)
    if not index.entries:
        raise RepositoryUnknown("the repository has no manifests", name=name)
    return version, index


def _bring(controller: StoreController, source: str, target: str, digest: Digest) -> None:
    """Let the target have a blob, as it has most already; nothing is collected from either meanwhile."""
    size = _size(controller.store(source).backend, source, digest)
    if size in (None, _size(controller.store(target).backend, target, digest)):
        return
    if not controller.mount(target, digest, source):
        raise NotMovable(f"blob {digest} cannot be copied: run pierhead scrub {source}")


def _size(backend: Backend, name: str, digest: Digest) -> int | None:
    try:
        return backend.blob_size(name, digest)
    except BlobUnknown:
        return None


def _check_free(backend: Backend, name: str, index: RepositoryIndex) -> Version | None:
    """Return the version of an index that lists nothing, or the very same as an attempt that was cut short has left."""
    try:
        data, version = backend.read_index(name)
    except RepositoryUnknown:
        return None
    found = RepositoryIndex.parse(data).entries
    if found and found != index.entries:
        raise NotMovable(f"there is a repository {name} already")
    return version
