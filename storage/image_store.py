"""What a repository means, on top of any backend: tags, manifests, referrers, mounts, uploads."""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from storage.backend import Backend, Redirect, Source, Stream
from storage.cache import Cache
from storage.digest import Digest, parse_digest
from storage.errors import (
    BlobUnknown,
    DigestInvalid,
    DigestMismatch,
    IndexDamaged,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    PreconditionFailed,
    ReferencesUnknown,
    RepositoryUnknown,
    TagImmutable,
    UploadUnknown,
)
from storage.folding import Folding
from storage.index import Entry, RepositoryIndex, make_entry
from storage.manifests import MANIFESTS, MAX_SIZE, Descriptor, Manifest, parse_manifest
from storage.names import check_tag
from storage.retention import Keeper, Verdict, due
from storage.snapshot import Snapshot
from storage.undo import make_note

log = logging.getLogger(__name__)

_INDEXES = 50_000  #: entries that the parsed indexes kept in memory may have, all together
_FACTS = 24 * 1024 * 1024  #: bytes of parsed manifests kept in memory, by an estimate
_FACT, _REFERENCE = 1000, 400  #: bytes that a parsed manifest takes by itself, and for each of its references
_BODIES = 16 * 1024 * 1024  #: bytes of manifests kept in memory, as they were pushed
_BODY = 500  #: bytes that one takes beyond its own

#: Decides on a write, given the digest that the reference has now, if any.
Precondition = Callable[[Digest | None], bool]

