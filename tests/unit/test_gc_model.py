"""Collections at any moment, between all that clients and operators do: what is needed stays, what is not goes."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage import undo
from storage.digest import Digest
from storage.errors import ManifestUnknown, ReferencesUnknown, StorageError
from storage.gc import Collector, Result
from storage.image_store import ImageStore
from storage.layout import Layout
from storage.local import LocalBackend
from storage.manifests import parse_manifest
from tests.support.oci import OCI_CONFIG, OCI_LAYER, Document, descriptor_of, image, index

DELAY = 1000.0  #: seconds on a clock that the test turns
UNDO = 2.5 * DELAY
BLOBS = {Digest.of(data): data for data in (b"", b"one", b"two")}
REPOSITORIES = ("a", "a/b")


def make_documents() -> list[Document]:
    """Make images, referrers, an index, and an index in an index."""
    config = descriptor_of(b"", OCI_CONFIG)
    one, two = (image(config, [descriptor_of(layer, OCI_LAYER)]) for layer in (b"one", b"two"))
    signature = image(config, subject=one.descriptor())
    both = index([one.descriptor(), two.descriptor()])
    nested = index([both.descriptor(), signature.descriptor()])
    return [one, two, signature, both, nested]


DOCUMENTS = make_documents()
FACTS = {document.digest: parse_manifest(document.body) for document in DOCUMENTS}
repositories = st.sampled_from(REPOSITORIES)
tags = st.sampled_from(["v1", "v2"])
documents = st.sampled_from(DOCUMENTS)
digests = st.sampled_from(sorted(BLOBS))


class Clock:
    """The time of the storage modules, which a test can put forward. Files are stamped by the real one, so are old."""

    def __init__(self) -> None:
        self.ahead = 2 * DELAY

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self.ahead

    def time_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return time.time_ns() + int(self.ahead * 1e9)


class Collecting(RuleBasedStateMachine):
    """Two stores on one root, as two processes have them, and collections between their steps."""

    @initialize()
    def start(self) -> None:
        self.root = tempfile.mkdtemp()
        self.clock = Clock()
        self.patches = [patch("storage.gc.time", self.clock), patch("storage.bin.time", self.clock)]
        for one in self.patches:
            one.start()
        self.stores = [ImageStore(LocalBackend(self.root), undo=UNDO) for _ in range(2)]
        self.turn = 0
        self.tags: dict[tuple[str, str], str] = {}
        self.kept: dict[str, set[str]] = {name: set() for name in REPOSITORIES}
        self.promised: dict[tuple[str, str], float] = {}  #: when the registry last said that it has a blob
        self.certain: dict[str, float] = dict.fromkeys(REPOSITORIES, 0.0)  #: what was lost since then can be restored

    def teardown(self) -> None:
        try:
            self.after_the_delays_garbage_is_gone()
        finally:
            for one in self.patches:
                one.stop()
            shutil.rmtree(self.root)

    @property
    def store(self) -> ImageStore:
        """Each step reaches the other process."""
        self.turn += 1
        return self.stores[self.turn % 2]

    def promise(self, repository: str, digest: str) -> None:
        self.promised[repository, digest] = self.clock.time()

    # clients

    @rule(repository=repositories, digest=digests)
    def push_blob(self, repository: str, digest: Digest) -> None:
        self.store.push_blob(repository, digest, io.BytesIO(BLOBS[digest]))
        self.promise(repository, digest)

    @rule(repository=repositories, digest=digests)
    def head_blob(self, repository: str, digest: Digest) -> None:
        with suppress(StorageError):
            self.store.blob_size(repository, digest)
            self.promise(repository, digest)

    @rule(repository=repositories, digest=digests, named=st.booleans())
    def mount(self, repository: str, digest: Digest, named: bool) -> None:
        source = next(name for name in REPOSITORIES if name != repository)
        if self.store.mount(repository, digest, source if named else None):
            self.promise(repository, digest)

    @rule(repository=repositories, document=documents, tag=st.none() | tags)
    def push_whole(self, repository: str, document: Document, tag: str | None) -> None:
        for blob in FACTS[document.digest].blobs:
            self.push_blob(repository, Digest(blob.digest))
        for child in FACTS[document.digest].children:
            self.push_whole(repository, next(one for one in DOCUMENTS if one.digest == child.digest), None)
        self.push_manifest(repository, document, tag)

    @rule(repository=repositories, document=documents, tag=st.none() | tags)
    def push_manifest(self, repository: str, document: Document, tag: str | None) -> None:
        """Push the manifest only, trusting in what the registry has said about its blobs."""
        try:
            self.store.put_manifest(repository, tag or document.digest, document.body)
        except ReferencesUnknown as error:
            for digest in error.missing:
                said = self.promised.get((repository, digest), -DELAY)
                assert digest not in BLOBS or said + DELAY <= self.clock.time(), f"{digest} went too early"
                assert digest not in self.kept[repository]
        else:
            self.kept[repository].add(document.digest)
            if tag:
                self.tags[repository, tag] = document.digest

    @rule(repository=repositories, tag=tags)
    def delete_tag(self, repository: str, tag: str) -> None:
        with suppress(StorageError):
            self.store.delete_manifest(repository, tag)
            del self.tags[repository, tag]

    @rule(repository=repositories, document=documents)
    def delete_manifest(self, repository: str, document: Document) -> None:
        store = self.store
        with suppress(StorageError):
            store.delete_manifest(repository, document.digest)
            self.tags = {
                key: digest for key, digest in self.tags.items() if key[0] != repository or digest != document.digest
            }
            self.kept[repository] = {digest for digest in self.kept[repository] if resolves(store, repository, digest)}

    @rule(repository=repositories, digest=digests)
    def delete_blob(self, repository: str, digest: Digest) -> None:
        with suppress(StorageError):
            self.store.delete_blob(repository, digest)
            self.promised.pop((repository, digest), None)
            self.certain[repository] = self.clock.time()

    @rule(repository=repositories, abandoned=st.booleans())
    def begin_upload(self, repository: str, abandoned: bool) -> None:
        store = self.store
        session = store.begin_upload(repository, "sha256")
        store.append_upload(repository, session, io.BytesIO(b"part"))
        if not abandoned:
            store.cancel_upload(repository, session)

    # operators

    @rule(repository=repositories)
    def restore(self, repository: str) -> None:
        store = self.store
        for lost in undo.history(store.backend, repository)[-1:]:
            try:
                undo.restore(store, repository, lost)
            except (undo.NotRestorable, StorageError):
                assert lost.time < max(self.certain[repository], self.clock.time() - UNDO)
                return
            self.kept[repository].add(lost.digest)
            if lost.tag:
                self.tags[repository, lost.tag] = lost.digest

    @rule(part=st.sampled_from([0.4, 1.1, 3.0]))
    def wait(self, part: float) -> None:
        self.clock.ahead += part * DELAY

    @rule()
    def collect(self) -> None:
        self.run("collect")

    @rule()
    def purge(self) -> None:
        self.run("purge")
        self.certain = dict.fromkeys(REPOSITORIES, self.clock.time())
        self.promised = {}  # what was deleted goes at once, whoever may have looked at it

    def run(self, work: str) -> None:
        backend = self.store.backend
        collector, result = Collector(backend, delay=DELAY, undo=UNDO), Result()
        for name in list(backend.places()):
            getattr(collector, work)(name, result)
        collector.sweep_pool(result)
        assert not result.failed

    # what must always hold

    @invariant()
    def what_is_kept_pulls_whole(self) -> None:
        for store in self.stores:
            for (repository, tag), digest in self.tags.items():
                assert store.get_manifest(repository, tag).digest == digest
            for repository, kept in self.kept.items():
                for digest in kept:
                    pull(store, repository, digest)

    def after_the_delays_garbage_is_gone(self) -> None:
        for _ in range(3):
            self.clock.ahead += UNDO + DELAY
            self.run("collect")
        layout = Layout(self.root)
        everywhere: set[str] = set()
        for repository in REPOSITORIES:
            needed = {part for digest in self.kept[repository] for part in parts(digest)}
            everywhere |= needed
            assert set(self.store.backend.list_blobs(repository)) == needed
            assert not files(layout.uploads(repository))
            assert not files(layout.bin(repository))
            assert not list(Path(layout.repository(repository)).glob(".tmp-*"))
        assert {Path(path).name for path in files(layout.pool)} == {digest.partition(":")[2] for digest in everywhere}


def parts(digest: str) -> set[str]:
    """Return a document and all that it needs."""
    facts = FACTS[digest]
    found = {digest, *(blob.digest for blob in facts.blobs)}
    return found.union(*(parts(child.digest) for child in facts.children))


def resolves(store: ImageStore, repository: str, digest: str) -> bool:
    """Tell whether a manifest is still one of the repository's."""
    try:
        return bool(store.get_manifest(repository, digest))
    except ManifestUnknown:
        return False


def pull(store: ImageStore, repository: str, digest: str) -> None:
    """Read a manifest and all that it needs from the disk, and compare."""
    assert Digest.of(store.get_manifest(repository, digest).data) == digest
    for part in parts(digest):
        assert Digest.of(store.backend.read_blob(repository, Digest(part), 1 << 20)) == part


def files(path: str) -> list[str]:
    """List the files below a directory."""
    return [os.path.join(directory, name) for directory, _, names in os.walk(path) for name in names]


Collecting.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestCollecting = Collecting.TestCase
