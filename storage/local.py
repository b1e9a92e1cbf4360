"""The local-disk backend: image layouts, by the paths of `layout.py` and the steps of `durable.py`."""

from __future__ import annotations

import errno
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeAlias, TypeVar

from storage import locks
from storage.backend import Binned, Identity, Redirect, Source, Stream, Version
from storage.bin import Bin
from storage.cache import Cache
from storage.content import Content, is_same, of_bytes, of_file
from storage.digest import ALGORITHMS, Digest, is_digest, new_hasher
from storage.durable import Durable, write_all
from storage.errors import BlobUnknown, DigestMismatch, IndexChanged, RepositoryUnknown
from storage.last_good import LastGood
from storage.layout import TEMPORARY, Layout
from storage.listing import Listing, Stamp, settled, stamp
from storage.pool import CANNOT_LINK, Pool
from storage.pulls import Pulls
from storage.quarantine import Quarantine, identity_of
from storage.uploads import Uploads

log = logging.getLogger(__name__)

_OWN_LINKS = 2  #: of a blob that no other repository shares: in the repository and in the pool
_CONTENTS = 200_000  #: sizes of blobs kept in memory, all together
_SLOWEST_WRITE = 60.0  #: seconds for which a small file may be on its way to its name, whatever gcDelay is
_COPY = 10 * 1024 * 1024
_MARKER = b'{"imageLayoutVersion":"1.0.0"}'

#: Counts an event by name: (name, how much). See `registry/metrics.py`.
Count: TypeAlias = Callable[[str, int], None]

T = TypeVar("T")


