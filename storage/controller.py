"""Which store a repository lies in: the one whose prefix is the longest that matches."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from itertools import islice

from storage.backend import Redirect
from storage.digest import Digest
from storage.errors import BlobUnknown, DigestMismatch
from storage.image_store import ImageStore


class StoreController:
    """Route repositories to stores. Prefixes are whole components: `a` covers `a` and `a/b`, not `ab`."""

    def __init__(self, default: ImageStore, substores: Mapping[str, ImageStore] | None = None) -> None:
        self._default = default
        self._substores = dict(substores or {})

    def store(self, repository: str) -> ImageStore:
        """Return the store that the repository lies in, whether or not it exists."""
        prefix = repository if self._substores else ""
        while prefix:
            if prefix in self._substores:
                return self._substores[prefix]
            prefix = prefix.rpartition("/")[0]
        return self._default

    def repositories(self, after: str = "", limit: int | None = None) -> tuple[list[str], bool]:
        """Return the names that follow `after` in byte-lexical order, and whether there are more."""
        names = heapq.merge(
            self._listed("", self._default, after),
            *(self._listed(prefix, store, after) for prefix, store in self._substores.items()),
        )
        if limit is None:
            return list(names), False
        found = list(islice(names, limit + 1))
        return found[:limit], len(found) > limit

    def _listed(self, prefix: str, store: ImageStore, after: str) -> Iterator[str]:
        """Yield a store's repositories, without those that lie under another store's prefix."""
        names = store.backend.repositories(prefix, after)
        return (name for name in names if self.store(name) is store)

    def mount(self, repository: str, digest: Digest, source: str | None) -> bool:
        """Give a repository the blob of another one, or without `source` of any in its store; tell whether it worked.

        Between stores the content is copied.
        """
        store = self.store(repository)
        if source is None or self.store(source) is store:
            return store.mount(repository, digest, source)
        try:
            stream = self.store(source).open_blob(source, digest)
        except BlobUnknown:
            return False
        if isinstance(stream, Redirect):
            return False
        try:
            store.push_blob(repository, digest, stream)
        except DigestMismatch:  # the source is damaged
            return False
        finally:
            stream.close()
        return True
