"""A repository gets another name: its blobs are linked first, then its index is there, and only then gone here."""

from __future__ import annotations

from contextlib import ExitStack, suppress

from storage.backend import Backend, Version, has_blob
from storage.controller import StoreController
from storage.digest import Digest
from storage.errors import IndexChanged, RepositoryUnknown
from storage.index import RepositoryIndex
from storage.undo import make_note

_ATTEMPTS = 5  #: at a repository that is being pushed to


class NotMovable(Exception):
    """The repository cannot get the new name, and why."""


def move(controller: StoreController, source: str, target: str, *, dry_run: bool = False) -> int:
    """Give a repository another name; return the number of its blobs. Those nested in it keep theirs.

    At every moment at least one of the two is whole; after a crash it can be done again. What is pushed to the old name
    meanwhile moves too, or makes a repository of that name anew.

    Raises RepositoryUnknown, ManifestInvalid if an index is damaged, NotMovable, IndexChanged if the old one never
    comes to rest, and QuotaExceeded.
    """
    for _ in range(_ATTEMPTS):
        with suppress(IndexChanged):
            return _move(controller, source, target, dry_run)
    raise IndexChanged("the repository is being pushed to all the time", name=source)


def _move(controller: StoreController, source: str, target: str, dry_run: bool) -> int:
    here, there = controller.store(source).backend, controller.store(target).backend
    data, version = here.read_index(source)
    index = RepositoryIndex.parse(data)
    if not index.entries:
        raise RepositoryUnknown("the repository has no manifests", name=source)
    _check_free(there, target, index)
    digests = list(here.list_blobs(source))
    if dry_run:
        return len(digests)
    for digest in digests:
        if not controller.mount(target, digest, source) and has_blob(here, source, digest):
            raise NotMovable(f"blob {digest} cannot be copied: run pierhead scrub {source}")
    with ExitStack() as stack:
        for name in sorted((source, target)):  # whoever takes two locks takes them in this order
            stack.enter_context((here if name == source else there).lock(name))
        if here.index_version(source) != version:
            raise IndexChanged("the index has changed since its blobs were linked", name=source)
        known = _check_free(there, target, index)
        for digest in digests:  # also what the collector has taken for garbage, as nothing referenced it there yet
            if not has_blob(there, target, digest) and has_blob(here, source, digest):
                raise IndexChanged("a blob has gone since it was linked", name=target)
        there.swap_index(target, data, known)
        for pulled in here.pulls(source):
            there.record_pull(target, Digest(pulled))
        here.note_removed(source, make_note(index.entries))
        here.swap_index(source, RepositoryIndex(index.document).data, version)
    return len(digests)


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
