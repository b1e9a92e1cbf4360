"""A repository's index.json in memory: entries, and the look-ups derived from them.

An index is never changed: each operation returns a new one, which the caller swaps in. Entries stay the JSON objects
that were read, so that what other tools wrote beside the fields used here is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from storage.clock import seconds_of, timestamp
from storage.digest import Digest
from storage.errors import ManifestInvalid
from storage.layered import Layered
from storage.manifests import INDEXES, OCI_INDEX, WITH_SUBJECT, Manifest, parse_document
from storage.names import is_tag

TAG = "org.opencontainers.image.ref.name"
_PUSHED = "pushed"  #: when the entry's tag was last pushed, or its manifest by its digest
_BY_DIGEST = "pushedByDigest"  #: when the manifest of a tag, or one that an index lists, was last pushed by its digest
_UNTAGGED = "untagged"  #: when the entry's manifest lost its last tag

Entry = dict[str, Any]

_END = b"]}"


@dataclass(frozen=True)
class RepositoryIndex:
    """The manifests and tags of one repository."""

    document: dict[str, Any] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    others: tuple[object, ...] = ()  #: what stands among the entries and is none: kept, and not served

    @classmethod
    def parse(cls, data: bytes, known: RepositoryIndex | None = None) -> RepositoryIndex:
        """Read an index.json; raise ManifestInvalid if it is none.

        Where it only says more than `known` did, as after another worker's push, only that is read.
        """
        return (known and known.followed_by(data)) or cls._parse(data)

    @classmethod
    def _parse(cls, data: bytes) -> RepositoryIndex:
        document = parse_document(data)
        if "manifests" not in document:
            raise ManifestInvalid("there is no list of manifests")
        entries = document.pop("manifests")
        entries = [] if entries is None else entries  # as Go's encoders write an empty list
        if not isinstance(entries, list):
            raise ManifestInvalid("manifests is not a list")
        others = [entry for entry in entries if not is_entry(entry)]
        return cls(document, tuple(entry for entry in entries if is_entry(entry)), tuple(others))

    @cached_property
    def data(self) -> bytes:
        """The index.json: its entries stand last."""
        index, pieces = self, list[bytes]()
        while "data" not in vars(index) and (grown := index._grown):  # read once: another thread may end it
            index, added = grown
            pieces.append(orjson.dumps(added)[1:-1])
        vars(self)["_grown"] = None  # what it has come from is needed no more
        if not pieces:
            manifests = (*self.entries, *self.others)
            return orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX} | self.document | {"manifests": manifests})
        start = memoryview(index.data)[: -len(_END)]  # of what may be megabytes one copy is made
        separator = b"," if index.entries or index.others else b""
        return b"".join((start, separator, b",".join(reversed(pieces)), _END))

    @cached_property
    def _grown(self) -> tuple[RepositoryIndex, list[Entry]] | None:
        """The index to which entries were appended, and these, until `data` is made of both."""
        return None

    @cached_property
    def tags(self) -> Layered[Entry]:
        """The entry of each tag."""
        return Layered(_by_tag(self.entries))

    def tags_of(self, digest: str) -> list[str]:
        """Return the tags of a manifest."""
        return [tag for tag, entry in self.tags.items() if entry["digest"] == digest]

    @cached_property
    def by_digest(self) -> Layered[Entry]:
        """One entry of each manifest that has any."""
        return Layered({entry["digest"]: entry for entry in self.entries})

    @cached_property
    def listings(self) -> frozenset[str]:
        """The digests of the entries that are indexes."""
        return _indexes_among(self.entries)

    @cached_property
    def sorted_tags(self) -> list[str]:
        """All tags in byte-lexical order (they are ASCII)."""
        return sorted(self.tags)

    def put(
        self, entry: Entry, tags: Collection[str], *, keep_untagged: bool, replaced: Collection[str]
    ) -> RepositoryIndex:
        """Add a manifest under `tags`; without any, as an untagged entry if `keep_untagged` and it has none yet.

        `replaced` are the digests whose untagged entries go, because the new manifest lists them.
        """
        digest, index = entry["digest"], self
        known = digest in self.by_digest or replaced or any(tag in self.tags for tag in tags)
        # To look at each entry costs little beside writing them all anew, which a further tag does not need.
        if known and any(_gives_way(old, digest, tags, replaced) for old in self.entries):
            index = self._with(old for old in self.entries if not _gives_way(old, digest, tags, replaced))
        if tags:
            return index.extended([entry | {"annotations": {TAG: tag}} for tag in tags])
        return index.extended([entry] if keep_untagged and digest not in self.by_digest else [])

    def extended(self, added: list[Entry]) -> RepositoryIndex:
        """Append entries. What follows from the old ones is carried over: a push costs no look at each of them."""
        if not added:
            return self
        new = self._with(self.entries + tuple(added))
        vars(new).update(
            _grown=(self, added),
            tags=self.tags.with_items(_by_tag(added)),
            by_digest=self.by_digest.with_items({entry["digest"]: entry for entry in added}),
            listings=self.listings | _indexes_among(added),
        )
        return new

    def followed_by(self, data: bytes) -> RepositoryIndex | None:
        """Return what `data` says if it is this index with entries appended, else None."""
        end = len(self.data) - len(_END)
        if not (
            self.entries
            and data.startswith(b",", end)
            and data.endswith(_END)
            and data.startswith(memoryview(self.data)[:end])
        ):
            return None
        try:
            added = orjson.loads(b"[" + data[end + 1 : -len(_END)] + b"]")
        except orjson.JSONDecodeError:
            return None
        if not added or not all(is_entry(entry) for entry in added):
            return None
        new = self.extended(added)
        vars(new).update(data=data, _grown=None)
        return new

    def without(self, tags: Collection[str], digests: Collection[str]) -> RepositoryIndex:
        """Remove tags, which does not keep their manifests; and manifests with every tag on them."""
        return self._with(
            entry for entry in self.entries if entry["digest"] not in digests and tag_of(entry) not in tags
        )

    def touched(self, stale: Collection[Entry], entry: Entry, *, as_kept: bool = False) -> RepositoryIndex:
        """Let some of the entries be as lately pushed as another one; all else in them stays.

        With `as_kept` their tags are as old as they were: what they keep was pushed.
        """
        pushed = {_BY_DIGEST if as_kept else _PUSHED: entry[_PUSHED]} if _PUSHED in entry else {}
        touched = {id(old) for old in stale}
        return self._with(old | pushed if id(old) in touched else old for old in self.entries)

    def with_untagged(self, entry: Entry, now: float) -> RepositoryIndex:
        """Keep a manifest that may just have lost its last tag."""
        if entry["digest"] in self.by_digest:
            return self
        untagged = entry | {_UNTAGGED: timestamp(now)}
        others = {key: value for key, value in untagged.pop("annotations", {}).items() if key != TAG}
        if others:
            untagged["annotations"] = others
        return self.extended([untagged])

    def _with(self, entries: Iterable[Entry]) -> RepositoryIndex:
        return RepositoryIndex(self.document, tuple(entries), self.others)


def make_entry(digest: Digest, size: int, manifest: Manifest, pushed: float) -> Entry:
    """Describe a manifest, pushed at a time in seconds since the epoch, for the index.

    `subject` is written even where there is none: so an entry that lacks the key is known to be another tool's,
    whose manifest has yet to be asked.
    """
    entry: Entry = {"mediaType": manifest.media_type, "digest": digest, "size": size, _PUSHED: timestamp(pushed)}
    if manifest.artifact_type:
        entry["artifactType"] = manifest.artifact_type
    if manifest.media_type in WITH_SUBJECT:
        entry["subject"] = manifest.subject.to_json() if manifest.subject else None
    return entry


def tag_of(entry: Entry) -> str | None:
    """Return the entry's tag; a `ref.name` that can be no tag is none."""
    annotations = entry.get("annotations")
    name = annotations.get(TAG) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) and is_tag(name) else None


