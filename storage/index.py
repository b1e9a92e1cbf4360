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

from storage.digest import Digest
from storage.errors import ManifestInvalid
from storage.manifests import OCI_INDEX, WITH_SUBJECT, Manifest, parse_document
from storage.names import is_tag

TAG = "org.opencontainers.image.ref.name"

Entry = dict[str, Any]


@dataclass(frozen=True)
class RepositoryIndex:
    """The manifests and tags of one repository."""

    document: dict[str, Any] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> RepositoryIndex:
        """Read an index.json; raise ManifestInvalid if it is none."""
        document = parse_document(data)
        entries = document.pop("manifests", None) or []
        if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
            raise ManifestInvalid("manifests is not a list of descriptors")
        return cls(document, tuple(entries))

    def serialize(self) -> bytes:
        """Write the index.json."""
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX} | self.document | {"manifests": self.entries}
        return orjson.dumps(document)

    @cached_property
    def tags(self) -> dict[str, Entry]:
        """The entry of each tag."""
        found = ((tag_of(entry), entry) for entry in self.entries)
        return {tag: entry for tag, entry in found if tag is not None}

    @cached_property
    def sorted_tags(self) -> list[str]:
        """All tags in byte-lexical order (they are ASCII)."""
        return sorted(self.tags)

    @cached_property
    def by_digest(self) -> dict[str, Entry]:
        """One entry of each manifest that has any."""
        return {entry["digest"]: entry for entry in self.entries}

    def put(
        self, entry: Entry, tags: Collection[str], *, keep_untagged: bool, replaced: Collection[str]
    ) -> RepositoryIndex:
        """Add a manifest under `tags`; without any, as an untagged entry if `keep_untagged` and it has none yet.

        `replaced` are the digests whose untagged entries go, because the new manifest lists them.
        """
        digest = entry["digest"]
        kept: Iterable[Entry] = self.entries
        if digest in self.by_digest or replaced or any(tag in self.tags for tag in tags):
            kept = [old for old in self.entries if not _gives_way(old, digest, tags, replaced)]
        added: list[Entry] = []
        if tags:
            added = [entry | {"annotations": {TAG: tag}} for tag in tags]
        elif keep_untagged and digest not in self.by_digest:
            added = [entry]
        return RepositoryIndex(self.document, (*kept, *added))

    def without_tag(self, tag: str) -> RepositoryIndex:
        """Remove a tag; the manifest that had it is not kept by that."""
        return RepositoryIndex(self.document, tuple(entry for entry in self.entries if tag_of(entry) != tag))

    def without_digest(self, digest: str) -> RepositoryIndex:
        """Remove a manifest and every tag on it."""
        return RepositoryIndex(self.document, tuple(entry for entry in self.entries if entry["digest"] != digest))

    def with_untagged(self, entry: Entry) -> RepositoryIndex:
        """Keep a manifest that may just have lost its last tag."""
        if entry["digest"] in self.by_digest:
            return self
        untagged = dict(entry)
        others = {key: value for key, value in untagged.pop("annotations", {}).items() if key != TAG}
        if others:
            untagged["annotations"] = others
        return RepositoryIndex(self.document, (*self.entries, untagged))


def make_entry(digest: Digest, size: int, manifest: Manifest) -> Entry:
    """Describe a manifest for the index.

    `subject` is written even where there is none: so an entry that lacks the key is known to be another tool's,
    whose manifest has yet to be asked.
    """
    entry: Entry = {"mediaType": manifest.media_type, "digest": digest, "size": size}
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


def _gives_way(old: Entry, digest: str, tags: Collection[str], replaced: Collection[str]) -> bool:
    tag = tag_of(old)
    if tag is not None:
        return tag in tags
    return (bool(tags) and old["digest"] == digest) or old["digest"] in replaced


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("digest"), str) and isinstance(entry.get("size"), int)
