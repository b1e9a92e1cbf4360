"""Import: manifests of a source, each with all it needs, children before indexes, and only then their tags."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from storage.digest import Digest
from storage.errors import BlobUnknown, DigestMismatch, ReferencesUnknown, StorageError
from storage.image_store import ImageStore
from storage.manifests import Descriptor
from storage.transfer.errors import Damaged, Missing, SourceError
from storage.transfer.files import File
from storage.transfer.sources import Content, Root
from storage.transfer.walking import blobs_of, read_manifest, walk

#: Whoever imports may act as somebody else while a repository is used, and only then.
Using = Callable[[str], AbstractContextManager[object]]
#: Hears of bytes that were read: how many, and for which repository.
Tell = Callable[[int, str], object]


@dataclass(slots=True)
class Totals:
    """What became of images (or other manifests that a source lists), and of blobs; sizes in bytes."""

    imported: int = 0
    unchanged: int = 0
    kept: int = 0
    failed: int = 0
    linked: int = 0
    linked_bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    skipped: int = 0
    skipped_bytes: int = 0

    @property
    def brought(self) -> int:
        """How many blobs were not there."""
        return self.linked + self.copied

    def count(self, action: str) -> None:
        """Add what became of an image."""
        setattr(self, action, getattr(self, action) + 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image: `action` is imported, unchanged, kept or failed.

    `digest` is some other name where there is none; `called` is how the source names it.
    """

    repository: str
    tags: tuple[str, ...]
    digest: str
    action: str
    reason: str = ""
    called: tuple[str, ...] = ()


