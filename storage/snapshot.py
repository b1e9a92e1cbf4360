"""One version of a repository: its index, what follows from the manifests listed there, and what may come next."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

from storage.backend import Version
from storage.digest import Digest
from storage.errors import IndexDamaged, ManifestUnknown, StillReferenced
from storage.index import Entry, RepositoryIndex, kept_at, pushed_at, tag_of
from storage.manifests import INDEXES, MANIFESTS, WITH_SUBJECT, Descriptor, Manifest

Facts: TypeAlias = Callable[[str, str], Manifest | None]

_RECENT = 60.0  #: seconds within which a push of what a tag already has changes nothing
_LOOK_AGAIN = 1.0  #: seconds after which it is seen whether what could not be read can be read by now
_LOOKS = 100  #: manifests that are tried then


class Snapshot:
    """A repository at one moment.

    `facts` reads a manifest by its digest and media type, or returns None where it cannot.

    `damage` says why the index on disk could not be used, if this is the last good one instead.

    `removed` are the entries that were given up on the way from the version on disk to what this is to become.
    """

    def __init__(
        self,
        version: Version | None,
        index: RepositoryIndex,
        facts: Facts,
        damage: IndexDamaged | None = None,
        removed: tuple[Entry, ...] = (),
    ) -> None:
        self.version = version
        self.index = index
        self.damage = damage
        self.removed = removed
        self._facts = facts
        self._unread: dict[tuple[str, str], None] = {}  #: manifests that are missing from what is remembered here
        self._next_look = 0.0

    def refreshed(self) -> Snapshot:
        """Return this, or one that knows nothing yet, if what could not be read when it was needed can be by now."""
        if not self._unread or time.monotonic() < self._next_look:
            return self
        self._next_look = time.monotonic() + _LOOK_AGAIN
        unread = list(self._unread)
        if any(self._facts(*manifest) for manifest in unread[:_LOOKS]):
            return Snapshot(self.version, self.index, self._facts, self.damage)
        self._unread = dict.fromkeys(unread[_LOOKS:] + unread[:_LOOKS])
        return self

    # what is there

    def resolve(self, digest: str) -> Entry | None:
        """Describe a manifest that the index, or an index reachable from it, lists; None where neither does."""
        return self.index.by_digest.get(digest) or self.children.get(digest)

    def can_resolve_now(self, digest: str) -> bool:
        """Tell whether to resolve a digest takes no look at manifests, which can take long."""
        if digest in self.index.by_digest:
            return True
        return "_listings" in vars(self) and (not self._unread or digest in self.children)

    @cached_property
    def children(self) -> dict[str, Entry]:
        """The manifests that the reachable indexes list, by digest."""
        return {child.digest: child.to_json() for child in self._listings.values()}

    @cached_property
    def parents(self) -> dict[str, list[str]]:
        """The digests of the indexes that list a manifest, by its digest."""
        parents: dict[str, list[str]] = {}
        for parent, child in self._listings:
            parents.setdefault(child, []).append(parent)
        return parents

    @cached_property
    def _listings(self) -> dict[tuple[str, str], Descriptor]:
        """What the reachable indexes list, by the index's digest and the manifest's."""
        listings: dict[tuple[str, str], Descriptor] = {}
        todo = [(digest, self.index.by_digest[digest]["mediaType"]) for digest in self.index.listings]
        seen = set(todo)
        while todo:
            parent = todo.pop()
            for child in _listed(self._remembered(*parent)):
                listings[parent[0], child.digest] = child
                index = (child.digest, child.media_type)
                if child.media_type in INDEXES and index not in seen:
                    seen.add(index)
                    todo.append(index)
        return listings

    def referrers_of(self, subject: Digest) -> dict[str, Entry]:
        """Return the entries of the manifests with this subject, by their digests."""
        return self._referrers.get(subject, {}) | self._tagged_referrers(subject)

    @cached_property
    def _referrers(self) -> dict[str, dict[str, Entry]]:
        """The entries that have a subject: by the subject's digest, then by their own."""
        referrers: dict[str, dict[str, Entry]] = {}
        for digest, entry in self.index.by_digest.items():
            subject = self.subject(entry)
            if subject:
                referrers.setdefault(subject, {})[digest] = entry
        return referrers

    def _tagged_referrers(self, subject: Digest) -> dict[str, Entry]:
        """Read what clients listed under the tag of the "Referrers Tag Schema" (distribution spec)."""
        entry = self.index.tags.get(f"{subject.algorithm[:32]}-{subject.encoded[:64]}")
        listing = self._facts(entry["digest"], entry["mediaType"]) if entry else None
        entries = [child.to_json() for child in _listed(listing)]
        return {entry["digest"]: entry for entry in entries if self.subject(entry) == subject}

    def subject(self, entry: Entry) -> str | None:
        """Return the digest of what an entry belongs to, if anything.

        Read it off the entry; of one that another tool wrote, off its manifest.
        """
        if "subject" in entry:
            subject = entry["subject"]
            return subject.get("digest") if isinstance(subject, dict) else None
        if entry.get("mediaType") not in WITH_SUBJECT:
            return None
        manifest = self._remembered(entry["digest"], entry["mediaType"])
        return manifest.subject.digest if manifest and manifest.subject else None

    def _remembered(self, digest: str, media_type: str) -> Manifest | None:
        """Read a manifest, for what is then remembered with this version."""
        manifest = self._facts(digest, media_type)
        if manifest is None and (digest, media_type) not in self._unread:
            self._unread[digest, media_type] = None
            self._next_look = time.monotonic() + _LOOK_AGAIN
        return manifest

    def check_unreferenced(self, digest: Digest) -> None:
        """Raise StillReferenced if the content is a manifest, or is part of one."""
        if self.resolve(digest):
            raise StillReferenced("this is a manifest: delete it as one", digest=digest)
        holders = [holder for holder, manifest in self._manifests() if _holds(manifest, digest)]
        if holders:
            message = f"manifest {holders[0]} of this repository needs the blob"
            raise StillReferenced(message, digest=digest, referencedBy=holders)

    def _manifests(self) -> Iterator[tuple[str, Manifest]]:
        """Yield every reachable manifest that can be read."""
        for digest, entry in (self.children | dict(self.index.by_digest)).items():
            manifest = self._facts(digest, entry["mediaType"])
            if manifest:
                yield digest, manifest

    # what may come next

    def with_manifest(self, entry: Entry, manifest: Manifest, tags: Sequence[str]) -> Snapshot:
        """Add a manifest under tags, or without one; those that lose their tag to it stay."""
        digest, index = entry["digest"], self.index
        had = {tag: index.tags[tag] for tag in tags if tag in index.tags}
        if tags and len(had) == len(tags) and all(old["digest"] == digest for old in had.values()):
            stale = [old for old in had.values() if not _is_recent(pushed_at(old), entry)]
            return self._going_on(index.touched(stale, entry)) if stale else self
        kept_by = [] if tags else self._kept_by(digest, manifest)
        if kept_by:
            known = next((index.by_digest[keeper] for keeper in kept_by if keeper in index.by_digest), None)
            if known is None or _is_recent(kept_at(known), entry):
                return self
            as_kept = known["digest"] != digest or tag_of(known) is not None
            return self._going_on(index.touched([known], entry, as_kept=as_kept))
        listed = {child.digest: child.media_type for child in _listed(manifest)}
        new = index.put(
            entry,
            tags,
            keep_untagged=not tags,
            replaced={child for child in listed if self._needs_no_entry(index.by_digest.get(child), listed)},
        )
        for old in had.values():
            if not self._needs_no_entry(old, listed):
                new = self._keep(new, old)
        added = {(digest, child.digest): child for child in _listed(manifest)}
        return self._going_on(new, [old for old in had.values() if old["digest"] != digest], added)

    def _kept_by(self, digest: str, manifest: Manifest) -> list[str]:
        """Return what keeps a manifest without an entry of its own, or without a further one.

        That is itself, where it has an entry, or the indexes that list it as what it is; these keep no referrer.
        """
        if digest in self.index.by_digest:
            return [digest]
        if manifest.subject:
            return []
        return [
            parent
            for (parent, listed), child in self._listings.items()
            if listed == digest and child.media_type == manifest.media_type
        ]

    def without_tag(self, tag: str) -> Snapshot:
        """Remove a tag; its manifest stays. Raises ManifestUnknown."""
        if tag not in self.index.tags:
            raise ManifestUnknown("no such tag in this repository", reference=tag)
        return self._without({tag}, set(), with_referrers=False)

    def without_manifest(self, digest: Digest, *, with_referrers: bool = False) -> Snapshot:
        """Remove a manifest and its tags; raise StillReferenced while an index lists it, and ManifestUnknown.

        `with_referrers` go, too, the manifests that belong to it and that neither a tag nor an index keeps.
        """
        if digest in self.parents:
            holders = self.parents[digest]
            message = f"index {holders[0]} of this repository lists the manifest"
            raise StillReferenced(message, digest=digest, referencedBy=holders)
        if digest not in self.index.by_digest:
            raise ManifestUnknown("no such manifest in this repository", reference=digest)
        return self._without((), {digest}, with_referrers=with_referrers)

    def pruned(self, tags: Collection[str], digests: Collection[str], *, with_referrers: bool = False) -> Snapshot:
        """Remove tags, and with each the manifest that has no other and that no index lists; and manifests as well.

        Of these, too, those stay that have another tag or that an index lists. `with_referrers` as above.
        """
        kept = {entry["digest"] for tag, entry in self.index.tags.items() if tag not in tags}
        loose = {self.index.tags[tag]["digest"] for tag in tags} | set(digests)
        return self._without(tags, loose - kept - self.parents.keys(), with_referrers=with_referrers)

    def emptied(self) -> Snapshot:
        """Remove everything."""
        return self._next(RepositoryIndex(self.index.document), self.index.entries)

    def _without(self, tags: Collection[str], digests: set[str], *, with_referrers: bool) -> Snapshot:
        gone = digests | (self._kept_by_nothing_but(digests) if with_referrers else set())
        removed = [entry for entry in self.index.entries if entry["digest"] in gone or tag_of(entry) in tags]
        index = self.index.without(tags, gone)
        for entry in removed:
            if entry["digest"] not in gone:
                index = self._keep(index, entry)
        return self._next(index, removed)

    def _kept_by_nothing_but(self, subjects: set[str]) -> set[str]:
        """Return the digests of the referrers, and of theirs, that are only there because their subjects are."""
        tagged = {entry["digest"] for entry in self.index.tags.values()}
        gone: set[str] = set()
        todo = list(subjects)
        while todo:
            found = {digest for digest in self._referrers.get(todo.pop(), ()) if digest not in self.parents}
            new = found - tagged - gone
            gone |= new
            todo += new
        return gone

    def _keep(self, index: RepositoryIndex, entry: Entry) -> RepositoryIndex:
        """Keep a manifest that has just lost a tag, unless an index that lists it does."""
        child = self.children.get(entry["digest"])
        if child and self._needs_no_entry(entry, {child["digest"]: child["mediaType"]}):
            return index
        return index.with_untagged(entry, time.time())

    def _needs_no_entry(self, entry: Entry | None, listed: Mapping[str, str]) -> bool:
        """Tell whether being listed, as of the media types in `listed`, is enough to keep a manifest.

        It is not for a referrer, which is found by its entry, nor where an index lists it as something else.
        """
        return entry is not None and listed.get(entry["digest"]) == entry["mediaType"] and self.subject(entry) is None

    def _going_on(
        self,
        index: RepositoryIndex,
        removed: Sequence[Entry] = (),
        added: dict[tuple[str, str], Descriptor] | None = None,
    ) -> Snapshot:
        """Return what comes next where nothing that is reachable ceases to be."""
        following = self._next(index, removed)
        if "_listings" in vars(self):
            vars(following)["_listings"] = self._listings | added if added else self._listings
            following._unread, following._next_look = dict(self._unread), self._next_look
        return following

    def _next(self, index: RepositoryIndex, removed: Sequence[Entry] = ()) -> Snapshot:
        return Snapshot(self.version, index, self._facts, removed=(*self.removed, *removed))


def _listed(manifest: Manifest | None) -> Iterator[Descriptor]:
    """Yield the children that are manifests: an index may list other things, which are just blobs."""
    return (child for child in (manifest.children if manifest else ()) if child.media_type in MANIFESTS)


def _is_recent(before: float | None, new: Entry) -> bool:
    """Tell whether a time, in seconds since the epoch, is about that of a new entry's push."""
    now = pushed_at(new)
    return now is None or (before is not None and before > now - _RECENT)


def _holds(manifest: Manifest, digest: Digest) -> bool:
    return any(blob.digest == digest for blob in (*manifest.blobs, *manifest.children))
