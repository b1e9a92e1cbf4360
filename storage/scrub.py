"""Scrubbing: read everything again; say what is damaged, missing or not what it is said to be, and what that breaks.

A damaged blob goes into quarantine, and comes back with the next push of it, or at once where another repository has a
copy of its own that is good. Nothing here takes a lock but for the moment of moving a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from storage import undo
from storage.backend import Backend, Identity, Redirect
from storage.digest import Digest, is_digest, new_hasher
from storage.errors import BlobUnknown, ManifestInvalid, ManifestTooLarge, RepositoryUnknown, StorageError
from storage.index import RepositoryIndex, tag_of
from storage.manifests import MANIFESTS, MAX_SIZE, Descriptor, Manifest, parse_manifest

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: `problem` is damaged, unreadable, missing, size, manifest, index or failed.

    `what` is a digest, or else a repository. `images` are the tags, and the digests of manifests without one, that need
    it, by repository. A blob in quarantine is `quarantined`, by this run or an earlier one; `healed` names the
    repositories that have a good copy again.
    """

    problem: str
    what: str
    detail: str
    images: dict[str, list[str]]
    quarantined: bool = False
    healed: tuple[str, ...] = ()


@dataclass(slots=True)
class Result:
    """What a run came to: `size` is how many bytes were read; `finished` is false if time ran out."""

    repositories: int = 0
    blobs: int = 0
    size: int = 0
    problems: int = 0
    finished: bool = True


@dataclass(slots=True)
class _Need:
    """What the manifests of a repository say of some content, and the images that need it."""

    media_type: str = ""
    sizes: set[int] = field(default_factory=set)
    images: list[str] = field(default_factory=list)


