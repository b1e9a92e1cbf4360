"""The seam: what a place to keep images must do, in the language of images.

Local disk is one such place (`storage/local.py`); an object store can be another. No path, rename, file lock or
file object leaks out of an implementation. `tests/unit/test_backends.py` runs against every one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from storage.digest import Digest
from storage.errors import BlobUnknown

#: Equal versions of a document mean equal bytes; nothing else can be learnt from one.
Version: TypeAlias = Hashable


#: Copies of a blob with equal identities are one: what is true of the content of one is true of the other's.
Identity: TypeAlias = Hashable


class Source(Protocol):
    """Where the bytes of an upload come from, such as a request's body."""

    def read(self, size: int, /) -> bytes:
        """Return at least one and at most `size` bytes, or none at the end; raise what the transport raises."""


class Stream(Protocol):
    """Content to read once, from its first byte to its last; the end of a range is its end.

    A stream that also has `fileno()` can be sent by the kernel: the file's position is at the first byte.
    """

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes (all that are left, without `size`), or none at the end."""

    def close(self) -> None:
        """Let go of whatever is held open."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where the client can read the content for itself."""

    url: str


@dataclass(frozen=True, slots=True)
class Binned:
    """A blob that was set aside in the second `since` of the epoch; `batch` is the backend's own."""

    digest: Digest
    batch: str
    since: float
    size: int