class FileStream:
    """A part of an open file; `fileno()` lets the kernel send it."""

    def __init__(self, file: io.FileIO, start: int, length: int) -> None:
        self._file = file
        self._left = length
        file.seek(start)

    def fileno(self) -> int:
        """Return the descriptor, whose position is at the first byte that has not been read."""
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, or all that are left; stop at the end of the part."""
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LocalBackend:
    """One store on local disk, shared by all threads of a worker and by any number of workers."""

    def __init__(
        self, root: str, *, dedupe: bool = True, durable: Durable | None = None, count: Count = lambda *_: None
    ) -> None:
        self._layout = Layout(os.path.abspath(root))
        self._durable = durable or Durable(self._layout.root)
        self._pool = Pool(self._layout, self._durable)
        self._bin = Bin(self._layout, self._durable)
        self._pulls = Pulls(self._layout)
        self._quarantine = Quarantine(self._layout, self._durable)
        self._dedupe = dedupe
        self._last_good = LastGood(self._layout)
        self._listing = Listing(self._layout)
        self._contents: Cache[str, tuple[tuple[Stamp | None, ...], Mapping[Digest, int]]] = Cache(_CONTENTS)
        self._uploads = Uploads(self._layout, self._durable)
        self._count = count

    def lock(self, repository: str) -> AbstractContextManager[object]:
        """Hold the repository's file lock."""
        return locks.exclusive(self._layout.lock(repository))

    # documents

    def index_version(self, repository: str) -> Version | None:
        """Return what tells one index.json from every other that has been there."""
        try:
            return stamp(os.stat(self._layout.index(repository)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_index(self, repository: str) -> tuple[bytes, Version]:
        """Read index.json, and its version by fstat of the very file that was read."""
        try:
            with io.FileIO(self._layout.index(repository)) as file:
                while True:
                    before = stamp(os.fstat(file.fileno()))
                    data = os.pread(file.fileno(), before[1] + 1, 0)
                    if stamp(os.fstat(file.fileno())) == before:
                        return data, before
        except (FileNotFoundError, NotADirectoryError):
            raise RepositoryUnknown("no such repository", name=repository) from None

    def last_good_index(self, repository: str) -> bytes | None:
        """Return the copy of the index that `swap_index` left, if it is whole."""
        return self._last_good.read(repository)

    def swap_index(self, repository: str, data: bytes, expected: Version | None) -> Version:
        """Replace index.json; the caller holds the lock.

        The new file's mtime is strictly greater than the old one's, whatever the clock and the file system do, so
        that no two versions ever look alike.
        """
        if self.index_version(repository) != expected:
            raise IndexChanged("the index has changed since it was read", name=repository)
        if expected is None:
            self._make_layout(repository)
        self._sync_blob_names(repository)
        path = self._layout.index(repository)
        old_mtime = expected[2] if isinstance(expected, tuple) else 0
        with self._temporary(repository) as (temporary, descriptor):
            write_all(descriptor, data)
            _raise_mtime(descriptor, old_mtime)
            self._durable.sync_file(descriptor)
            self._durable.rename(temporary, path)
            self._durable.sync_directory(os.path.dirname(path))
            version = stamp(os.fstat(descriptor))
        self._last_good.keep(repository, data)
        return version

    def sync_index(self, repository: str) -> None:
        """Sync index.json and its name: who replaced it may have failed before it could."""
        self._sync_blob_names(repository)
        path = self._layout.index(repository)
        with io.FileIO(path) as file:
            self._durable.sync_file(file.fileno())
        self._durable.sync_directory(os.path.dirname(path))

    def _sync_blob_names(self, repository: str) -> None:
        """Sync the names of blobs, also of those that another request is just about to sync."""
        for algorithm in ALGORITHMS:
            with suppress(FileNotFoundError):
                self._durable.sync_directory(f"{self._layout.blobs(repository)}/{algorithm}")

    def _make_layout(self, repository: str) -> None:
        self._durable.make_directory(self._layout.blobs(repository))
        marker = self._layout.marker(repository)
        if not os.path.exists(marker):
            with self._temporary(repository) as (temporary, descriptor):
                write_all(descriptor, _MARKER)
                self._durable.sync_file(descriptor)
                self._durable.rename(temporary, marker)

    def keep_good_index(self, repository: str, data: bytes, version: Version) -> None:
        """Copy an index aside that was read, unless it is not the newest any more or somebody else is doing so."""
        self._last_good.keep(repository, data, wait=False, is_newest=lambda: self.index_version(repository) == version)

    def repositories(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Walk the directories that can be repositories, reading no more of them than the caller asks for."""
        return self._listing.repositories(prefix, after)

    def places(self, after: str = "", prefix: str = "") -> Iterator[str]:
        """Yield the names whose directories hold anything of a repository."""
        return self._listing.places(prefix, after)

    # blobs

    def blob_size(self, repository: str, digest: Digest) -> int:
        """Return the size of a blob in bytes."""
        return self._reach(repository, digest, os.stat).st_size

    def open_blob(
        self, repository: str, digest: Digest, start: int = 0, length: int | None = None
    ) -> Stream | Redirect:
        """Open a part of a blob's file."""
        file = self._open(repository, digest)
        return FileStream(file, start, os.fstat(file.fileno()).st_size - start if length is None else length)

    def read_blob(self, repository: str, digest: Digest, limit: int) -> bytes:
        """Read a small blob, into no more memory than it takes: what is kept would keep the pages of the rest."""
        with self._open(repository, digest) as file:
            return file.read(min(limit, os.fstat(file.fileno()).st_size))

    def size_now(self, repository: str, digest: Digest) -> int | None:
        """Look whether the file is there, and whether it can be in the bin; and again, if it has just left that."""
        path = self._layout.blob(repository, digest)
        with suppress(FileNotFoundError, NotADirectoryError):
            return os.stat(path).st_size
        if not self._bin.is_empty(repository):
            return None
        with suppress(FileNotFoundError, NotADirectoryError):
            return os.stat(path).st_size
        raise _blob_unknown(digest)

    def read_now(self, repository: str, digest: Digest, limit: int) -> bytes | None:
        """Read a small blob that is in the page cache."""
        try:
            descriptor = os.open(self._layout.blob(repository, digest), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            size = os.fstat(descriptor).st_size
            if size > limit:
                return None
            data = bytearray(size)
            whole = not size or os.preadv(descriptor, [data], 0, os.RWF_NOWAIT) == size
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            return None
        finally:
            os.close(descriptor)
        return bytes(data) if whole else None

    def put_blob(self, repository: str, digest: Digest, data: bytes) -> None:
        """Write a small blob beside the others, then give it its name."""
        target = self._layout.blob(repository, digest)
        self._durable.make_directory(os.path.dirname(target))
        there = self._compare(repository, digest, of_bytes(data))
        if not there:
            with self._temporary(repository) as (temporary, descriptor):
                write_all(descriptor, data)
                if not self._place(repository, digest, temporary, descriptor, replaces=there is not None):
                    _unlink(temporary)
        self.heal(repository, digest)

    def link_blob(self, source: str, target: str, digest: Digest) -> None:
        """Give another repository the same inode, or a copy of it where links are impossible or not wanted."""
        with self._open(source, digest) as original:
            self._durable.sync_file(original.fileno())  # another tool may have written it
            size = os.fstat(original.fileno()).st_size
        path = self._layout.blob(target, digest)
        self._durable.make_directory(os.path.dirname(path))
        if not os.path.exists(path):
            self._share(self._layout.blob(source, digest), target, digest)
        elif os.stat(path).st_size != size:  # one of the two is damaged, and a push will tell which
            raise _blob_unknown(digest)
        self._durable.sync_directory(os.path.dirname(path))
        self._count("blobs_mounted", 1)

    def find_blob(self, target: str, digest: Digest) -> bool:
        """Take the blob from the pool, where it is if any repository of this store has it."""
        if not self._dedupe or not self._pool.has(digest):
            return False
        path = self._layout.blob(target, digest)
        self._durable.make_directory(os.path.dirname(path))
        try:
            found = self._pool.take(digest, path)
        except FileExistsError:
            found = True
        if found:
            self._durable.sync_directory(os.path.dirname(path))
            self._count("blobs_mounted", 1)
        return found

    def adopt_file(self, repository: str, digest: Digest, descriptor: int, body: Source) -> bool:
        """Link a file of this file system to which nobody can write but its owner, whom we act as."""
        target = self._layout.blob(repository, digest)
        self._durable.make_directory(os.path.dirname(target))
        before = os.fstat(descriptor)
        if not _is_ours(before) or before.st_dev != os.stat(os.path.dirname(target)).st_dev:
            return False
        actual = _digest_of(body, digest.algorithm)
        after = os.fstat(descriptor)
        if actual != digest or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DigestMismatch("the content is not what the digest says", digest=digest, actual=actual)
        there = self._compare(repository, digest, of_file(descriptor))
        if there is False:
            return False
        done = there or self._take_from_pool(digest, target, descriptor)
        done = done or self._link_open(digest, target, descriptor, after.st_size)
        if done:
            self.heal(repository, digest)
        return done

    def _link_open(self, digest: Digest, target: str, descriptor: int, size: int) -> bool:
        self._durable.sync_file(descriptor)
        try:
            self._durable.link_open(descriptor, target)
        except FileExistsError:  # another request has just put it there
            return True
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
            return False
        if self._dedupe:
            self._pool.offer(target, digest)
        self._count("blobs_stored", 1)
        self._count("bytes_stored", size)
        return True

    def list_blobs(self, repository: str) -> Iterator[Digest]:
        """List the directories of the supported algorithms."""
        for algorithm in ALGORITHMS:
            directory = f"{self._layout.blobs(repository)}/{algorithm}"
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
                names = (f"{algorithm}:{entry.name}" for entry in entries)
                yield from (Digest(name) for name in names if is_digest(name))

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Unlink a blob, and the pool's link with it if no other repository has the blob."""
        path = self._layout.blob(repository, digest)
        size = self.blob_size(repository, digest)
        self._bin.forget(repository, digest)
        os.unlink(path)
        self._durable.sync_directory(os.path.dirname(path))
        self._pool.release(digest)
        self._count("blobs_deleted", 1)
        self._count("bytes_deleted", size)

    def contents(self, repository: str) -> Mapping[Digest, int]:
        """Read the directories of the blobs, and remember the sizes while the directories do not change."""
        stamp = tuple(map(settled, (f"{self._layout.blobs(repository)}/{name}" for name in ALGORITHMS)))
        known = self._contents.get(repository)
        if known and known[0] == stamp:
            return known[1]
        sizes = dict(self._sizes(repository))
        if None not in stamp:
            self._contents.put(repository, (stamp, sizes), weight=len(sizes) + 1)
        return sizes

    def _sizes(self, repository: str) -> Iterator[tuple[Digest, int]]:
        for digest in self.list_blobs(repository):
            with suppress(FileNotFoundError):
                yield digest, os.stat(self._layout.blob(repository, digest)).st_size

    def uploads(self, repository: str) -> Mapping[str, int]:
        """Look at the files of the sessions."""
        return self._uploads.sizes(repository)

    def findable(self, digest: Digest) -> int | None:
        """Look into the pool."""
        return self._pool.size(digest) if self._dedupe else None

    # what is collected, and what can be undone

    def old_blobs(self, repository: str, before: float) -> Iterator[Digest]:
        """List the blobs whose files were written before a time."""
        for digest in self.list_blobs(repository):
            with suppress(FileNotFoundError):
                if os.stat(self._layout.blob(repository, digest)).st_mtime < before:
                    yield digest

    def bin_blobs(self, repository: str, digests: list[Digest], now: float) -> list[Binned]:
        """Rename blobs into the bin."""
        return self._bin.put(repository, digests, now)

    def sync_bin(self, repository: str) -> None:
        """Sync the directories that blobs were moved to."""
        self._bin.sync(repository)

    def binned_blobs(self, repository: str) -> Iterator[Binned]:
        """List the bin."""
        return self._bin.blobs(repository)

    def take_back(self, repository: str, digest: Digest) -> bool:
        """Rename a blob out of the bin, unless there is one in its place, and leave no other link of it there."""
        taken = not os.path.exists(self._layout.blob(repository, digest)) and self._bin.take_back(repository, digest)
        return self._bin.forget(repository, digest) or taken

    def drop_binned(self, repository: str, blob: Binned) -> bool:
        """Unlink a blob in the bin, and the pool's link with it if no other repository has the blob."""
        gone = self._bin.drop(repository, blob)
        if gone:
            self._pool.release(blob.digest)
            self._count("blobs_deleted", 1)
            self._count("bytes_deleted", blob.size)
        return gone

    def drop_stale(self, repository: str, before: float) -> list[str]:
        """Remove sessions and temporary files that nobody has written to since a time, and empty parts of the bin."""
        with self.lock(repository):  # or a directory would go that is being filled
            self._bin.tidy(repository)
        return [*self._uploads.drop_stale(repository, before), *self._drop_temporaries(repository, before)]

    def _drop_temporaries(self, repository: str, before: float) -> Iterator[str]:
        before = min(before, time.time() - _SLOWEST_WRITE)
        with suppress(FileNotFoundError), os.scandir(self._layout.repository(repository)) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.name.startswith(TEMPORARY) and entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)
                        yield entry.name

    def drop_empty(self, repository: str) -> bool:
        """Unlink the index of a repository that has nothing more, so that it is one no longer; tell whether it is so.

        Its directories stay for whoever is just about to push to it.
        """
        if any(self.list_blobs(repository)):
            return False
        _unlink(self._layout.index(repository))
        _unlink(self._layout.marker(repository))
        return True

    def sweep_pool(self) -> Iterator[tuple[Digest, int]]:
        """Drop the pool's links that are the last ones, as a crash or another tool may have left them."""
        return self._pool.sweep()

    def note_removed(self, repository: str, data: bytes) -> None:
        """Write a note of what the index is about to lose."""
        self._bin.note(repository, data)

    def removed_notes(self, repository: str) -> list[tuple[str, bytes]]:
        """Return the notes by their names."""
        return self._bin.notes(repository)

    def drop_note(self, repository: str, name: str) -> None:
        """Remove a note."""
        self._bin.drop_note(repository, name)

    # what is damaged

    def identity(self, repository: str, digest: Digest) -> tuple[Identity, bool]:
        """Return the inode; its links are the repository's, the pool's, and those of others."""
        status = self._reach(repository, digest, os.stat)
        return identity_of(status), status.st_nlink > _OWN_LINKS

    def quarantine(self, repository: str, digest: Digest, identity: Identity) -> bool:
        """Rename a blob into the quarantine, after the pool's link to it is gone."""
        self._pool.drop(digest, identity)
        gone = self._quarantine.put(repository, digest, identity)
        if gone:
            self._count("blobs_quarantined", 1)
        return gone

    def quarantined(self) -> Iterator[tuple[Digest, str]]:
        """List the quarantine."""
        return self._quarantine.blobs()

    def is_quarantined(self, repository: str, digest: Digest) -> bool:
        """Look for the file."""
        return repository in self._quarantine.repositories(digest)

    def drop_quarantined(self, repository: str, digest: Digest) -> None:
        """Unlink a damaged blob for good."""
        self._quarantine.drop(repository, digest)

    def heal(self, repository: str, digest: Digest) -> list[str]:
        """Link a blob into the repositories that lost it, as far as these are still there."""
        healed = []
        for name in self._quarantine.repositories(digest):
            try:
                if name != repository and self.index_version(name) is not None:
                    path = self._layout.blob(name, digest)
                    self._durable.make_directory(os.path.dirname(path))
                    self._share(self._layout.blob(repository, digest), name, digest)
                    self._durable.sync_directory(os.path.dirname(path))
                    healed.append(name)
                elif name == repository:
                    os.stat(self._layout.blob(repository, digest))  # what has just left its place is not to be dropped
                self._quarantine.drop(name, digest)
            except (OSError, BlobUnknown) as error:  # it stays in quarantine, for the next time
                log.error("repository %s still lacks %s, which was damaged: %s", name, digest, error)
        return healed

    # when things happened

    def written_at(self, repository: str, digest: Digest) -> float:
        """Return the time of the blob's file."""
        return self._reach(repository, digest, os.stat).st_mtime

    def record_pull(self, repository: str, digest: Digest) -> None:
        """Touch a file."""
        self._pulls.record(repository, digest)

    def pulls(self, repository: str) -> dict[str, float]:
        """Return the times of files."""
        return self._pulls.times(repository)

    def pulls_known_since(self) -> float:
        """Return the time of a file."""
        return self._pulls.since()

    def forget_pulls(self, repository: str, digests: Iterable[str]) -> None:
        """Remove files."""
        self._pulls.begin()
        self._pulls.forget(repository, digests)

    # sessions

    def begin_upload(self, repository: str, algorithm: str) -> str:
        """Start a session."""
        return self._uploads.begin(repository, algorithm)

    def upload_size(self, repository: str, session: str) -> int:
        """Return how many bytes the session holds."""
        return self._uploads.size(repository, session)

    def append_upload(self, repository: str, session: str, body: Source, start: int | None = None) -> int:
        """Append to the session's file."""
        return self._uploads.append(repository, session, body, start)

    def commit_upload(
        self, repository: str, session: str, digest: Digest, body: Source, start: int | None = None
    ) -> None:
        """Append the last of the session's bytes, check their digest, then make its file the blob."""
        with self._uploads.open(repository, session) as upload:
            self._uploads.extend(repository, session, upload, body, start)
            actual = self._uploads.digest(repository, session, upload, digest.algorithm)
            moved = False
            if actual == digest:
                self._durable.make_directory(os.path.dirname(self._layout.blob(repository, digest)))
                moved = self._adopt(repository, digest, upload.path, upload.descriptor)
                self._durable.sync_directory(os.path.dirname(self._layout.blob(repository, digest)))
                self.heal(repository, digest)
            if not moved:
                _unlink(upload.path)
        self._uploads.forget(repository, session)
        if actual != digest:
            raise DigestMismatch("the content is not what the digest says", digest=digest, actual=actual)

    def abort_upload(self, repository: str, session: str) -> None:
        """Remove the session's file."""
        self._uploads.abort(repository, session)

    # how a file becomes a blob

    def _adopt(self, repository: str, digest: Digest, path: str, descriptor: int) -> bool:
        """Make a complete file the repository's blob, or leave it in favour of an equal one that is there already.

        Tell whether it has lost its path to that.
        """
        there = self._compare(repository, digest, of_file(descriptor))
        return not there and self._place(repository, digest, path, descriptor, replaces=there is not None)

    def _place(self, repository: str, digest: Digest, path: str, descriptor: int, *, replaces: bool) -> bool:
        """Make a complete file a blob that the repository lacks, or that it `replaces` since that is damaged.

        Tell whether it has lost its path to that, or was left in favour of the pool's.
        """
        target = self._layout.blob(repository, digest)
        if replaces:
            shared = self._layout.temporary(repository)
            with suppress(FileNotFoundError):  # it is as old as the pool's file, so somebody may tidy it away
                if self._take_from_pool(digest, shared, descriptor):
                    self._durable.rename(shared, target)
                    _unlink(shared)
                    return False
        elif self._take_from_pool(digest, target, descriptor):
            return False
        self._sync_or_drop(path, descriptor)
        late = self._dedupe and self._pool.offer(path, digest)
        if late and not replaces and self._take_from_pool(digest, target, descriptor):
            return False
        self._durable.rename(path, target)
        _unlink(path)  # it is there still if another request has just taken it from the pool: to rename did nothing
        if not replaces:
            self._count("blobs_stored", 1)
            self._count("bytes_stored", os.fstat(descriptor).st_size)
        return True

    def _sync_or_drop(self, path: str, descriptor: int) -> None:
        """Sync a file; one that could not be synced goes, since the next attempt would succeed and write nothing."""
        try:
            self._durable.sync_file(descriptor)
        except OSError:
            _unlink(path)
            raise

    def _compare(self, repository: str, digest: Digest, content: Content) -> bool | None:
        """Tell whether the blob that is there has its content, and sync it then, whoever wrote it; None if none is."""
        try:
            with self._open(repository, digest) as file:  # out of the bin too: else it could come back later
                same = is_same(file.fileno(), content)
                if same:
                    self._durable.sync_file(file.fileno())
        except BlobUnknown:
            return None
        if not same:
            log.error("blob %s of repository %s is damaged: what is pushed now takes its place", digest, repository)
        return same

    def _take_from_pool(self, digest: Digest, target: str, descriptor: int) -> bool:
        """Link the pool's copy into a repository, if it is what the open file is; tell whether it is there now."""
        if not self._dedupe:
            return False
        try:
            taken = self._pool.take(digest, target, of_file(descriptor))
        except FileExistsError:  # another request has just put it there
            return True
        if taken:
            self._count("blobs_deduplicated", 1)
            self._count("bytes_deduplicated", os.fstat(descriptor).st_size)
        return taken

    def _share(self, source: str, repository: str, digest: Digest) -> None:
        """Link a blob's file into a repository; copy it where that cannot be or is not wanted."""
        target = self._layout.blob(repository, digest)
        try:
            if self._dedupe:
                self._durable.link(source, target)
                return
        except FileExistsError:  # another request has just put it there
            return
        except FileNotFoundError:
            raise _blob_unknown(digest) from None
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
        with io.FileIO(source) as original, self._temporary(repository) as (temporary, descriptor):
            while chunk := original.read(_COPY):
                write_all(descriptor, chunk)
            self._durable.sync_file(descriptor)
            self._durable.rename(temporary, target)

    def _open(self, repository: str, digest: Digest) -> io.FileIO:
        return self._reach(repository, digest, io.FileIO)

    def _reach(self, repository: str, digest: Digest, use: Callable[[str], T]) -> T:
        """Use a blob's file, which leaves the bin if it lies there; raise BlobUnknown."""
        path = self._layout.blob(repository, digest)
        with suppress(FileNotFoundError, NotADirectoryError):
            return use(path)
        self._bin.take_back(repository, digest)
        try:
            return use(path)  # also where somebody else has just taken it back
        except (FileNotFoundError, NotADirectoryError):
            raise _blob_unknown(digest) from None

    @contextmanager
    def _temporary(self, repository: str) -> Iterator[tuple[str, int]]:
        """Open a new file on the repository's file system, for the caller to rename; it goes if that fails."""
        path = self._layout.temporary(repository)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            yield path, descriptor
        except BaseException:
            _unlink(path)
            raise
        finally:
            os.close(descriptor)


def _is_ours(status: os.stat_result) -> bool:
    """Tell whether a file can be read by whom we act as, who owns it, and be written to by nobody else."""
    return status.st_uid == os.geteuid() and status.st_mode & 0o422 == 0o400  # noqa: PLR2004


def _digest_of(body: Source, algorithm: str) -> Digest:
    hasher = new_hasher(algorithm)
    while chunk := body.read(_COPY):
        hasher.update(chunk)
    return Digest(f"{algorithm}:{hasher.hexdigest()}")


def _raise_mtime(descriptor: int, floor: int) -> None:
    """Make the file's mtime greater than `floor`, as far as the file system's time stamps need it to go."""
    step = 1
    while os.fstat(descriptor).st_mtime_ns <= floor:
        os.utime(descriptor, ns=(floor + step, floor + step))
        step *= 10


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _blob_unknown(digest: Digest) -> BlobUnknown:
    return BlobUnknown("this repository does not have the blob", digest=digest)
