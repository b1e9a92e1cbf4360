"""Every path on disk.

<root>/                                     one store
  <repository>/                             a repository: an OCI image layout; names nest (`a` and `a/b`)
    oci-layout                              marks the layout and its version
    index.json                              manifests and tags: the truth
    blobs/<algorithm>/<encoded>             configs, layers and manifests
    .uploads/<uuid>                         an upload session's bytes
    .uploads/<uuid>.note                    what one request that carried all of them hashed
    .bin/<time>/<algorithm>/<encoded>       blobs found unreachable at that time (UTC), until they are gone for good
    .bin/undo/<nanoseconds>-<random>.json   what the index lost in one change
    .tmp-<random>                           a file on its way to its name
  .pierhead/                                no repository can have this name
    pool/<algorithm>/<2 digits>/<encoded>   one more link to each blob: how equal blobs find each other
    locks/<repository, / as %>              a file to flock, never unlinked
    indexes/<repository, / as %>            the last good index.json, should the real one be damaged
    pulls/<repository, / as %>/<digest>     an empty file whose time is when the manifest was last pulled
    pulls/.since                            likewise, from when on that is known
    quarantine/<digest>/<repository, / as %>    a blob whose content was found damaged
    metrics/<n>                             counters, a file for each worker
    auth/                                   API keys and the keys that sign tokens: for nobody but the registry
    limits/                                 who asked how often: tables that all workers share
    quotas/lock                             held by whoever looks at or changes the rest of quotas/
    quotas/usage/<prefix, / as %>           the most that the repositories of a prefix can have by now
    quotas/pushes/<uuid>                    what a push under way may come to: locked by the process that serves it
    gc/lock                                 held by the worker that collects on schedule
    gc/state                                when that ended, and where a run that ran out of time goes on
    scrub/lock, scrub/state                 likewise of the worker that checks all contents
    gc/journal                              what was collected, when and why; gc/journal.1 is the older part
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from storage.digest import Digest

PRIVATE = ".pierhead"
INDEX = "index.json"
MARKER = "oci-layout"
BLOBS = "blobs"
UPLOADS = ".uploads"
BIN = ".bin"
TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class Layout:
    """Name the files of the store that lies at `root`; touch none of them."""

    root: str
    private: str = field(init=False)

    def __post_init__(self) -> None:
        """Derive the directory that holds what is not a repository."""
        object.__setattr__(self, "private", f"{self.root}/{PRIVATE}")

    def repository(self, name: str) -> str:
        """Return the directory of a repository."""
        return f"{self.root}/{name}"

    def marker(self, name: str) -> str:
        """Return the path of a repository's `oci-layout` file."""
        return f"{self.root}/{name}/{MARKER}"

    def index(self, name: str) -> str:
        """Return the path of a repository's index."""
        return f"{self.root}/{name}/{INDEX}"

    def blobs(self, name: str) -> str:
        """Return the directory under which a repository's blobs lie, by algorithm."""
        return f"{self.root}/{name}/{BLOBS}"

    def blob(self, name: str, digest: Digest) -> str:
        """Return the path of a blob in a repository."""
        algorithm, _, encoded = digest.partition(":")
        return f"{self.root}/{name}/{BLOBS}/{algorithm}/{encoded}"

    def uploads(self, name: str) -> str:
        """Return the directory of a repository's upload sessions."""
        return f"{self.root}/{name}/{UPLOADS}"

    def upload(self, name: str, session: str) -> str:
        """Return the path of an upload session's bytes."""
        return f"{self.root}/{name}/{UPLOADS}/{session}"

    def upload_note(self, name: str, session: str) -> str:
        """Return the path of what is known of an upload session's digest."""
        return f"{self.root}/{name}/{UPLOADS}/{session}.note"

    def bin(self, name: str) -> str:
        """Return the directory of what a repository has lost."""
        return f"{self.root}/{name}/{BIN}"

    def binned(self, name: str, batch: str, digest: Digest) -> str:
        """Return the path of a blob in a part of the bin."""
        algorithm, _, encoded = digest.partition(":")
        return f"{self.root}/{name}/{BIN}/{batch}/{algorithm}/{encoded}"

    def undo(self, name: str) -> str:
        """Return the directory of the notes of what a repository's index has lost."""
        return f"{self.root}/{name}/{BIN}/undo"

    def temporary(self, name: str) -> str:
        """Return a new path, on the repository's file system, for a file that is still being written."""
        return f"{self.root}/{name}/{TEMPORARY}{secrets.token_hex(8)}"

    def pooled(self, digest: Digest) -> str:
        """Return the path of a blob's link in the pool."""
        algorithm, _, encoded = digest.partition(":")
        return f"{self.pool}/{algorithm}/{encoded[:2]}/{encoded}"

    @property
    def pool(self) -> str:
        """The directory of the pool."""
        return f"{self.private}/pool"

    def lock(self, name: str) -> str:
        """Return the path of a repository's lock file."""
        return f"{self.private}/locks/{_flat(name)}"

    def last_good_index(self, name: str) -> str:
        """Return the path of the copy that is kept of a repository's index."""
        return f"{self.private}/indexes/{_flat(name)}"

    def pulls(self, name: str) -> str:
        """Return the directory of the times at which a repository's manifests were last pulled."""
        return f"{self.private}/pulls/{_flat(name)}"

    def pull(self, name: str, digest: Digest) -> str:
        """Return the path of the file whose time is when a manifest was last pulled."""
        return f"{self.pulls(name)}/{digest.replace(':', '-')}"

    @property
    def pulls_since(self) -> str:
        """The file whose time is from when on pulls are known."""
        return f"{self.private}/pulls/.since"

    def quarantine(self, digest: Digest) -> str:
        """Return the directory of the damaged copies of a blob."""
        return f"{self.quarantines}/{digest.replace(':', '-')}"

    def quarantined(self, digest: Digest, name: str) -> str:
        """Return the path of what was a repository's copy of a blob."""
        return f"{self.quarantine(digest)}/{_flat(name)}"

    @property
    def quarantines(self) -> str:
        """The directory of all damaged blobs."""
        return f"{self.private}/quarantine"

    @property
    def scrub(self) -> str:
        """The directory of the scrub's lock and state."""
        return f"{self.private}/scrub"

    @property
    def gc(self) -> str:
        """The directory of the collection's lock, state and journal."""
        return f"{self.private}/gc"

    @property
    def quotas(self) -> str:
        """The directory of what is reserved for pushes under way, and of what was last found to be used."""
        return f"{self.private}/quotas"

    @property
    def metrics(self) -> str:
        """The directory of the workers' counters."""
        return f"{self.private}/metrics"

    @property
    def auth(self) -> str:
        """The directory of what the registry keeps secret."""
        return f"{self.private}/auth"

    @property
    def limits(self) -> str:
        """The directory of the tables that bound rates and guesses."""
        return f"{self.private}/limits"


def named(flat: str) -> str:
    """Return the repository whose name is written with % for /."""
    return flat.replace("%", "/")


def _flat(name: str) -> str:
    return name.replace("/", "%")
