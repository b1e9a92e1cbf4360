"""What can be wrong with what is to be imported or exported."""

from __future__ import annotations

from storage.errors import StorageError


class SourceError(StorageError):
    """The source, or a part of it, cannot be used."""


class Missing(SourceError):
    """The source does not have what was asked for."""


class Damaged(SourceError):
    """Content is not what its digest says."""
