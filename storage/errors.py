"""What can go wrong in a store, each raised where it is known; `registry/errors.py` turns them into responses."""

from __future__ import annotations


class StorageError(Exception):
    """Say what was wrong, for a person in `message` and for a program in `detail`."""

    def __init__(self, message: str, **detail: object) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class NameInvalid(StorageError):
    """The repository name is outside the grammar, or collides with the layout on disk."""


class DigestInvalid(StorageError):
    """The digest is malformed, or of an algorithm that is not supported."""


class DigestMismatch(StorageError):
    """The content is not what its digest promised."""


class TagInvalid(StorageError):
    """The tag to be written is outside the grammar."""


class RepositoryUnknown(StorageError):
    """The repository does not exist."""


class ManifestUnknown(StorageError):
    """No manifest has this tag or digest."""


class ManifestInvalid(StorageError):
    """The document is not a manifest that can be stored."""


class ManifestTooLarge(StorageError):
    """The document is larger than any manifest may be."""


class ReferencesUnknown(StorageError):
    """The manifest references blobs or manifests that the repository does not have."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__("the manifest references content that this repository does not have", missing=missing)
        self.missing = missing


class PreconditionFailed(StorageError):
    """The client asked for the write only under a condition that does not hold."""


class TagImmutable(StorageError):
    """The tag was to be moved or deleted, and the store's rules do not allow that."""


class StillReferenced(StorageError):
    """What was to be deleted is referenced by a manifest of the repository."""


class BlobUnknown(StorageError):
    """The repository does not have this blob."""


class UploadUnknown(StorageError):
    """The repository has no such upload session."""


class UploadOutOfOrder(StorageError):
    """The chunk does not begin where the session ends, or another request is writing to it.

    `offset` is the number of bytes that the session holds.
    """

    def __init__(self, message: str, offset: int, **detail: object) -> None:
        super().__init__(message, offset=offset, **detail)
        self.offset = offset


class IndexChanged(StorageError):
    """The repository's index is no longer the version that the writer started from."""


class IndexDamaged(StorageError):
    """The repository's index.json does not parse, so that nothing may be written on top of it."""


class QuotaExceeded(StorageError):
    """There would be more bytes, or more repositories, than there may be."""
