"""Quarantine: blobs whose content is not what their digest says, kept out of every repository's reach.

Each lies under its digest and the name of the repository that had it: so it is known who is to have the blob again
once somebody pushes it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress

from storage.backend import Identity
from storage.digest import Digest, is_digest
from storage.durable import Durable, write_new
from storage.layout import Layout, named


class Quarantine:
    """The quarantine of one store."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._layout = layout
        self._durable = durable

    def put(self, repository: str, digest: Digest, identity: Identity) -> bool:
        """Move a damaged blob here; tell whether it was there, and still the one with this identity.

        A rename takes it out of the readers' way at once; one that a push has put in its place meanwhile goes back.
        """
        source, target = self._layout.blob(repository, digest), self._layout.quarantined(digest, repository)
        self._durable.make_directory(os.path.dirname(target))
        try:
            if identity_of(os.stat(source)) != identity:
                return False
            self._durable.rename(source, target)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._leave_note(source, target, identity)
        else:
            try:
                if identity_of(os.stat(target)) != identity:
                    self._durable.rename(target, source)
                    return False
            except FileNotFoundError:  # whoever pushed it has given the repository another link already
                return False
        for path in (target, source):
            self._durable.sync_directory(os.path.dirname(path))
        return True

    def _leave_note(self, source: str, target: str, identity: Identity) -> None:
        """Unlink a blob that lies on another file system than the quarantine, which gets an empty file for it."""
        with suppress(FileExistsError):
            write_new(self._durable, target, b"")
        if identity_of(os.stat(source)) == identity:
            os.unlink(source)

    def repositories(self, digest: Digest) -> list[str]:
        """Return the repositories whose copy of a blob is here. Cheap where there is none."""
        try:
            return [named(name) for name in os.listdir(self._layout.quarantine(digest))]
        except FileNotFoundError:
            return []

    def drop(self, repository: str, digest: Digest) -> None:
        """Unlink what was a repository's copy; the directory stays for whoever is just about to fill it."""
        with suppress(FileNotFoundError):
            os.unlink(self._layout.quarantined(digest, repository))

    def blobs(self) -> Iterator[tuple[Digest, str]]:
        """Yield the digest of each blob that is here, and the repository that had it."""
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._layout.quarantines)):
                digest = name.replace("-", ":", 1)
                if is_digest(digest):
                    for repository in sorted(self.repositories(Digest(digest))):
                        yield Digest(digest), repository


def identity_of(status: os.stat_result) -> Identity:
    """Return what all links of one file have in common, and no other file has."""
    return status.st_dev, status.st_ino