class Backend(Protocol):
    """Blobs, upload sessions, one index document for each repository, and the repositories' names."""

    def lock(self, repository: str) -> AbstractContextManager[object]:
        """Keep all other writers of the repository out, in whatever process, while the block runs."""

    # documents

    def index_version(self, repository: str) -> Version | None:
        """Return the version of the repository's index, or None where there is none. Cheap, and takes no lock."""

    def read_index(self, repository: str) -> tuple[bytes, Version]:
        """Return the repository's index and its version; raise RepositoryUnknown."""

    def keep_good_index(self, repository: str, data: bytes, version: Version) -> None:
        """Remember an index that was read, and that another tool may have written; do nothing where that fails."""

    def last_good_index(self, repository: str) -> bytes | None:
        """Return the index that was last swapped in or kept, should the real one have been damaged since."""

    def swap_index(self, repository: str, data: bytes, expected: Version | None) -> Version:
        """Replace the index if it is still the expected version (None: there is none yet).

        Durable on return, and so are the names of all blobs that were there before.

        The only way in which a repository's metadata changes. Returns the new version; raises IndexChanged.
        """

    def sync_index(self, repository: str) -> None:
        """Return when the index that is there, whoever left it, is durable."""

    def repositories(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Yield names in byte-lexical order: `prefix` itself and those nested in it, and only what follows `after`.

        A repository whose index lists nothing is none of them.
        """

    # blobs

    def blob_size(self, repository: str, digest: Digest) -> int:
        """Return the size of a blob in bytes; raise BlobUnknown."""

    def open_blob(
        self, repository: str, digest: Digest, start: int = 0, length: int | None = None
    ) -> Stream | Redirect:
        """Open `length` bytes of a blob from `start`, or all that follow; raise BlobUnknown."""

    def read_blob(self, repository: str, digest: Digest, limit: int) -> bytes:
        """Return a small blob whole, but at most `limit` bytes of it; raise BlobUnknown."""

    def size_now(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a blob that is in its place; None of one that may be given it back; else BlobUnknown."""

    def read_now(self, repository: str, digest: Digest, limit: int) -> bytes | None:
        """Return a blob of at most `limit` bytes, if its content can be had without waiting for a disk; else None."""

    def put_blob(self, repository: str, digest: Digest, data: bytes) -> None:
        """Store a small blob whose digest has been checked; durable once an index is swapped in after it."""

    def link_blob(self, source: str, target: str, digest: Digest) -> None:
        """Give the repository `target` the blob of the repository `source`; durable on return; raise BlobUnknown."""

    def find_blob(self, target: str, digest: Digest) -> bool:
        """Give the repository a blob that some repository has, where that is cheap to know; tell whether it was."""

    def list_blobs(self, repository: str) -> Iterator[Digest]:
        """Yield the digests of the repository's blobs, manifests included, in no order."""

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Remove a blob from the repository; raise BlobUnknown."""

    def adopt_file(self, repository: str, digest: Digest, descriptor: int, body: Source) -> bool:
        """Make an open file, which `body` reads, a blob without copying it; durable once an index is swapped in.

        Tells whether that could be done: what lies elsewhere, or others may write to, has to be pushed. Raises
        DigestMismatch, and what `body` raises.
        """

    # what there is: for quotas

    def contents(self, repository: str) -> Mapping[Digest, int]:
        """Return the sizes of all blobs that are not set aside. Cheap while they are the same; not to be changed."""

    def uploads(self, repository: str) -> Mapping[str, int]:
        """Return the sessions under way, and how many bytes each holds."""

    def findable(self, digest: Digest) -> int | None:
        """Return the size of a blob that `find_blob` would find, or None."""

    # what is collected: moves and removals happen while the caller holds the repository's lock

    def places(self, after: str = "", prefix: str = "") -> Iterator[str]:
        """Yield, in order, the names of all that may hold anything, be they repositories (still) or not."""

    def old_blobs(self, repository: str, before: float) -> Iterator[Digest]:
        """Yield the blobs that were written before a time, in seconds since the epoch, in no order."""

    def bin_blobs(self, repository: str, digests: list[Digest], now: float) -> list[Binned]:
        """Set blobs aside, and return those that were there; whoever asks for one finds it in its place again."""

    def sync_bin(self, repository: str) -> None:
        """Return when it is durable what was set aside."""

    def binned_blobs(self, repository: str) -> Iterator[Binned]:
        """Yield what is set aside, in no order."""

    def take_back(self, repository: str, digest: Digest) -> bool:
        """Put a blob in its place again; tell whether it was set aside."""

    def drop_binned(self, repository: str, blob: Binned) -> bool:
        """Remove what was set aside for good; tell whether it was still there."""

    def drop_stale(self, repository: str, before: float) -> list[str]:
        """Remove sessions, and what writers left behind, that nobody has touched since a time; name them."""

    def drop_empty(self, repository: str) -> bool:
        """Make a repository whose index is empty none, if it has no blobs either; tell whether that was so."""

    def sweep_pool(self) -> Iterator[tuple[Digest, int]]:
        """Remove what is kept for sharing and no repository has; yield digests and sizes. Needs no lock."""

    # what is damaged

    def identity(self, repository: str, digest: Digest) -> tuple[Identity, bool]:
        """Identify a repository's copy of a blob, and tell whether others may share it; raise BlobUnknown."""

    def quarantine(self, repository: str, digest: Digest, identity: Identity) -> bool:
        """Take a damaged copy out of the repository, and out of what is shared; tell whether it was there.

        Durable on return. The caller holds the repository's lock. Whoever pushes the blob, to any repository, gives it
        back to all that lost it so.
        """

    def quarantined(self) -> Iterator[tuple[Digest, str]]:
        """Yield the blobs in quarantine with the repositories that had them."""

    def is_quarantined(self, repository: str, digest: Digest) -> bool:
        """Tell whether a repository's copy of a blob is in quarantine. Cheap."""

    def drop_quarantined(self, repository: str, digest: Digest) -> None:
        """Forget that a repository had a blob which was damaged."""

    def heal(self, repository: str, digest: Digest) -> list[str]:
        """Give a repository's copy, which is known to be good, to all that lost theirs to quarantine; name them."""

    # when things happened

    def written_at(self, repository: str, digest: Digest) -> float:
        """Return when a blob was written (maybe for another repository), in seconds since the epoch; BlobUnknown."""

    def record_pull(self, repository: str, digest: Digest) -> None:
        """Remember that a manifest is pulled now. Cheap, never waits for a disk, and never fails."""

    def pulls(self, repository: str) -> dict[str, float]:
        """Return when manifests were last pulled, by digest, in seconds since the epoch."""

    def pulls_known_since(self) -> float:
        """Return from what time on pulls are known, in seconds since the epoch."""

    def forget_pulls(self, repository: str, digests: Iterable[str]) -> None:
        """Forget when manifests were pulled that are gone; and let pulls be known from now on, if they are not yet."""

    # what can be undone

    def note_removed(self, repository: str, data: bytes) -> None:
        """Keep a note of what the index is about to lose; durable on return."""

    def removed_notes(self, repository: str) -> list[tuple[str, bytes]]:
        """Return the notes with names for them, oldest first."""

    def drop_note(self, repository: str, name: str) -> None:
        """Forget a note, if it is there."""

    # sessions

    def begin_upload(self, repository: str, algorithm: str) -> str:
        """Start an upload whose digest will probably be of `algorithm`; return the session's id, a UUID."""

    def upload_size(self, repository: str, session: str) -> int:
        """Return how many bytes the session holds; raise UploadUnknown."""

    def append_upload(self, repository: str, session: str, body: Source, start: int | None = None) -> int:
        """Append the body and return the new size; what arrived before `body` raised is kept.

        Raises UploadUnknown, and UploadOutOfOrder if the session does not end at `start` or is being written to.
        """

    def commit_upload(
        self, repository: str, session: str, digest: Digest, body: Source, start: int | None = None
    ) -> None:
        """Append the body, as `append_upload` does, and make the session's bytes a blob; durable on return.

        Raises UploadUnknown, UploadOutOfOrder, and DigestMismatch, after which the session is gone.
        """

    def abort_upload(self, repository: str, session: str) -> None:
        """End a session and drop its bytes; raise UploadUnknown, or UploadOutOfOrder while it is written to."""


def has_blob(backend: Backend, repository: str, digest: Digest) -> bool:
    """Tell whether a repository has a blob."""
    try:
        backend.blob_size(repository, digest)
    except BlobUnknown:
        return False
    return True
