"""ImageStore against a model of plain sets: whatever clients do, what is tagged pulls whole, and lists are right."""

from __future__ import annotations

import io
import shutil
import tempfile
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage.digest import Digest
from storage.errors import BlobUnknown, ManifestUnknown, ReferencesUnknown, RepositoryUnknown, StillReferenced
from storage.image_store import ImageStore
from storage.local import LocalBackend
from storage.manifests import Manifest, parse_manifest
from tests.support.oci import OCI_CONFIG, OCI_LAYER, Document, descriptor_of, image, index

repositories = st.sampled_from(["a", "a/b"])
tags = st.sampled_from(["v1", "v2", "latest"])
blobs = st.sampled_from([b"", b"one", b"two"])


def make_documents() -> list[Document]:
    """Make what clients may push: images, referrers, indexes of either, an index in an index."""
    config = descriptor_of(b"", OCI_CONFIG)
    one, two = (image(config, [descriptor_of(layer, OCI_LAYER)]) for layer in (b"one", b"two"))
    signature = image(config, subject=one.descriptor())
    note = image(config, [descriptor_of(b"one", OCI_LAYER)], subject=signature.descriptor())
    both = index([one.descriptor(), two.descriptor()])
    signed = index([one.descriptor(), signature.descriptor()])
    nested = index([both.descriptor(), two.descriptor(), note.descriptor()])
    about = index([], subject=two.descriptor())
    return [one, two, signature, note, both, signed, nested, about]


DOCUMENTS = make_documents()
MANIFESTS: dict[str, Manifest] = {document.digest: parse_manifest(document.body) for document in DOCUMENTS}
documents = st.sampled_from(DOCUMENTS)


@dataclass
class Repository:
    """What one repository should be: `roots` are the manifests that have an entry without a tag."""

    blobs: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    roots: set[str] = field(default_factory=set)
    exists: bool = False


