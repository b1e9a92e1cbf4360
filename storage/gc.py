"""Garbage collection: what no manifest of a repository needs goes, in two steps, while everything is served.

Marking takes no lock: it starts at the entries of one version of the index, and at what can still be restored. What
was not reached, and is not young, is set aside in the repository's bin under its lock, and only while the index is
still that version; whoever asks for it takes it out again. What nobody asked for within the delay is unlinked.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from storage import undo
from storage.backend import Backend, Binned, Version
from storage.clock import timestamp
from storage.digest import Digest, parse_digest
from storage.errors import BlobUnknown, DigestInvalid, IndexChanged, ManifestInvalid, RepositoryUnknown, StorageError
from storage.index import RepositoryIndex, tag_of
from storage.manifests import MANIFESTS, MAX_SIZE, Descriptor, Manifest, parse_document, parse_manifest

log = logging.getLogger(__name__)

_BATCH = 256  #: blobs that are moved or unlinked while a lock is held
_ATTEMPTS = 5  #: at one repository whose index keeps changing
#: So many characters of a digest are remembered; two that look alike would keep garbage, and never lose anything.
_KEY = 15
_NUMBERS = {media_type: number for number, media_type in enumerate(sorted(MANIFESTS), 1)}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to something: `action` is deleted, binned, unlinked, taken back, dropped or failed."""

    repository: str
    action: str
    what: str
    reason: str
    size: int = 0


@dataclass(slots=True)
class Result:
    """What a run came to: `finished` is false if time ran out before all was seen."""

    repositories: int = 0
    deleted: int = 0
    kept: int = 0
    binned: int = 0
    binned_bytes: int = 0
    unlinked: int = 0
    unlinked_bytes: int = 0
    dropped: int = 0
    failed: list[str] = field(default_factory=list)
    finished: bool = True

    def count(self, event: Event) -> None:
        """Add what happened."""
        if event.action == "deleted":
            self.deleted += 1
        elif event.action == "binned":
            self.binned += 1
            self.binned_bytes += event.size
        elif event.action == "unlinked":
            self.unlinked += 1
            self.unlinked_bytes += event.size
        elif event.action == "dropped":
            self.dropped += 1
        elif event.action == "failed":
            self.failed.append(event.repository)