class Scrubber:
    """Check the repositories of one store.

    `speed` is how many bytes are read in a second at most, 0 for as many as can be. `tell` hears of each problem. With
    `dry_run` nothing is moved.
    """

    def __init__(
        self, backend: Backend, *, speed: float = 0, dry_run: bool = False, tell: Callable[[Finding], None]
    ) -> None:
        self._backend = backend
        self._pace = _Pace(speed)
        self.dry_run = dry_run
        self._tell = tell
        self._good: set[Identity] = set()  #: copies that others share, and that this run has read
        self._bad: set[Identity] = set()
        self._told: set[Digest] = set()
        self._current: tuple[str, dict[str, _Need]] = "", {}  #: the repository that is checked, and what it needs

    def scrub(self, repository: str, result: Result) -> None:
        """Check one repository; what is wrong is told, and counted in the result, not raised."""
        result.repositories += 1
        try:
            for finding in self._scrub(repository, result):
                result.problems += 1
                self._tell(finding)
        except (StorageError, OSError) as error:
            result.problems += 1
            self._tell(Finding("failed", repository, str(error), {repository: []}))

    def tidy(self) -> None:
        """Drop from the quarantine what nothing in its repository needs any longer, or could be restored to need."""
        lost: dict[str, set[Digest]] = {}
        for digest, name in self._backend.quarantined():
            lost.setdefault(name, set()).add(digest)
        for name, digests in lost.items():
            with suppress(StorageError):  # what the repository needs cannot be told
                wanted = self._wanted(name)
                if any(wanted.get(digest) in MANIFESTS for digest in digests):  # nor what that one needs
                    continue
                for digest in digests - wanted.keys():
                    self._backend.drop_quarantined(name, digest)

    def _wanted(self, repository: str) -> dict[str, str]:
        """Return what a repository needs, or could be restored to need, and as what media type."""
        wanted = {digest: need.media_type for digest, need in self._needs(repository)[0].items()}
        for lost in undo.history(self._backend, repository):
            wanted |= undo.closure(self._backend, repository, lost.digest, lost.media_type)
        return wanted

    def _scrub(self, repository: str, result: Result) -> Iterator[Finding]:
        try:
            needs, wrong = self._needs(repository)
        except ManifestInvalid as error:
            needs, wrong = {}, [Finding("index", repository, f"index.json: {error.message}", {repository: []})]
        self._current = repository, needs
        yield from wrong
        there: dict[str, int] = {}
        lost = {digest for digest, _ in self._backend.quarantined()}
        for digest in self._backend.list_blobs(repository):
            result.blobs += 1
            try:
                there[digest] = self._backend.blob_size(repository, digest)
                identity, shared = self._backend.identity(repository, digest)
                if identity in self._bad:  # that has been told
                    continue
                problem = None if identity in self._good else self._check(repository, digest, result)
            except BlobUnknown:  # it was deleted meanwhile
                continue
            if problem:
                yield from self._treat(digest, identity, problem)
                continue
            if shared:
                self._good.add(identity)
            if digest in lost and not self.dry_run:  # somebody has put a good one there
                self._backend.heal(repository, digest)
        yield from self._unmet(repository, needs, there)

    def _unmet(self, repository: str, needs: dict[str, _Need], there: dict[str, int]) -> Iterator[Finding]:
        """Say what is needed and not there, or is not as large as it is said to be."""
        quarantined = {digest for digest, name in self._backend.quarantined() if name == repository}
        for digest, need in needs.items():
            size = there.get(digest)
            if digest in self._told:
                continue
            if size is None:
                size = self._size(repository, digest)
            images = {repository: need.images}
            if size is None:
                kept = digest in quarantined
                detail = "in quarantine until it is pushed again" if kept else "the repository does not have it"
                yield Finding("missing", digest, detail, images, quarantined=kept)
            elif need.sizes - {size}:
                said = ", ".join(map(str, sorted(need.sizes)))
                yield Finding("size", digest, f"has {size} bytes, where {said} are said to be", images)

    def _size(self, repository: str, digest: str) -> int | None:
        try:
            return self._backend.blob_size(repository, Digest(digest)) if is_digest(digest) else None
        except BlobUnknown:
            return None

    # contents

    def _check(self, repository: str, digest: Digest, result: Result) -> str | None:
        """Read a blob; return what is wrong with it, twice: what comes and goes is no damage of the content."""
        return self._read(repository, digest, result) and self._read(repository, digest, result)

    def _read(self, repository: str, digest: Digest, result: Result) -> str | None:
        hasher = new_hasher(digest.algorithm)
        stream = self._backend.open_blob(repository, digest)
        if isinstance(stream, Redirect):  # it lies where it is checked by others
            return None
        try:
            while chunk := stream.read(_CHUNK):
                hasher.update(chunk)
                result.size += len(chunk)
                self._pace.spend(len(chunk))
        except OSError as error:
            return f"unreadable: {error.strerror}"
        finally:
            stream.close()
        actual = Digest(f"{digest.algorithm}:{hasher.hexdigest()}")
        return None if actual == digest else f"damaged: its content is {actual}"

    def _treat(self, digest: Digest, identity: Identity, problem: str) -> Iterator[Finding]:
        """Put a damaged blob into quarantine wherever it is, and heal it from where it is good, if it is anywhere.

        It has the identity that was there before it was read: what a push has put in its place since is another one.
        """
        copies = dict(self._copies(digest))
        damaged = [name for name, copy in copies.items() if copy == identity]
        if not damaged:
            return
        self._told.add(digest)
        self._bad.add(identity)
        images = {name: self._images(name, digest) for name in damaged}
        kind, _, detail = problem.partition(": ")
        if self.dry_run:
            yield Finding(kind, digest, detail, images)
            return
        moved = [name for name in damaged if self._quarantine(name, digest, identity)]
        good = next((name for name, copy in copies.items() if copy != identity and self._is_good(name, digest)), None)
        healed = self._backend.heal(good, digest) if good else []
        yield Finding(kind, digest, detail, images, quarantined=bool(moved), healed=tuple(healed))

    def _quarantine(self, repository: str, digest: Digest, identity: Identity) -> bool:
        with self._backend.lock(repository):
            return self._backend.quarantine(repository, digest, identity)

    def _copies(self, digest: Digest) -> Iterator[tuple[str, Identity]]:
        """Yield the repositories that have a blob, and the identity of each copy."""
        for name in self._backend.places():
            try:
                yield name, self._backend.identity(name, digest)[0]
            except BlobUnknown:
                continue

    def _is_good(self, repository: str, digest: Digest) -> bool:
        try:
            return self._read(repository, digest, Result()) is None
        except BlobUnknown:
            return False

    # what needs what

    def _images(self, repository: str, digest: Digest) -> list[str]:
        current, needs = self._current
        if repository != current:
            try:
                needs, _ = self._needs(repository)
            except StorageError:
                return []
        return needs.get(digest, _Need()).images

    def _needs(self, repository: str) -> tuple[dict[str, _Need], list[Finding]]:
        """Return what the images of a repository need, by digest, and what is wrong with manifests; ManifestInvalid."""
        try:
            data, _ = self._backend.read_index(repository)
        except RepositoryUnknown:
            return {}, []
        needs: dict[str, _Need] = {}
        wrong: dict[str, Finding] = {}
        manifests: dict[tuple[str, str], Manifest | None] = {}
        for entry in RepositoryIndex.parse(data).entries:
            image = tag_of(entry) or entry["digest"]
            todo = [Descriptor(entry["mediaType"], entry["digest"], entry["size"])]
            seen: set[str] = set()
            while todo:
                part = todo.pop()
                need = needs.setdefault(part.digest, _Need(part.media_type))
                need.sizes.add(part.size)
                if part.digest in seen:
                    continue
                seen.add(part.digest)
                need.images.append(image)
                key = part.digest, part.media_type
                if key not in manifests:
                    manifests[key], problem = self._manifest(repository, part)
                    if problem:
                        wrong[part.digest] = Finding("manifest", part.digest, problem, {repository: need.images})
                todo += _parts(manifests[key])
        return needs, list(wrong.values())

    def _manifest(self, repository: str, part: Descriptor) -> tuple[Manifest | None, str | None]:
        """Return a manifest if this is one that is whole, and what is wrong with one that is but says nothing."""
        if part.media_type not in MANIFESTS or not is_digest(part.digest):
            return None, None
        digest = Digest(part.digest)
        try:
            data = self._backend.read_blob(repository, digest, MAX_SIZE + 1)
            if Digest.of(data, digest.algorithm) != digest:
                return None, None  # its content is found damaged, too
            return parse_manifest(data, part.media_type), None
        except (ManifestInvalid, ManifestTooLarge) as error:
            return None, error.message
        except (BlobUnknown, OSError):
            return None, None


def _parts(manifest: Manifest | None) -> list[Descriptor]:
    return [part for part in (*manifest.blobs, *manifest.children) if not part.is_foreign] if manifest else []


class _Pace:
    """Wait as long as it takes for no more than `speed` bytes to be read in a second."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._due = time.monotonic()

    def spend(self, size: int) -> None:
        """Count bytes, and wait until they may have been read."""
        if not self._speed:
            return
        now = time.monotonic()
        self._due = max(self._due, now - 1) + size / self._speed
        if self._due > now:
            time.sleep(self._due - now)
