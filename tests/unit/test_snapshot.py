"""A repository at one moment: what is reachable, what refers to what, and which entries the next one has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from storage.digest import Digest
from storage.errors import ManifestUnknown, StillReferenced
from storage.index import Entry, RepositoryIndex, make_entry, tag_of
from storage.manifests import Manifest, parse_manifest
from storage.snapshot import Snapshot
from tests.support.oci import DOCKER_IMAGE, OCI_CONFIG, OCI_LAYER, Document, descriptor_of, image, index, referrers_tag

CONFIG = descriptor_of(b"{}", OCI_CONFIG)


def an_image(name: str, **fields: Any) -> Document:
    return image(CONFIG, [descriptor_of(name.encode(), OCI_LAYER)], **fields)


def an_index(*children: Document, **fields: Any) -> Document:
    return index([child.descriptor() for child in children], **fields)


class Repository:
    """Put documents into snapshots, one after the other."""

    def __init__(self) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.clock = 1_900_000_000.0
        self.now = Snapshot(None, RepositoryIndex(), self.facts)

    def facts(self, digest: str, _media_type: str) -> Manifest | None:
        return self.manifests.get(digest)

    def put(self, document: Document, *tags: str) -> Document:
        manifest = self.manifests[document.digest] = parse_manifest(document.body)
        entry = make_entry(Digest(document.digest), len(document.body), manifest, self.clock)
        self.now = self.now.with_manifest(entry, manifest, tags)
        return document

    def load(self, *entries: Entry) -> None:
        """Start from what another tool wrote."""
        self.now = Snapshot(None, RepositoryIndex({}, entries), self.facts)

    def know(self, document: Document) -> Document:
        """Let a manifest be readable without an entry."""
        self.manifests[document.digest] = parse_manifest(document.body)
        return document

    @property
    def entries(self) -> list[tuple[str, str | None]]:
        """The digests and tags of the entries, sorted."""
        found = [(str(entry["digest"]), tag_of(entry)) for entry in self.now.index.entries]
        return sorted(found, key=lambda entry: (entry[0], entry[1] or ""))

    def resolves(self, document: Document) -> bool:
        return self.now.resolve(document.digest) is not None

    def referrers(self, digest: str) -> set[str]:
        return set(self.now.referrers_of(Digest(digest)))


def entries(*pairs: tuple[Document, str | None]) -> list[tuple[str, str | None]]:
    return sorted(((document.digest, tag) for document, tag in pairs), key=lambda pair: (pair[0], pair[1] or ""))


@pytest.fixture
def repository() -> Repository:
    return Repository()


# entries


def test_there_is_an_entry_for_each_tag_and_one_without(repository: Repository) -> None:
    one, two = repository.put(an_image("one"), "a", "b"), repository.put(an_image("two"))
    assert repository.entries == entries((one, "a"), (one, "b"), (two, None))


def test_the_same_push_again_changes_nothing(repository: Repository) -> None:
    one = repository.put(an_image("one"), "a", "b")
    before = repository.now
    repository.put(one, "a")
    repository.put(one)
    assert repository.now is before


def test_a_manifest_that_is_listed_rightly_needs_no_entry(repository: Repository) -> None:
    one = repository.know(an_image("one"))
    right = repository.put(an_index(one), "right")
    repository.put(one)
    assert repository.entries == entries((right, "right"))


def test_a_manifest_that_is_listed_as_what_it_is_not_gets_an_entry(repository: Repository) -> None:
    """Else it would be served as that."""
    one = repository.know(an_image("one"))
    wrong = repository.put(index([one.descriptor() | {"mediaType": DOCKER_IMAGE}]), "wrong")
    repository.put(one)
    assert repository.entries == entries((one, None), (wrong, "wrong"))
    resolved = repository.now.resolve(one.digest)
    assert resolved
    assert resolved["mediaType"] == one.media_type


def test_a_manifest_that_loses_its_last_tag_keeps_an_entry(repository: Repository) -> None:
    one = repository.put(an_image("one"), "a", "b")
    two = repository.put(an_image("two"), "a")
    assert repository.entries == entries((one, "b"), (two, "a"))
    repository.put(two, "b")
    assert repository.entries == entries((one, None), (two, "a"), (two, "b"))


def test_a_deleted_tag_leaves_the_manifest(repository: Repository) -> None:
    one = repository.put(an_image("one"), "a", "b")
    repository.now = repository.now.without_tag("a")
    assert repository.entries == entries((one, "b"))
    repository.now = repository.now.without_tag("b")
    assert repository.entries == entries((one, None))
    with pytest.raises(ManifestUnknown):
        repository.now.without_tag("b")


def test_children_are_not_entries_and_resolve(repository: Repository) -> None:
    one, two = repository.put(an_image("one")), repository.put(an_image("two"), "two")
    both = repository.put(an_index(one, two), "all")
    assert repository.entries == entries((both, "all"), (two, "two"))
    assert repository.resolves(one)
    repository.put(one)
    assert repository.entries == entries((both, "all"), (two, "two"))
    repository.now = repository.now.without_tag("two")
    assert repository.entries == entries((both, "all"))
    assert repository.resolves(two)


def test_children_of_nested_indexes_resolve(repository: Repository) -> None:
    leaf = repository.put(an_image("leaf"))
    inner = repository.put(an_index(leaf))
    outer = repository.put(an_index(inner), "outer")
    assert repository.entries == entries((outer, "outer"))
    assert repository.resolves(inner)
    assert repository.resolves(leaf)
    assert repository.now.parents == {inner.digest: [outer.digest], leaf.digest: [inner.digest]}


def test_an_index_that_replaces_its_own_child_under_a_tag(repository: Repository) -> None:
    one = repository.put(an_image("one"), "a")
    both = repository.put(an_index(one), "a")
    assert repository.entries == entries((both, "a"))
    assert repository.resolves(one)


def test_an_index_that_loses_its_tag_keeps_its_children(repository: Repository) -> None:
    one = repository.put(an_image("one"))
    both = repository.put(an_index(one), "a")
    repository.put(an_image("two"), "a")
    assert (both.digest, None) in repository.entries
    assert repository.resolves(one)


def test_a_referrer_keeps_its_entry_in_an_index(repository: Repository) -> None:
    subject = descriptor_of(b"somebody", "a/b")
    untagged = repository.put(an_image("one", subject=subject))
    tagged = repository.put(an_image("two", subject=subject), "a")
    both = repository.put(an_index(untagged, tagged), "a")
    assert repository.entries == entries((untagged, None), (tagged, None), (both, "a"))
    assert repository.referrers(subject["digest"]) == {untagged.digest, tagged.digest}


# deletion


def test_a_manifest_goes_with_its_tags(repository: Repository) -> None:
    one, two = repository.put(an_image("one"), "a", "b"), repository.put(an_image("two"), "c")
    repository.now = repository.now.without_manifest(Digest(one.digest))
    assert repository.entries == entries((two, "c"))
    with pytest.raises(ManifestUnknown):
        repository.now.without_manifest(Digest(one.digest))


def test_what_an_index_lists_is_not_deleted(repository: Repository) -> None:
    one = repository.put(an_image("one"), "one")
    both = repository.put(an_index(one), "all")
    with pytest.raises(StillReferenced) as caught:
        repository.now.without_manifest(Digest(one.digest))
    assert caught.value.detail == {"digest": one.digest, "referencedBy": [both.digest]}
    repository.now = repository.now.without_manifest(Digest(both.digest))
    repository.now = repository.now.without_manifest(Digest(one.digest))
    assert repository.entries == []


def test_a_subject_does_not_hold(repository: Repository) -> None:
    one = repository.put(an_image("one"))
    signature = repository.put(an_image("two", subject=one.descriptor()))
    repository.now = repository.now.without_manifest(Digest(one.digest))
    assert repository.entries == entries((signature, None))
    assert repository.referrers(one.digest) == {signature.digest}


def test_blobs_are_held_by_every_reachable_manifest(repository: Repository) -> None:
    one = repository.put(an_image("one"))
    both = repository.put(an_index(one), "all")
    layer, config = Digest.of(b"one"), Digest(CONFIG["digest"])
    for blob in (layer, config):
        with pytest.raises(StillReferenced) as caught:
            repository.now.check_unreferenced(blob)
        assert caught.value.detail["referencedBy"] == [one.digest]
    for manifest in (one, both):
        with pytest.raises(StillReferenced, match="manifest"):
            repository.now.check_unreferenced(Digest(manifest.digest))
    repository.now.check_unreferenced(Digest.of(b"nobody's"))
    repository.now = repository.now.without_manifest(Digest(both.digest))
    repository.now.check_unreferenced(layer)


# referrers


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_referrers_are_found_by_their_subject(repository: Repository, algorithm: str) -> None:
    subject = descriptor_of(b"somebody", "a/b", algorithm)
    by_image = repository.put(an_image("one", subject=subject))
    by_index = repository.put(an_index(subject=subject), "tagged")
    repository.put(an_image("two", subject=descriptor_of(b"another", "a/b")))
    assert repository.referrers(subject["digest"]) == {by_image.digest, by_index.digest}
    assert repository.referrers(str(Digest.of(b"nobody"))) == set()


def test_a_manifest_that_another_tool_entered_is_asked_for_its_subject(repository: Repository) -> None:
    subject = descriptor_of(b"somebody", "a/b")
    signature = repository.know(an_image("one", subject=subject))
    repository.load(signature.descriptor(), an_image("unreadable").descriptor(), descriptor_of(b"x", "other/type"))
    assert repository.referrers(subject["digest"]) == {signature.digest}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_what_the_fallback_tag_lists_is_included(repository: Repository, algorithm: str) -> None:
    subject = descriptor_of(b"somebody", "a/b", algorithm)
    signature = repository.know(an_image("one", subject=subject))
    other = repository.know(an_image("two", subject=descriptor_of(b"another", "a/b")))
    listing = repository.know(an_index(signature, other))
    tag = referrers_tag(subject["digest"])
    repository.load(listing.descriptor(annotations={"org.opencontainers.image.ref.name": tag}))
    assert repository.referrers(subject["digest"]) == {signature.digest}


# what other tools wrote


def test_an_index_that_cannot_be_read_lists_nothing(repository: Repository) -> None:
    lost = an_index(an_image("one"))
    repository.load(lost.descriptor())
    assert repository.now.children == {}
    repository.now.check_unreferenced(Digest.of(b"x"))


def test_what_is_listed_under_a_name_that_is_no_tag_is_found_by_digest(repository: Repository) -> None:
    one = repository.know(an_image("one"))
    repository.load(one.descriptor(annotations={"org.opencontainers.image.ref.name": "docker.io/x:latest"}))
    assert repository.now.index.tags == {}
    assert repository.resolves(one)


def test_a_fact_is_asked_for_once_a_version(repository: Repository) -> None:
    asked: list[str] = []
    both = repository.know(an_index(an_image("one")))

    def facts(digest: str, _media_type: str) -> Manifest | None:
        asked.append(digest)
        return repository.manifests.get(digest)

    snapshot = Snapshot(None, RepositoryIndex({}, (json.loads(json.dumps(both.descriptor())),)), facts)
    for _ in range(3):
        snapshot.resolve("sha256:nothing")
        assert snapshot.parents
    assert asked == [both.digest]