#: Raises to refuse a push: told, for each tag (None: the manifest by its digest), the digest there is now and the new.
Permit = Callable[[str | None, Digest | None, Digest], None]


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it was pushed."""

    digest: Digest
    media_type: str
    data: bytes
    warning: str | None = None  #: what who pulls it should know


@dataclass(frozen=True, slots=True)
class PushedManifest:
    """What a push came to: `subject` is the digest of the manifest that the pushed one belongs to."""

    digest: Digest
    subject: str | None


class ImageStore:
    """The repositories of one backend. The caller has checked their names; digests are Digests."""

    def __init__(  # noqa: PLR0913
        self,
        backend: Backend,
        *,
        sparse_indexes: bool = False,
        undo: float = 0,
        delete_referrers: bool = True,
        keeper: Keeper | None = None,
        immutable: Callable[[str, str], bool] = lambda *_: False,
    ) -> None:
        """Take the settings of the store; what a repository loses can be restored for `undo` seconds.

        `keeper` judges what is kept at all; a tag of which `immutable` is true, given the repository and the tag, is
        neither moved nor deleted.
        """
        self._backend = backend
        self._keeper = keeper
        self._immutable = immutable
        self._undo = undo
        self._delete_referrers = delete_referrers
        self.sparse_indexes = sparse_indexes  #: whether what an index lists may be missing
        self._snapshots: Cache[str, Snapshot] = Cache(_INDEXES)
        self._manifests: Cache[tuple[str, str, str], Manifest] = Cache(_FACTS)
        self._bodies: Cache[tuple[str, str], bytes] = Cache(_BODIES)
        self._folding: Folding[Snapshot] = Folding(self._transact)

    @property
    def backend(self) -> Backend:
        """Where the images are kept."""
        return self._backend

    # manifests

    def get_manifest(self, repository: str, reference: str) -> StoredManifest:
        """Return the manifest that a tag or digest names.

        Raises RepositoryUnknown, ManifestUnknown, and DigestInvalid for what looks like a digest and is none.
        """
        snapshot = self._snapshot(repository)
        entry = self._find(repository, snapshot, reference)
        digest = Digest(entry["digest"])
        data = self._read_manifest(repository, digest)
        if self._keeper is None:
            return StoredManifest(digest, entry["mediaType"], data)
        self._keeper.pulled(repository, digest)
        warning = self._keeper.warning(repository, reference, digest, snapshot)
        return StoredManifest(digest, entry["mediaType"], data, warning)

    def recall_manifest(self, repository: str, reference: str) -> StoredManifest | None:
        """Return the manifest that a tag or digest names, if all of it is in memory and nobody counts its pulls.

        Raises ManifestUnknown, and DigestInvalid for what looks like a digest and is none.
        """
        snapshot = None if self._keeper else self._recall(repository)
        if snapshot is None or (":" in reference and not snapshot.can_resolve_now(reference)):
            return None
        entry = self._find(repository, snapshot, reference)
        data = self._bodies.get((repository, entry["digest"]))
        return None if data is None else StoredManifest(Digest(entry["digest"]), entry["mediaType"], data)

    def _recall(self, repository: str) -> Snapshot | None:
        """Return the repository as it is in memory, if it is still so."""
        snapshot = self._snapshots.get(repository)
        fresh = snapshot is not None and snapshot.version == self._backend.index_version(repository)
        return snapshot if fresh else None

    def put_manifest(  # noqa: PLR0913
        self,
        repository: str,
        reference: str,
        data: bytes,
        *,
        content_type: str | None = None,
        tags: Sequence[str] = (),
        precondition: Precondition | None = None,
        permit: Permit | None = None,
    ) -> PushedManifest:
        """Store a manifest under a tag or by its digest, and under `tags`; durable on return.

        `permit` is asked tag by tag, finally while the repository's lock is held; what it raises ends the push.

        Raises TagInvalid, TagImmutable, DigestInvalid, DigestMismatch, ManifestInvalid, ManifestTooLarge,
        ReferencesUnknown, PreconditionFailed and IndexDamaged; nothing is stored then.
        """
        by_digest = parse_digest(reference) if ":" in reference else None
        names = [check_tag(tag) for tag in dict.fromkeys((*tags, *(() if by_digest else (reference,))))]
        manifest = parse_manifest(data, content_type)
        digest = Digest.of(data, by_digest.algorithm) if by_digest else Digest.of(data)
        if by_digest and by_digest != digest:
            raise DigestMismatch("the manifest is not what the digest says", digest=by_digest, actual=digest)

        def check(state: Snapshot) -> None:
            if permit:
                for tag in names or (None,):
                    permit(tag, _current(state, tag or digest), digest)
            for name in names:
                self._check_mutable(repository, state, name, digest)
            if precondition and not precondition(_current(state, reference)):
                raise PreconditionFailed("the condition of this push does not hold", reference=reference)
            self._check_references(repository, state, manifest)

        def put(state: Snapshot) -> Snapshot:
            check(state)
            if not self._has_blob(repository, digest):  # nobody needed it yet, so somebody could delete it
                self._backend.put_blob(repository, digest, data)
            return state.with_manifest(make_entry(digest, len(data), manifest, time.time()), manifest, names)

        check(self._state(repository))  # refuses, without writing anything, what cannot be stored
        self._backend.put_blob(repository, digest, data)
        self._folding.change(repository, put)
        return PushedManifest(digest, manifest.subject.digest if manifest.subject else None)

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete a tag; or by digest a manifest, every tag on it, and what belongs to it and is not tagged itself.

        Raises RepositoryUnknown, ManifestUnknown, StillReferenced, TagImmutable, DigestInvalid and IndexDamaged.
        """
        digest = parse_digest(reference) if ":" in reference else None
        self._snapshot(repository)

        def delete(state: Snapshot) -> Snapshot:
            lost = [reference] if digest is None else state.index.tags_of(digest)
            for tag in lost:
                self._check_mutable(repository, state, tag, None)
            if digest is None:
                return state.without_tag(reference)
            return state.without_manifest(digest, with_referrers=self._delete_referrers)

        self._folding.change(repository, delete)

    def delete_repository(self, repository: str) -> None:
        """Delete all tags and manifests, also immutable ones; raise RepositoryUnknown and IndexDamaged."""
        self._snapshot(repository)
        self._folding.change(repository, lambda state: state.emptied())

    # what is kept

    def verdicts(self, repository: str) -> list[Verdict]:
        """Judge what retention can take from a repository; RepositoryUnknown. None where no policy is about it."""
        return self._keeper.verdicts(repository, self._snapshot(repository)) if self._keeper else []

    def retain(self, repository: str) -> list[Verdict]:
        """Delete what retention does not keep, in one change; return the verdicts on it. Raises IndexDamaged."""
        if self._keeper is None or self._backend.index_version(repository) is None:
            return []
        keeper, gone = self._keeper, list[Verdict]()

        def prune(state: Snapshot) -> Snapshot:
            gone[:] = due(keeper.verdicts(repository, state))
            tags = {verdict.tag for verdict in gone if verdict.tag}
            digests = {verdict.digest for verdict in gone if not verdict.tag}
            return state.pruned(tags, digests, with_referrers=self._delete_referrers) if gone else state

        if due(self.verdicts(repository)):
            self._folding.change(repository, prune)
        keeper.tidy(repository, self._snapshot(repository))
        return gone

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> tuple[list[str], bool]:
        """Return the tags that follow `after` in byte-lexical order, and whether there are more; RepositoryUnknown."""
        return _page(self._snapshot(repository).index.sorted_tags, after, limit)

    def recall_tags(
        self, repository: str, after: str = "", limit: int | None = None, *, most: int
    ) -> tuple[list[str], bool] | None:
        """Return what `tags` does, if the repository is in memory and has no more than so many tags."""
        snapshot = self._recall(repository)
        if snapshot is None or len(snapshot.index.tags) > most:
            return None
        return _page(snapshot.index.sorted_tags, after, limit)

    def referrers(self, repository: str, subject: Digest, artifact_type: str | None = None) -> list[Entry]:
        """Return descriptors, sorted by digest, of the manifests whose subject has this digest.

        Each has `artifactType` and `annotations` where its manifest does. A repository never seen has none.
        """
        try:
            snapshot = self._snapshot(repository)
        except RepositoryUnknown:
            return []
        described = [self._describe(repository, entry) for _, entry in sorted(snapshot.referrers_of(subject).items())]
        return [entry for entry in described if artifact_type is None or entry.get("artifactType") == artifact_type]

    # blobs

    def blob_size(self, repository: str, digest: Digest) -> int:
        """Return the size of a blob in bytes; raise BlobUnknown."""
        return self._backend.blob_size(repository, digest)

    def open_blob(
        self, repository: str, digest: Digest, start: int = 0, length: int | None = None
    ) -> Stream | Redirect:
        """Open `length` bytes of a blob from `start`, or all that follow; raise BlobUnknown."""
        return self._backend.open_blob(repository, digest, start, length)

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Delete a blob that no manifest of the repository needs; raise BlobUnknown, StillReferenced, IndexDamaged."""
        self._backend.blob_size(repository, digest)
        self._state(repository).check_unreferenced(digest)  # reads the manifests before anybody has to wait for it
        with self._backend.lock(repository):
            self._state(repository).check_unreferenced(digest)
            self._backend.delete_blob(repository, digest)

    def mount(self, repository: str, digest: Digest, source: str | None) -> bool:
        """Give the repository a blob of `source`, or without it of any repository; tell whether that worked."""
        if source is None:
            return self._backend.find_blob(repository, digest)
        try:
            self._backend.link_blob(source, repository, digest)
        except BlobUnknown:
            return False
        return True

    # uploads

    def begin_upload(self, repository: str, algorithm: str) -> str:
        """Start an upload; return the session's id, a UUID."""
        return self._backend.begin_upload(repository, algorithm)

    def upload_size(self, repository: str, session: str) -> int:
        """Return how many bytes the session holds; raise UploadUnknown."""
        return self._backend.upload_size(repository, session)

    def append_upload(self, repository: str, session: str, body: Source, start: int | None = None) -> int:
        """Append the body, which must begin at byte `start` where that is given; return the session's new size.

        What arrived before `body` raised is kept. Raises UploadUnknown and UploadOutOfOrder.
        """
        return self._backend.append_upload(repository, session, body, start)

    def finish_upload(
        self, repository: str, session: str, digest: Digest, body: Source, start: int | None = None
    ) -> None:
        """Append the last of the body, if any, and make the session a blob; durable on return.

        Raises UploadUnknown, UploadOutOfOrder, and DigestMismatch, after which the session is gone.
        """
        self._backend.commit_upload(repository, session, digest, body, start)

    def push_blob(self, repository: str, digest: Digest, body: Source) -> None:
        """Store a blob in one go; durable on return, and nothing stays behind if it fails. Raises DigestMismatch."""
        session = self._backend.begin_upload(repository, digest.algorithm)
        try:
            self.finish_upload(repository, session, digest, body)
        except BaseException:
            with suppress(UploadUnknown):  # a commit that failed late has used the session up
                self._backend.abort_upload(repository, session)
            raise

    def cancel_upload(self, repository: str, session: str) -> None:
        """End a session and drop its bytes; raise UploadUnknown, or UploadOutOfOrder while it is written to."""
        self._backend.abort_upload(repository, session)

    # how a repository's index is read and changed

    def _snapshot(self, repository: str) -> Snapshot:
        """Return the repository as its index is now; raise RepositoryUnknown, and IndexDamaged without a good copy."""
        version = self._backend.index_version(repository)
        if version is None:
            raise RepositoryUnknown("no such repository", name=repository)
        known = self._snapshots.get(repository)
        if known is None or known.version != version:
            return self._load(repository, known)
        current = known.refreshed()
        return known if current is known else self._remember(repository, current)

    def _load(self, repository: str, known: Snapshot | None) -> Snapshot:
        data, version = self._backend.read_index(repository)
        facts = partial(self._facts, repository)
        try:
            index = RepositoryIndex.parse(data, known.index if known else None)
        except ManifestInvalid as error:
            damage = IndexDamaged(f"index.json of repository {repository} is damaged: {error.message}", **error.detail)
            good = known.index if known else self._last_good(repository, damage)
            log.error("%s; serving the last good copy, refusing writes", damage.message)
            return self._remember(repository, Snapshot(version, good, facts, damage))
        self._backend.keep_good_index(repository, data, version)
        if known and len(index.entries) < len(known.index.entries):
            self._forget(repository, index, known.index.entries)
        return self._remember(repository, Snapshot(version, index, facts))

    def _last_good(self, repository: str, damage: IndexDamaged) -> RepositoryIndex:
        data = self._backend.last_good_index(repository)
        if data is None:
            log.error("%s; there is no good copy to serve", damage.message)
            raise damage
        return RepositoryIndex.parse(data)

    def _state(self, repository: str) -> Snapshot:
        """Return the repository to write to, which need not exist yet; raise IndexDamaged."""
        try:
            snapshot = self._snapshot(repository)
        except RepositoryUnknown:
            return Snapshot(None, RepositoryIndex(), partial(self._facts, repository))
        if snapshot.damage:
            raise snapshot.damage.with_traceback(None)  # it is raised often: do not let its traceback grow
        return snapshot

    def _transact(self, repository: str, change: Callable[[Snapshot], Snapshot]) -> None:
        """Replace the index by what `change` makes of it, under the repository's lock."""
        with self._backend.lock(repository):
            old = self._state(repository)
            new = change(old)
            if new is not old:
                removed, new.removed = new.removed, ()
                if removed and self._undo:
                    self._backend.note_removed(repository, make_note(removed))
                new.version = self._backend.swap_index(repository, new.index.data, old.version)
                self._remember(repository, new)
                self._forget(repository, new.index, removed)
            elif old.version is not None:
                self._backend.sync_index(repository)

    def _remember(self, repository: str, snapshot: Snapshot) -> Snapshot:
        self._snapshots.put(repository, snapshot, weight=len(snapshot.index.entries) + 1)
        return snapshot

    def _forget(self, repository: str, index: RepositoryIndex, entries: Iterable[Entry]) -> None:
        """Let go of those manifests, of the entries that there were, which the index has no longer."""
        for entry in entries:
            if entry["digest"] not in index.by_digest:
                self._bodies.drop((repository, entry["digest"]))
                self._manifests.drop((repository, entry["digest"], entry["mediaType"]))

    # how manifests are found and read

    def _find(self, repository: str, snapshot: Snapshot, reference: str) -> Entry:
        entry = snapshot.resolve(parse_digest(reference)) if ":" in reference else snapshot.index.tags.get(reference)
        if entry is None or entry["mediaType"] not in MANIFESTS:
            raise ManifestUnknown("no such manifest in this repository", name=repository, reference=reference)
        return entry

    def _read_manifest(self, repository: str, digest: Digest) -> bytes:
        """Return a manifest's bytes, which are checked against the digest when they come from the disk."""
        data = self._bodies.get((repository, digest))
        if data is None:
            try:
                data = self._backend.read_blob(repository, parse_digest(digest), MAX_SIZE + 1)
            except (BlobUnknown, DigestInvalid):
                raise ManifestUnknown("the manifest's content is missing", name=repository, digest=digest) from None
            if Digest.of(data, digest.algorithm) != digest:
                log.error("manifest %s of repository %s is damaged on disk", digest, repository)
                raise ManifestUnknown("the manifest's content is damaged", name=repository, digest=digest)
            self._bodies.put((repository, digest), data, weight=_BODY + len(data))
        return data

    def _facts(self, repository: str, digest: str, media_type: str) -> Manifest | None:
        """Return what a manifest of this type says, or None where it cannot be read."""
        key = (repository, digest, media_type)
        manifest = self._manifests.get(key)
        if manifest is None:
            try:
                checked = parse_digest(digest)
                data = self._backend.read_blob(repository, checked, MAX_SIZE + 1)
                manifest = parse_manifest(data, media_type)
            except (BlobUnknown, DigestInvalid, ManifestInvalid, ManifestTooLarge):
                return None
            if Digest.of(data, checked.algorithm) != checked:  # what is damaged may still say something
                return None
            self._manifests.put(key, manifest, weight=_weight(manifest))
        return manifest

    def _describe(self, repository: str, entry: Entry) -> Entry:
        """Describe a referrer as the distribution spec's "Listing Referrers" has it."""
        described = {key: entry[key] for key in ("mediaType", "digest", "size")}
        manifest = self._facts(repository, entry["digest"], entry["mediaType"])
        artifact_type = manifest.artifact_type if manifest else entry.get("artifactType")
        if artifact_type:
            described["artifactType"] = artifact_type
        if manifest and manifest.annotations:
            described["annotations"] = manifest.annotations
        return described

    def _check_mutable(self, repository: str, state: Snapshot, tag: str, digest: Digest | None) -> None:
        """Raise TagImmutable if a tag is there, has another digest than this, and may not change."""
        current = _current(state, tag)
        if current not in (None, digest) and self._immutable(repository, tag):
            message = f"tag {tag} of repository {repository} is immutable: it is neither moved nor deleted"
            raise TagImmutable(message, name=repository, tag=tag, digest=current)

    def _check_references(self, repository: str, state: Snapshot, manifest: Manifest) -> None:
        """Raise ReferencesUnknown with all that the manifest needs and the repository does not have."""
        absent = [blob for blob in manifest.blobs if not self._has_blob(repository, blob.digest)]
        missing = [blob.digest for blob in absent if not blob.is_foreign]
        children = [child.digest for child in manifest.children if not self._has_child(repository, state, child)]
        if not self.sparse_indexes:
            missing += children
        if missing:
            raise ReferencesUnknown(list(dict.fromkeys(missing)))

    def _has_child(self, repository: str, state: Snapshot, child: Descriptor) -> bool:
        """Tell whether an index's child is there: as a manifest, unless its type says that it is something else."""
        if not self._has_blob(repository, child.digest):
            return False
        return child.media_type not in MANIFESTS or state.resolve(child.digest) is not None

    def _has_blob(self, repository: str, digest: str) -> bool:
        try:
            self._backend.blob_size(repository, parse_digest(digest))
        except (BlobUnknown, DigestInvalid):
            return False
        return True


def _weight(manifest: Manifest) -> int:
    """Estimate the bytes that a parsed manifest takes in memory."""
    return _FACT + _REFERENCE * (len(manifest.blobs) + len(manifest.children))


def _page(names: list[str], after: str, limit: int | None) -> tuple[list[str], bool]:
    start = bisect_right(names, after) if after else 0
    end = len(names) if limit is None else start + limit
    return names[start:end], end < len(names)


def _current(state: Snapshot, reference: str) -> Digest | None:
    """Return the digest that a reference has now."""
    entry = state.resolve(reference) if ":" in reference else state.index.tags.get(reference)
    return Digest(entry["digest"]) if entry else None