def pushed_at(entry: Entry) -> float | None:
    """Return when an entry was pushed, in seconds since the epoch; None if that was not written down."""
    return seconds_of(entry.get(_PUSHED))


def kept_at(entry: Entry) -> float | None:
    """Return when what an entry keeps was last pushed, be it by a tag or a digest; None if that is not known."""
    return max((at for at in (pushed_at(entry), seconds_of(entry.get(_BY_DIGEST))) if at is not None), default=None)


def untagged_at(entry: Entry) -> float | None:
    """Return when the entry's manifest lost its last tag; None if it never had one here."""
    return seconds_of(entry.get(_UNTAGGED))


def _by_tag(entries: Iterable[Entry]) -> dict[str, Entry]:
    return {tag: entry for entry in entries if (tag := tag_of(entry)) is not None}


def _indexes_among(entries: Iterable[Entry]) -> frozenset[str]:
    return frozenset(entry["digest"] for entry in entries if entry["mediaType"] in INDEXES)


def _gives_way(old: Entry, digest: str, tags: Collection[str], replaced: Collection[str]) -> bool:
    tag = tag_of(old)
    if tag is not None:
        return tag in tags
    return (bool(tags) and old["digest"] == digest) or old["digest"] in replaced


def is_entry(entry: object) -> bool:
    """Tell whether this is an entry that can be served."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("mediaType"), str)
        and isinstance(entry.get("digest"), str)
        and isinstance(entry.get("size"), int)
    )
