"""What a repository has lost, and how it gets it back: notes that are written before its index changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from storage.backend import Backend, has_blob
from storage.digest import Digest, is_digest
from storage.errors import ManifestInvalid, ManifestUnknown, StorageError
from storage.index import Entry, is_entry, tag_of
from storage.manifests import MANIFESTS, MAX_SIZE, parse_manifest

if TYPE_CHECKING:
    from storage.image_store import ImageStore

_NANOSECONDS = 1e9


class NotRestorable(Exception):
    """What was deleted cannot be given back, because content that it needs is gone: `missing` are the digests."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(f"gone for good: {', '.join(missing)}")
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Removed:
    """A manifest that lost a tag, or that was deleted without one (None), `time` seconds after the epoch."""

    time: float
    tag: str | None
    entry: Entry
    note: str

    @property
    def digest(self) -> Digest:
        """The manifest."""
        return Digest(self.entry["digest"])

    @property
    def media_type(self) -> str:
        """Its media type, as it was pushed."""
        return str(self.entry["mediaType"])


def make_note(removed: Sequence[Entry]) -> bytes:
    """Write down the entries that one change of the index gives up."""
    return orjson.dumps({"removed": removed})


def history(backend: Backend, repository: str) -> list[Removed]:
    """Return what the repository has lost and can still be named, oldest first."""
    notes = backend.removed_notes(repository)
    return [removed for name, data in notes for removed in _read(name, data)]


def drop_old_notes(backend: Backend, repository: str, before: float) -> list[str]:
    """Forget what was lost before a time; return the names of the notes that went."""
    names = [name for name, _ in backend.removed_notes(repository) if _time(name) < before]
    for name in names:
        backend.drop_note(repository, name)
    return names


def find(backend: Backend, repository: str, reference: str, at: float | None = None) -> Removed | None:
    """Return what a tag (or a digest) was before its last change, or before the first one from the time `at` on."""
    found = [lost for lost in history(backend, repository) if reference in (lost.tag, lost.digest)]
    if at is None:
        return found[-1] if found else None
    return next((lost for lost in found if lost.time >= at), None)


def restore(store: ImageStore, repository: str, lost: Removed, *, dry_run: bool = False) -> list[Removed]:
    """Give a tag, or a manifest, back to its repository, with what it lists and what belonged to it.

    Returns what was lost at the same time for being a referrer of it, and is back too. Raises NotRestorable,
    which names what is gone; nothing is changed then.
    """
    backend = store.backend
    mine = _belonging_to(backend, repository, lost)
    wanted = [*closure(backend, repository, lost.digest, lost.media_type)]
    missing = {digest: kind for digest, kind in wanted if not has_blob(backend, repository, Digest(digest))}
    needed = [
        digest
        for digest, kind in missing.items()
        if digest == lost.digest or not (store.sparse_indexes and kind in MANIFESTS)
    ]
    if needed:
        raise NotRestorable(needed)
    if dry_run:
        return mine
    for digest, media_type in reversed(wanted):  # what an index lists comes before it
        if media_type in MANIFESTS and digest != lost.digest and digest not in missing:
            _put_listed(store, repository, digest, media_type)
    _put(store, repository, lost.digest, lost.media_type, lost.tag or lost.digest)
    return [other for other in mine if _put_if_whole(store, repository, other)]


def _belonging_to(backend: Backend, repository: str, lost: Removed) -> list[Removed]:
    """Return the referrers that were lost in the same change, those of referrers after these."""
    others = [other for other in history(backend, repository) if other.note == lost.note and other.tag is None]
    subjects = {other.digest: _subject(backend, repository, other) for other in others}
    found: list[Removed] = []
    digests: set[str] = {lost.digest}
    while new := [other for other in others if subjects[other.digest] in digests and other.digest not in digests]:
        found += new
        digests |= {other.digest for other in new}
    return found


def _put_listed(store: ImageStore, repository: str, digest: str, media_type: str) -> None:
    """Put what an index lists: as what it is, where it is listed as something else."""
    try:
        _put(store, repository, digest, media_type, digest)
    except ManifestInvalid:
        with suppress(ManifestInvalid):  # it is no manifest, which only a sparse index may list
            _put(store, repository, digest, None, digest)


def _put_if_whole(store: ImageStore, repository: str, lost: Removed) -> bool:
    try:
        _put(store, repository, lost.digest, lost.media_type, lost.digest)
    except (StorageError, OSError):
        return False
    return True


def _put(store: ImageStore, repository: str, digest: str, media_type: str | None, reference: str) -> None:
    data = store.backend.read_blob(repository, Digest(digest), MAX_SIZE + 1)
    if Digest.of(data, Digest(digest).algorithm) != digest:
        raise ManifestUnknown("the manifest's content is damaged", digest=digest)
    store.put_manifest(repository, reference, data, content_type=media_type)


def _subject(backend: Backend, repository: str, lost: Removed) -> str | None:
    """Return the subject of a manifest that was lost, if it has one and can be read."""
    try:
        manifest = parse_manifest(backend.read_blob(repository, lost.digest, MAX_SIZE + 1), lost.media_type)
    except StorageError:
        return None
    return manifest.subject.digest if manifest.subject else None


def closure(backend: Backend, repository: str, digest: str, media_type: str) -> Iterator[tuple[str, str]]:
    """Yield the digest and media type of a manifest, then of all that it needs, as far as that can be read."""
    seen = {digest}
    todo = [(digest, media_type)]
    while todo:
        content = todo.pop()
        yield content
        if content[1] not in MANIFESTS:
            continue
        try:
            manifest = parse_manifest(backend.read_blob(repository, Digest(content[0]), MAX_SIZE + 1), content[1])
        except StorageError:
            continue
        for part in (*manifest.blobs, *manifest.children):
            if not part.is_foreign and part.digest not in seen:
                seen.add(part.digest)
                todo.append((part.digest, part.media_type))


def _read(name: str, data: bytes) -> Iterator[Removed]:
    """Read a note; one that a crash cut off says nothing, and the change that it was for has not happened."""
    try:
        note = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    for entry in note.get("removed", ()) if isinstance(note, dict) else ():
        if is_entry(entry) and is_digest(entry["digest"]):
            yield Removed(_time(name), tag_of(entry), entry, name)


def _time(name: str) -> float:
    """Return the time in a note's name; what has none is as old as can be."""
    nanoseconds = name.partition("-")[0]
    return int(nanoseconds) / _NANOSECONDS if nanoseconds.isdigit() else 0.0
