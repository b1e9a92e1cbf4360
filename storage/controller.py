"""Which store a repository lies in: the one whose prefix is the longest that matches."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from storage.backend import Redirect
from storage.digest import Digest
from storage.errors import BlobUnknown, DigestMismatch
from storage.image_store import ImageStore
from storage.names import lies_in, longest_prefix


class StoreController:
    """Route repositories to stores. Prefixes are whole components: `a` covers `a` and `a/b`, not `ab`."""

    def __init__(self, default: ImageStore, substores: Mapping[str, ImageStore] | None = None) -> None:
        self._default = default
        self._substores = dict(substores or {})

    def store(self, repository: str) -> ImageStore:
        """Return the store that the repository lies in, whether or not it exists."""
        return self.at(self.prefix(repository))

    def at(self, prefix: str) -> ImageStore:
        """Return the store of a prefix; raise KeyError if there is none."""
        return self._substores[prefix] if prefix else self._default

    def prefix(self, repository: str) -> str:
        """Return the prefix of the store that the repository lies in; the default store has the prefix ""."""
        return longest_prefix(repository, self._substores) if self._substores else ""

    def repositories(
        self,
        after: str = "",
        limit: int | None = None,
        *,
        below: Iterable[str] = ("",),
        visible: Callable[[str], bool] = lambda _: True,
    ) -> tuple[list[str], bool]:
        """Return the names that follow `after` in byte-lexical order, and whether there are more.

        Only those that `visible` is true of; all of these lie at or below the directories in `below`, of which none
        lies in another.
        """
        stores = {"": self._default, **self._substores}.items()
        listings = (self._listed(prefix, store, part, after) for prefix, store in stores for part in below)
        names = filter(visible, heapq.merge(*listings))
        if limit is None:
            return list(names), False
        found = list(islice(names, limit + 1))
        return found[:limit], len(found) > limit

    def _listed(self, prefix: str, store: ImageStore, part: str, after: str) -> Iterator[str]:
        """Yield a store's repositories in a part of it, without those that lie under another store's prefix."""
        if not (lies_in(part, prefix) or lies_in(prefix, part)):
            return
        names = store.backend.repositories(max(prefix, part, key=len), after)
        yield from (name for name in names if self.store(name) is store) if self._substores else names

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