@dataclass(slots=True)
class Importer:
    """Import into any number of repositories.

    `copy` makes every blob a file of the store's own; `keep_tags` leaves the tags that are there; with `dry_run` only
    manifests are read, and nothing is written. `tell` hears of bytes as they are read.
    """

    copy: bool = False
    keep_tags: bool = False
    dry_run: bool = False
    using: Using = nullcontext
    tell: Tell = lambda *_: None
    totals: Totals = field(default_factory=Totals)
    _bad: dict[Digest, str] = field(default_factory=dict)
    _seen: set[tuple[str, Digest]] = field(default_factory=set)

    def run(self, store: ImageStore, repository: str, content: Content, root: Root) -> Outcome:
        """Import one manifest with its tags; what is wrong with it is the outcome, and is not raised.

        Raises OSError where the store cannot be read or written.
        """
        brought = self.totals.brought
        kept = self._taken(store, repository, root) if self.keep_tags else ()
        if kept and len(kept) == len(root.tags):
            return self._outcome(repository, root, "kept", "these tags are there already")
        wanted = replace(root, tags=tuple(tag for tag in root.tags if tag not in kept))
        try:
            there = all(self._is(store, repository, name, root.digest) for name in wanted.tags or (root.digest,))
            self._import(store, repository, content, wanted)
        except _TagTaken as error:
            return self._outcome(repository, root, "kept", error.message)
        except ReferencesUnknown as error:
            lacking = f"neither the source nor the repository has {', '.join(error.missing)}, which it needs"
            return self._outcome(repository, root, "failed", lacking)
        except StorageError as error:
            return self._outcome(repository, root, "failed", error.message)
        action = "unchanged" if there and brought == self.totals.brought else "imported"
        return self._outcome(repository, wanted, action, f"kept as they are: {', '.join(kept)}" if kept else "")

    def failed(self, repository: str, what: str, reason: str) -> Outcome:
        """Count what cannot even be tried."""
        self.totals.count("failed")
        return Outcome(repository, (), what, "failed", reason)

    def _outcome(self, repository: str, root: Root, action: str, reason: str = "") -> Outcome:
        self.totals.count(action)
        return Outcome(repository, root.tags, root.digest, action, reason, root.called)

    # manifests

    def _import(self, store: ImageStore, repository: str, content: Content, root: Root) -> None:
        found = list(walk(content, root))
        blobs = {Digest(part.digest): part for _, manifest in found for part in blobs_of(manifest)}
        for digest in sorted(blobs, key=content.position):
            self._bring(store, repository, content, blobs[digest])
        for one, _ in found:
            if one is root or not self._is(store, repository, one.digest, one.digest):
                self._put(store, repository, content, one)

    def _put(self, store: ImageStore, repository: str, content: Content, root: Root) -> None:
        data = read_manifest(content, root.digest)
        if self.dry_run:
            return
        with self.using(repository):
            store.put_manifest(
                repository,
                root.digest,
                data,
                content_type=root.media_type,
                tags=root.tags,
                permit=_keep_tag if self.keep_tags else None,
            )

    def _taken(self, store: ImageStore, repository: str, root: Root) -> tuple[str, ...]:
        """Return the tags that something else has."""
        here = {tag: self._digest(store, repository, tag) for tag in root.tags}
        return tuple(tag for tag, digest in here.items() if digest not in (None, root.digest))

    def _is(self, store: ImageStore, repository: str, reference: str, digest: Digest) -> bool:
        return self._digest(store, repository, reference) == digest

    def _digest(self, store: ImageStore, repository: str, reference: str) -> Digest | None:
        """Return the digest of the manifest that a reference names here, if it does and the manifest is whole."""
        try:
            with self.using(repository):  # who reads keeps a copy of the index, too
                return store.get_manifest(repository, reference).digest
        except StorageError:
            return None

    # blobs

    def _bring(self, store: ImageStore, repository: str, content: Content, blob: Descriptor) -> None:
        """Store a blob, unless it is there; where the source lacks it, whether that may be is the store's to say."""
        digest = Digest(blob.digest)
        if self.dry_run and (repository, digest) in self._seen:
            return
        if digest in self._bad:
            raise Damaged(self._bad[digest])
        try:
            with content.open(digest) as file:
                size = file.size
                there = self._has(store, repository, digest, size)
        except Missing:
            if self.dry_run and not blob.is_foreign and not self._has(store, repository, digest, None):
                raise ReferencesUnknown([digest]) from None
            return
        if there:
            self._skipped(repository, digest, size)
        elif self.dry_run or not self._link(store, repository, content, digest):
            self._copy(store, repository, content, digest)

    def _skipped(self, repository: str, digest: Digest, size: int) -> None:
        """Count a blob that was there, but once for all images of the repository that need it."""
        if (repository, digest) not in self._seen:
            self._seen.add((repository, digest))
            self.totals.skipped += 1
            self.totals.skipped_bytes += size

    def _has(self, store: ImageStore, repository: str, digest: Digest, size: int | None) -> bool:
        """Tell whether the repository has the blob, or gets it now because the store has it."""
        with self.using(repository), suppress(BlobUnknown):
            return size in (None, store.blob_size(repository, digest))
        if self.dry_run:
            return False
        with self.using(repository):
            return store.mount(repository, digest, None) and size in (None, store.blob_size(repository, digest))

    def _link(self, store: ImageStore, repository: str, content: Content, digest: Digest) -> bool:
        with content.open(digest) as file:
            if self.copy or file.descriptor is None:
                return False
            with self.using(repository), self._noting_damage(file, digest):
                if not store.backend.adopt_file(
                    repository, digest, file.descriptor, _Reading(file, self.tell, repository)
                ):
                    return False
            self._seen.add((repository, digest))
            self.totals.linked += 1
            self.totals.linked_bytes += file.size
        return True

    def _copy(self, store: ImageStore, repository: str, content: Content, digest: Digest) -> None:
        with content.open(digest) as file:
            if not self.dry_run:
                with self.using(repository), self._noting_damage(file, digest):
                    store.push_blob(repository, digest, _Reading(file, self.tell, repository))
            self._seen.add((repository, digest))
            self.totals.copied += 1
            self.totals.copied_bytes += file.size

    @contextmanager
    def _noting_damage(self, file: File, digest: Digest) -> Iterator[None]:
        """Remember what cannot be read, or is not what it should be: other images may need it too."""
        try:
            yield
        except DigestMismatch as error:
            self._bad[digest] = f"{file.name} is damaged: its content is {error.detail['actual']}, not {digest}"
            raise Damaged(self._bad[digest]) from None
        except SourceError as error:
            self._bad[digest] = error.message
            raise


def _keep_tag(tag: str | None, current: Digest | None, new: Digest) -> None:
    """Refuse to move a tag that has just been pushed."""
    if tag is not None and current not in (None, new):
        raise _TagTaken(f"{tag} is {current} meanwhile")


class _TagTaken(StorageError):
    """The tag is there already, and is to be left as it is."""


class _Reading:
    """A file that tells how much of it is read, and for which repository."""

    def __init__(self, file: File, tell: Tell, repository: str) -> None:
        self._file = file
        self._tell = tell
        self._repository = repository

    def read(self, size: int, /) -> bytes:
        """Return at least one and at most `size` bytes, or none at the end."""
        chunk = self._file.read(size)
        self._tell(len(chunk), self._repository)
        return chunk