class Collector:
    """Collect the garbage of one store, after `retain` has made some of what is no longer to be kept.

    `retain` takes a repository, and whether to leave it as it is; it returns what goes, and why. `delay` is how many
    seconds blobs are spared after they were written, and again in the bin; `undo` how many what was deleted can be
    restored. `tell` hears of each event, as it happens; with `dry_run`, as it would.
    """

    def __init__(  # noqa: PLR0913
        self,
        backend: Backend,
        *,
        delay: float,
        undo: float,
        retain: Callable[[str, bool], Iterable[tuple[str, str]]] = lambda *_: (),
        sparse_indexes: bool = False,
        dry_run: bool = False,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._backend = backend
        self._delay = delay
        self._undo = undo
        self._retain = retain
        self._sparse = sparse_indexes
        self.dry_run = dry_run
        self._tell = tell

    def collect(self, repository: str, result: Result) -> None:
        """Collect one repository; what is wrong with it is told, and counted in the result, not raised."""
        self._guarded(repository, result, self._collect)

    def sweep_pool(self, result: Result) -> None:
        """Drop what is kept for sharing, and no repository has."""
        if not self.dry_run:
            for digest, size in self._backend.sweep_pool():
                self._happened(result, Event("", "unlinked", digest, "only the pool had it", size))

    def purge(self, repository: str, result: Result) -> None:
        """Unlink at once what could be restored, and what lies in the bin, unless a manifest needs it."""
        self._guarded(repository, result, self._purge)

    # one repository

    def _guarded(self, repository: str, result: Result, work: Callable[[str, Result], None]) -> None:
        """Do the work again where the index changes meanwhile; keep what is wrong with one repository from the rest."""
        result.repositories += 1
        try:
            for _ in range(_ATTEMPTS):
                with suppress(IndexChanged):
                    return work(repository, result)
            log.info("the index of repository %s keeps changing; the rest of it waits for the next run", repository)
        except (StorageError, OSError) as error:
            log.error("repository %s is not collected: %s", repository, error)
            self._happened(result, Event(repository, "failed", repository, str(error)))

    def _purge(self, repository: str, result: Result) -> None:
        lost = undo.history(self._backend, repository)
        held = {part for one in lost for part, _ in undo.closure(self._backend, repository, one.digest, one.media_type)}
        version, marked = self._mark(repository, restorable=False)
        garbage = [Digest(digest) for digest in sorted(held) if _key(digest) not in marked]
        with self._turn(repository, version):
            if self.dry_run:
                aside = [*self._would_bin(repository, garbage), *self._backend.binned_blobs(repository)]
            else:
                undo.drop_old_notes(self._backend, repository, math.inf)
                self._backend.bin_blobs(repository, garbage, time.time())
                aside = list(self._backend.binned_blobs(repository))
            for blob in aside:
                self._decide(repository, blob, marked, "purged", result)
        if not self.dry_run:
            self._backend.drop_stale(repository, time.time() - self._delay)

    def _collect(self, repository: str, result: Result) -> None:
        now = time.time()
        for name, reason in self._retain(repository, self.dry_run):
            self._happened(result, Event(repository, "deleted", name, reason))
        if not self.dry_run:
            undo.drop_old_notes(self._backend, repository, now - self._undo)
        version, marked = self._mark(repository)
        self._empty_bin(repository, version, marked, now, result)
        self._fill_bin(repository, version, marked, now, result)
        result.kept += len(marked)
        if self.dry_run:
            return
        for name in self._backend.drop_stale(repository, now - self._delay):
            self._happened(result, Event(repository, "dropped", name, "nobody has written to it since the delay"))
        if version is not None and not marked:
            self._drop_empty(repository, version, result)

    def _empty_bin(
        self, repository: str, version: Version | None, marked: set[bytes], now: float, result: Result
    ) -> None:
        """Unlink what has been in the bin for the delay; give back what is needed after all."""
        due = (
            blob
            for blob in self._backend.binned_blobs(repository)
            if blob.since <= now - self._delay or _key(blob.digest) in marked
        )
        for batch in _batches(due):
            with self._turn(repository, version):
                for blob in batch:
                    reason = "nothing references it, and nobody asked for it"
                    self._decide(repository, blob, marked, reason, result)

    def _decide(self, repository: str, blob: Binned, marked: set[bytes], reason: str, result: Result) -> None:
        """Unlink what is in the bin, or give it back if it is needed after all; the lock is held."""
        if _key(blob.digest) not in marked:
            if self.dry_run or self._backend.drop_binned(repository, blob):
                self._happened(result, Event(repository, "unlinked", blob.digest, reason, blob.size))
        elif self.dry_run or self._backend.take_back(repository, blob.digest):
            self._happened(result, Event(repository, "taken back", blob.digest, "a manifest needs it", blob.size))

    def _fill_bin(
        self, repository: str, version: Version | None, marked: set[bytes], now: float, result: Result
    ) -> None:
        """Set aside what was not reached, and is not young."""
        old = self._backend.old_blobs(repository, now - self._delay)
        for batch in _batches(digest for digest in old if _key(digest) not in marked):
            with self._turn(repository, version):
                moved = [] if self.dry_run else self._backend.bin_blobs(repository, batch, time.time())
            for blob in moved or (self._would_bin(repository, batch) if self.dry_run else ()):
                reason = "nothing references it"
                self._happened(result, Event(repository, "binned", blob.digest, reason, blob.size))
            if moved:
                self._sync_bin(repository, moved)

    def _sync_bin(self, repository: str, moved: list[Binned]) -> None:
        """Make the bin durable; what cannot be made so goes back to where it is."""
        try:
            self._backend.sync_bin(repository)
        except OSError:
            for blob in moved:
                self._backend.take_back(repository, blob.digest)
            raise

    def _would_bin(self, repository: str, digests: list[Digest]) -> Iterator[Binned]:
        for digest in digests:
            yield Binned(digest, "", 0, self._backend.blob_size(repository, digest))

    def _drop_empty(self, repository: str, version: Version, result: Result) -> None:
        with self._turn(repository, version):
            data, _ = self._backend.read_index(repository)
            index = RepositoryIndex.parse(data)
            if not index.entries and not index.others and self._backend.drop_empty(repository):
                reason = "its last content is gone"
                self._happened(result, Event(repository, "dropped", repository, reason))

    @contextmanager
    def _turn(self, repository: str, version: Version | None) -> Iterator[None]:
        """Hold the repository's lock; raise IndexChanged unless the index is still the one that was marked."""
        with self._backend.lock(repository):
            if self._backend.index_version(repository) != version:
                raise IndexChanged("the index has changed since it was marked", name=repository)
            yield

    def _happened(self, result: Result, event: Event) -> None:
        result.count(event)
        self._tell(event)

    # marking

    def _mark(self, repository: str, *, restorable: bool = True) -> tuple[Version | None, set[bytes]]:
        """Return the index's version, and the keys of all that its entries, and what is `restorable`, need.

        Raises ManifestInvalid or BlobUnknown where that cannot be told: then nothing may go.
        """
        version, roots = _roots(self._backend, repository)
        marked: set[bytes] = set()
        seen: set[bytes] = set()
        for _, digest, media_type in roots:
            self._mark_from(repository, (digest, media_type, True), marked, seen)
        # Only now: what the index loses after this note was looked for makes it another version.
        for lost in undo.history(self._backend, repository) if restorable else ():
            self._mark_from(repository, (lost.digest, lost.media_type, False), marked, seen)
        return version, marked

    def _mark_from(self, repository: str, start: tuple[str, str, bool], marked: set[bytes], seen: set[bytes]) -> None:
        """Mark what a manifest needs; one that is `needed` must be there, and none may be in quarantine."""
        todo = [start]
        while todo:
            digest, media_type, needed = todo.pop()
            marked.add(_key(digest))
            visit = b"%s %d %d" % (_key(digest), _NUMBERS.get(media_type, 0), needed)
            if visit in seen:
                continue
            seen.add(visit)
            content = digest, media_type
            parts = _parts(self._backend, repository, content, needed=needed, listed=digest != start[0])
            if parts is None and self._backend.is_quarantined(repository, parse_digest(digest)):
                raise ManifestInvalid(f"manifest {digest} is in quarantine", digest=digest)
            for part, certain in parts or ():
                marked.add(_key(part.digest))
                if part.media_type in MANIFESTS:
                    # In a sparse index some children are not there.
                    todo.append((part.digest, part.media_type, needed and certain and not self._sparse))


def explain(backend: Backend, repository: str, digest: Digest) -> list[str]:
    """Return what keeps some content in a repository, from a tag down to it; no line if nothing does.

    Raises ManifestInvalid if the index is damaged.
    """
    _, roots = _roots(backend, repository)
    lost = [
        (f"restorable {one.tag or one.digest}, lost at {timestamp(one.time)}", str(one.digest), one.media_type)
        for one in undo.history(backend, repository)
    ]
    for name, start, media_type in (*roots, *lost):
        path = _path(backend, repository, (start, media_type), digest)
        if path:
            return [name, *path]
    return []


def _path(backend: Backend, repository: str, start: tuple[str, str], wanted: Digest) -> list[str]:
    """Return the steps from a manifest to some content, both included; none if it does not need it."""
    before: dict[str, str | None] = {start[0]: None}
    todo = [start]
    while todo and wanted not in before:
        content = todo.pop()
        for part, _ in _parts(backend, repository, content, needed=False, listed=content != start) or ():
            if part.digest not in before:
                before[part.digest] = content[0]
                todo.append((part.digest, part.media_type))
    steps = []
    step: str | None = wanted if wanted in before else None
    while step is not None:
        steps.append(step)
        step = before[step]
    return steps[::-1]


def _roots(backend: Backend, repository: str) -> tuple[Version | None, list[tuple[str, str, str]]]:
    """Return the index's version, and the name, digest and media type of each entry; raise ManifestInvalid."""
    try:
        data, version = backend.read_index(repository)
    except RepositoryUnknown:
        return None, []
    entries = RepositoryIndex.parse(data).entries
    return version, [
        (f"tag {tag}" if (tag := tag_of(entry)) else "untagged", entry["digest"], entry["mediaType"])
        for entry in entries
    ]


def _parts(
    backend: Backend, repository: str, content: tuple[str, str], *, needed: bool, listed: bool
) -> list[tuple[Descriptor, bool]] | None:
    """Return what some content references; None where it is a manifest that is missing, and may be.

    One that is only `listed` may be listed as what it is not. It needs what it references as what it is then, too;
    and nothing where it is no manifest at all. Whether a reference is certain, which it is where the manifest itself
    says that it is what it is listed as, is told with it: to others nothing has held the manifest when it was pushed.
    Else who can push could keep a repository from being collected.
    """
    digest, media_type = content
    if media_type not in MANIFESTS:
        return []
    try:
        checked = parse_digest(digest)
        data = backend.read_blob(repository, checked, MAX_SIZE + 1)
    except DigestInvalid:
        if needed:
            raise
        return []
    except BlobUnknown:
        if needed:
            raise
        return None
    if listed and len(data) > MAX_SIZE:
        return []
    if Digest.of(data, checked.algorithm) != checked:
        raise ManifestInvalid(f"manifest {digest} is damaged on disk", digest=digest)
    if not listed:
        return _referenced(parse_manifest(data, media_type), certain=True)
    parts = []
    with suppress(ManifestInvalid):
        certain = parse_document(data).get("mediaType") == media_type
        for claimed in (media_type,) if certain else (media_type, None):
            with suppress(ManifestInvalid):
                parts += _referenced(parse_manifest(data, claimed), certain=certain)
    return parts


def _referenced(manifest: Manifest, *, certain: bool) -> list[tuple[Descriptor, bool]]:
    return [(part, certain) for part in (*manifest.blobs, *manifest.children)]


def _key(digest: str) -> bytes:
    return digest.partition(":")[2][:_KEY].encode()


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