class Model(RuleBasedStateMachine):
    """Do what clients do, to a store and to the model."""

    @initialize()
    def start(self) -> None:
        self.root = tempfile.mkdtemp()
        self.workers = [ImageStore(LocalBackend(self.root, dedupe=dedupe)) for dedupe in (True, False)]
        self.turn = 0
        self.repositories = {"a": Repository(), "a/b": Repository()}

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @property
    def store(self) -> ImageStore:
        """Each step reaches the other worker."""
        self.turn += 1
        return self.workers[self.turn % 2]

    # the model's look-ups

    def reachable(self, repository: str) -> set[str]:
        """The manifests that resolve: the entries, and all that indexes among them list."""
        now = self.repositories[repository]
        found: set[str] = set()
        todo = [*now.tags.values(), *now.roots]
        while todo:
            digest = todo.pop()
            if digest not in found:
                found.add(digest)
                todo += [child.digest for child in MANIFESTS[digest].children]
        return found

    def children(self, repository: str) -> set[str]:
        """The manifests that a reachable index lists."""
        listed = (MANIFESTS[digest].children for digest in self.reachable(repository))
        return {child.digest for children in listed for child in children}

    def settle(self, repository: str, loser: str) -> None:
        """Keep a manifest that lost a tag, unless another entry or an index does; referrers are always kept."""
        now = self.repositories[repository]
        if loser not in now.tags.values() and (
            loser not in self.children(repository) or MANIFESTS[loser].subject is not None
        ):
            now.roots.add(loser)

    # what clients do

    @rule(repository=repositories, data=blobs)
    def push_blob(self, repository: str, data: bytes) -> None:
        self.store.push_blob(repository, Digest.of(data), io.BytesIO(data))
        self.repositories[repository].blobs.add(Digest.of(data))

    @rule(repository=repositories, data=blobs, named=st.booleans())
    def mount(self, repository: str, data: bytes, named: bool) -> None:
        digest = Digest.of(data)
        source = "a" if repository == "a/b" else "a/b"
        mounted = self.store.mount(repository, digest, source if named else None)
        if named:
            assert mounted == (digest in self.repositories[source].blobs)
        if mounted:
            self.repositories[repository].blobs.add(digest)

    @rule(repository=repositories, document=documents, tag=st.none() | tags)
    def push_whole(self, repository: str, document: Document, tag: str | None) -> None:
        """Push what the manifest references first, as clients do."""
        manifest = MANIFESTS[document.digest]
        for data in (b"", b"one", b"two"):
            if Digest.of(data) in {blob.digest for blob in manifest.blobs}:
                self.push_blob(repository, data)
        for child in manifest.children:
            self.push_whole(repository, next(found for found in DOCUMENTS if found.digest == child.digest), None)
        self.push_manifest(repository, document, tag)

    @rule(repository=repositories, document=documents, tag=st.none() | tags)
    def push_manifest(self, repository: str, document: Document, tag: str | None) -> None:
        now, manifest = self.repositories[repository], MANIFESTS[document.digest]
        needed = {child.digest for child in manifest.children} - self.reachable(repository)
        needed |= {blob.digest for blob in manifest.blobs} - now.blobs
        if needed:
            with pytest.raises(ReferencesUnknown) as caught:
                self.store.put_manifest(repository, tag or document.digest, document.body)
            assert set(caught.value.missing) == needed
            return
        self.store.put_manifest(repository, tag or document.digest, document.body)
        self.expect_push(repository, document.digest, tag)

    def expect_push(self, repository: str, digest: str, tag: str | None) -> None:
        now, manifest = self.repositories[repository], MANIFESTS[digest]
        now.exists = True
        now.blobs.add(digest)
        if tag is None:
            if digest not in now.tags.values() and (
                manifest.subject is not None or digest not in self.children(repository)
            ):
                now.roots.add(digest)
        else:
            loser = now.tags.get(tag)
            now.tags[tag] = digest
            now.roots.discard(digest)
            if loser is not None:
                self.settle(repository, loser)
        now.roots -= {child.digest for child in manifest.children if MANIFESTS[child.digest].subject is None}

    @rule(repository=repositories, tag=tags)
    def delete_tag(self, repository: str, tag: str) -> None:
        now = self.repositories[repository]
        if not now.exists:
            with pytest.raises(RepositoryUnknown):
                self.store.delete_manifest(repository, tag)
        elif tag not in now.tags:
            with pytest.raises(ManifestUnknown):
                self.store.delete_manifest(repository, tag)
        else:
            self.store.delete_manifest(repository, tag)
            self.settle(repository, now.tags.pop(tag))

    @rule(repository=repositories, document=documents)
    def delete_manifest(self, repository: str, document: Document) -> None:
        now = self.repositories[repository]
        if not now.exists:
            with pytest.raises(RepositoryUnknown):
                self.store.delete_manifest(repository, document.digest)
        elif document.digest in self.children(repository):
            with pytest.raises(StillReferenced):
                self.store.delete_manifest(repository, document.digest)
        elif document.digest not in self.reachable(repository):
            with pytest.raises(ManifestUnknown):
                self.store.delete_manifest(repository, document.digest)
        else:
            self.store.delete_manifest(repository, document.digest)
            now.tags = {tag: digest for tag, digest in now.tags.items() if digest != document.digest}
            now.roots.discard(document.digest)
            self.lose_referrers(repository, document.digest)

    def lose_referrers(self, repository: str, subject: str) -> None:
        """Let go of what belonged to a deleted manifest, unless a tag or an index keeps it."""
        now = self.repositories[repository]
        for digest in sorted(now.roots):
            belongs_to = MANIFESTS[digest].subject
            kept = digest in now.tags.values() or digest in self.children(repository)
            if digest in now.roots and belongs_to and belongs_to.digest == subject and not kept:
                now.roots.discard(digest)
                self.lose_referrers(repository, digest)

    @rule(repository=repositories, data=blobs)
    def delete_blob(self, repository: str, data: bytes) -> None:
        now, digest = self.repositories[repository], Digest.of(data)
        held = {blob.digest for manifest in self.reachable(repository) for blob in MANIFESTS[manifest].blobs}
        if digest not in now.blobs:
            with pytest.raises(BlobUnknown):
                self.store.delete_blob(repository, digest)
        elif digest in held:
            with pytest.raises(StillReferenced):
                self.store.delete_blob(repository, digest)
        else:
            self.store.delete_blob(repository, digest)
            now.blobs.remove(digest)

    # what must always hold

    def pull(self, repository: str, reference: str) -> None:
        """Pull a manifest and all that it references."""
        pulled = self.store.get_manifest(repository, reference)
        assert Digest.of(pulled.data) == pulled.digest
        manifest = parse_manifest(pulled.data, pulled.media_type)
        for blob in manifest.blobs:
            assert self.store.blob_size(repository, Digest(blob.digest)) == blob.size
        for child in manifest.children:
            self.pull(repository, child.digest)

    @invariant()
    def what_is_tagged_pulls_whole(self) -> None:
        for name, now in self.repositories.items():
            for tag, digest in now.tags.items():
                assert self.store.get_manifest(name, tag).digest == digest
                self.pull(name, tag)

    @invariant()
    def what_the_model_lists_is_listed(self) -> None:
        known = [name for name, now in self.repositories.items() if now.exists]
        listed = [name for name in known if self.reachable(name)]
        assert list(self.store.backend.repositories()) == sorted(listed)
        for name in known:
            assert self.store.tags(name) == (sorted(self.repositories[name].tags), False)

    @invariant()
    def what_the_model_resolves_resolves(self) -> None:
        for name in (name for name, now in self.repositories.items() if now.exists):
            reachable = self.reachable(name)
            for document in DOCUMENTS:
                if document.digest in reachable:
                    assert self.store.get_manifest(name, document.digest).data == document.body
                else:
                    with pytest.raises(ManifestUnknown):
                        self.store.get_manifest(name, document.digest)

    @invariant()
    def referrers_are_listed(self) -> None:
        for name in self.repositories:
            present = {digest: MANIFESTS[digest].subject for digest in self.reachable(name)}
            for document in DOCUMENTS:
                wanted = {
                    digest for digest, subject in present.items() if subject and subject.digest == document.digest
                }
                found = [entry["digest"] for entry in self.store.referrers(name, Digest(document.digest))]
                assert found == sorted(wanted)


Model.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestImageStore = Model.TestCase
