"""A repository's index: its entries, what is derived from them, and what other tools wrote there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from storage.digest import Digest
from storage.errors import ManifestInvalid
from storage.index import TAG, Entry, RepositoryIndex, make_entry, tag_of
from storage.manifests import OCI_INDEX, OCI_MANIFEST, parse_manifest

NOW = 1_900_000_000.0


def entry(name: str, tag: object = None, **fields: Any) -> Entry:
    made: Entry = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(name.encode())), "size": 1, **fields}
    return made if tag is None else made | {"annotations": made.get("annotations", {}) | {TAG: tag}}


def index(*entries: Entry, **fields: object) -> RepositoryIndex:
    return RepositoryIndex.parse(json.dumps({"schemaVersion": 2, **fields, "manifests": entries}).encode())


def written(index: RepositoryIndex) -> Any:
    return json.loads(index.data)


def test_a_new_index_is_an_image_index() -> None:
    assert written(RepositoryIndex()) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def test_what_other_tools_wrote_is_kept() -> None:
    foreign = entry("a", "v1", platform={"os": "linux"}, annotations={"x": "y"}, urls=["u"])
    document = {"schemaVersion": 2, "annotations": {"made": "elsewhere"}, "x": [1], "manifests": [foreign]}
    parsed = RepositoryIndex.parse(json.dumps(document).encode())
    changed = parsed.put(entry("b"), ["v2"], keep_untagged=True, replaced=())
    assert written(changed) == {"mediaType": OCI_INDEX, **document, "manifests": [foreign, entry("b", "v2")]}
    untagged = written(parsed.without(["v1"], ()).with_untagged(foreign, NOW))["manifests"]
    kept = entry("a", platform={"os": "linux"}, annotations={"x": "y"}, urls=["u"])
    assert untagged == [kept | {"untagged": "2030-03-17T17:46:40.000Z"}]


@pytest.mark.parametrize("data", [b'{"manifests": null}', b'{"schemaVersion": 2, "manifests": []}'])
def test_an_index_may_be_empty(data: bytes) -> None:
    assert RepositoryIndex.parse(data).entries == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"manifests": [',
        b'{"manifests": {"a": 1}}',
    ],
)
def test_what_is_no_index_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        RepositoryIndex.parse(data)


@pytest.mark.parametrize(
    "odd",
    [
        1,
        None,
        {},
        {"digest": "a", "size": 1},
        {"mediaType": 1, "digest": "a", "size": 1},
        {"mediaType": "a/b", "digest": 1, "size": 1},
        {"mediaType": "a/b", "digest": "a", "size": "1"},
    ],
)
def test_what_is_no_entry_is_kept_and_not_served(odd: object) -> None:
    parsed = RepositoryIndex.parse(json.dumps({"manifests": [odd, entry("a", "v1")]}).encode())
    assert list(parsed.by_digest) == [entry("a")["digest"]]
    changed = parsed.put(entry("b"), ["v1"], keep_untagged=True, replaced=()).without((), ["none"])
    assert written(changed)["manifests"] == [entry("b", "v1"), odd]


@pytest.mark.parametrize("name", ["", "a b", "docker.io/library/busybox:latest", "a" * 129, ".", 1, None, {}])
def test_a_ref_name_that_is_no_tag_is_no_tag(name: object) -> None:
    odd = entry("a") | {"annotations": {TAG: name}}
    assert tag_of(odd) is None
    assert index(odd).tags == {}
    assert index(odd).by_digest == {odd["digest"]: odd}


@pytest.mark.parametrize("annotations", [None, [], "a", {}, {"other": "latest"}])
def test_other_annotations_are_no_tag(annotations: object) -> None:
    assert tag_of(entry("a") | {"annotations": annotations}) is None


def test_tags_are_sorted_by_their_bytes() -> None:
    assert index(*(entry("a", tag) for tag in ("b", "_", "a", "B", "a.1", "a-1"))).sorted_tags == [
        "B",
        "_",
        "a",
        "a-1",
        "a.1",
        "b",
    ]


def test_there_is_one_entry_for_each_tag() -> None:
    first = RepositoryIndex().put(entry("a"), ["v1", "v2"], keep_untagged=True, replaced=())
    assert written(first)["manifests"] == [entry("a", "v1"), entry("a", "v2")]
    second = first.put(entry("b"), ["v1"], keep_untagged=True, replaced=())
    assert written(second)["manifests"] == [entry("a", "v2"), entry("b", "v1")]


def test_a_tag_takes_the_place_of_the_untagged_entry() -> None:
    untagged = RepositoryIndex().put(entry("a"), [], keep_untagged=True, replaced=())
    assert written(untagged)["manifests"] == [entry("a")]
    assert written(untagged.put(entry("a"), [], keep_untagged=True, replaced=())) == written(untagged)
    assert written(untagged.put(entry("a"), ["v1"], keep_untagged=True, replaced=()))["manifests"] == [entry("a", "v1")]


def test_no_untagged_entry_for_what_needs_none() -> None:
    assert RepositoryIndex().put(entry("a"), [], keep_untagged=False, replaced=()).entries == ()


def test_replaced_untagged_entries_go_and_tagged_ones_stay() -> None:
    children = [entry("a"), entry("b", "v1"), entry("c", "not a tag")]
    new = index(*children).put(entry("i"), [], keep_untagged=True, replaced=[child["digest"] for child in children])
    assert written(new)["manifests"] == [entry("b", "v1"), entry("i")]


def test_a_manifest_goes_with_all_its_tags() -> None:
    start = index(entry("a", "v1"), entry("b", "v2"), entry("a", "v3"), entry("a"))
    assert written(start.without((), [entry("a")["digest"]]))["manifests"] == [entry("b", "v2")]


def test_a_manifest_that_still_has_a_tag_gets_no_untagged_entry() -> None:
    tagged = index(entry("a", "v1"))
    assert tagged.with_untagged(entry("a", "v2"), NOW) is tagged


def test_an_index_is_never_changed() -> None:
    start = index(entry("a", "v1"), entry("b"))
    before = start.data
    start.put(entry("c"), ["v1"], keep_untagged=True, replaced=[entry("b")["digest"]])
    start.without(["v1"], ()).with_untagged(start.tags["v1"], NOW)
    start.without((), [entry("b")["digest"]])
    assert start.data == before


def test_an_entry_describes_the_manifest_without_its_annotations() -> None:
    config = {"mediaType": "a/b", "digest": str(Digest.of(b"c")), "size": 1}
    document = {"schemaVersion": 2, "config": config, "annotations": {TAG: "latest"}, "subject": config}
    data = json.dumps(document).encode()
    made = make_entry(Digest.of(data), len(data), parse_manifest(data, OCI_MANIFEST), NOW)
    assert made == {
        "mediaType": OCI_MANIFEST,
        "digest": Digest.of(data),
        "size": len(data),
        "pushed": "2030-03-17T17:46:40.000Z",
        "artifactType": "a/b",
        "subject": config,
    }


def test_what_another_worker_appended_is_read_as_the_whole_would_be() -> None:
    known = index(entry("a", "v1"), entry("b"), annotations={"x": "y"})
    more = known.put(entry("c"), ["v1", "v2"], keep_untagged=True, replaced=())
    more = more.put(entry("d", mediaType=OCI_INDEX), [], keep_untagged=True, replaced=())
    for base in (known, known.put(entry("c"), ["v3"], keep_untagged=True, replaced=()), RepositoryIndex(), None):
        read, whole = RepositoryIndex.parse(more.data, base), RepositoryIndex.parse(more.data)
        assert (read.tags, read.by_digest, read.listings) == (whole.tags, whole.by_digest, whole.listings)
        assert (read.sorted_tags, read.data) == (whole.sorted_tags, more.data)


@pytest.mark.parametrize("tail", [b"", b"1", b"{}", b'{"a": 1}],"x": [1', b"[]"])
def test_a_tail_that_is_no_entries_is_not_taken_for_some(tail: bytes) -> None:
    known = index(entry("a", "v1"))
    data = known.data[:-2] + b"," + tail + b"]}"
    try:
        whole = RepositoryIndex.parse(data)
    except ManifestInvalid:
        with pytest.raises(ManifestInvalid):
            RepositoryIndex.parse(data, known)
    else:
        assert RepositoryIndex.parse(data, known) == whole
