"""The documents: what is a manifest, what it references, and that anything else is refused with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import Digest
from storage.errors import ManifestInvalid, ManifestTooLarge
from storage.manifests import (
    ARTIFACTS,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    FOREIGN_LAYERS,
    IMAGES,
    INDEXES,
    MANIFESTS,
    MAX_SIZE,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    ORAS_ARTIFACT,
    Descriptor,
    Manifest,
    parse_document,
    parse_manifest,
)

Json = dict[str, Any]

ONE: Json = {"mediaType": "a/one", "digest": str(Digest.of(b"1")), "size": 1}
TWO: Json = {"mediaType": "a/two", "digest": "blake3:0123", "size": 0}
CONFIG: Json = {"mediaType": "a/config", "digest": str(Digest.of(b"c", "sha512")), "size": 2**63 - 1}


def parse(document: object, content_type: str | None = None) -> Manifest:
    return parse_manifest(json.dumps(document).encode(), content_type)


def image(**fields: object) -> Json:
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [ONE, TWO], **fields}


def refusal(document: object, content_type: str | None = None) -> ManifestInvalid:
    with pytest.raises(ManifestInvalid) as caught:
        parse(document, content_type)
    return caught.value


def descriptors(*values: Json) -> tuple[Descriptor, ...]:
    return tuple(Descriptor(value["mediaType"], value["digest"], value["size"]) for value in values)


@pytest.mark.parametrize("media_type", sorted(IMAGES))
def test_an_image_references_its_config_and_layers(media_type: str) -> None:
    manifest = parse(image(mediaType=media_type))
    assert manifest.media_type == media_type
    assert manifest.blobs == descriptors(CONFIG, ONE, TWO)
    assert manifest.children == ()
    assert (manifest.subject, manifest.annotations) == (None, None)


@pytest.mark.parametrize("media_type", sorted(INDEXES))
def test_an_index_references_its_children(media_type: str) -> None:
    manifest = parse({"schemaVersion": 2, "mediaType": media_type, "manifests": [ONE, TWO]})
    assert (manifest.media_type, manifest.blobs, manifest.children) == (media_type, (), descriptors(ONE, TWO))
    assert manifest.artifact_type is None


@pytest.mark.parametrize("media_type", sorted(ARTIFACTS))
def test_an_artifact_references_its_blobs_and_has_no_schema_version(media_type: str) -> None:
    manifest = parse({"mediaType": media_type, "artifactType": "a/b", "blobs": [ONE], "subject": TWO})
    assert (manifest.blobs, manifest.children, manifest.artifact_type) == (descriptors(ONE), (), "a/b")
    assert manifest.subject == descriptors(TWO)[0]


def test_a_descriptor_is_written_as_the_specs_have_it() -> None:
    assert descriptors(ONE)[0].to_json() == ONE


@pytest.mark.parametrize("missing", [None, [], "absent"])
def test_null_lists_are_empty(missing: object) -> None:
    document = image(layers=missing)
    if missing == "absent":
        del document["layers"]
    assert parse(document).blobs == descriptors(CONFIG)


@pytest.mark.parametrize("layer", sorted(FOREIGN_LAYERS))
def test_foreign_layers_are_known_by_their_type(layer: str) -> None:
    manifest = parse(image(layers=[ONE, ONE | {"mediaType": layer}]))
    assert [blob.is_foreign for blob in manifest.blobs] == [False, False, True]


def test_the_artifact_type_is_the_configs_type_unless_given() -> None:
    assert parse(image()).artifact_type == "a/config"
    assert parse(image(artifactType="a/b")).artifact_type == "a/b"
    assert parse(image(artifactType="")).artifact_type == "a/config"


def test_annotations_are_strings() -> None:
    assert parse(image(annotations={"a": "b"})).annotations == {"a": "b"}
    assert parse(image(annotations=None)).annotations is None
    refused: list[object] = [[], "a", 1, {"a": 1}, {"a": None}, {"a": {}}]
    for wrong in refused:
        assert refusal(image(annotations=wrong)).detail == {"path": "annotations"}


@pytest.mark.parametrize("media_type", sorted(MANIFESTS))
def test_only_oci_documents_have_a_subject(media_type: str) -> None:
    document = image(mediaType=media_type, manifests=None, subject=ONE)
    if media_type in INDEXES:
        del document["config"], document["layers"]
    subject = parse(document).subject
    assert (subject is None) == (media_type in {DOCKER_MANIFEST, DOCKER_LIST})


@pytest.mark.parametrize("subject", [[], "a", 1, {}, {"digest": ONE["digest"]}])
def test_a_subject_is_a_descriptor(subject: object) -> None:
    assert str(refusal(image(subject=subject)).detail["path"]).startswith("subject")


# what the document is


def test_the_content_type_serves_where_the_document_has_none() -> None:
    document = image()
    del document["mediaType"]
    assert parse(document, DOCKER_MANIFEST).media_type == DOCKER_MANIFEST
    assert parse(document).media_type == OCI_MANIFEST
    assert parse({"schemaVersion": 2, "manifests": []}).media_type == OCI_INDEX
    assert parse({"blobs": []}, ORAS_ARTIFACT).media_type == ORAS_ARTIFACT


def test_a_contradiction_is_refused() -> None:
    error = refusal(image(), OCI_INDEX)
    assert error.detail == {"contentType": OCI_INDEX, "mediaType": OCI_MANIFEST}


@pytest.mark.parametrize("fields", [{"layers": [ONE]}, {"config": CONFIG}])
@pytest.mark.parametrize("media_type", sorted(MANIFESTS))
def test_an_index_and_image_in_one_is_refused(media_type: str, fields: Json) -> None:
    refusal({"schemaVersion": 2, "mediaType": media_type, "manifests": [ONE], **fields})


@pytest.mark.parametrize("document", [{}, {"schemaVersion": 2}, {"schemaVersion": 2, "layers": []}, {"config": CONFIG}])
def test_what_cannot_be_told_is_refused(document: Json) -> None:
    assert "mediaType" in refusal(document).message


@pytest.mark.parametrize("media_type", ["text/html", "application/vnd.oci.image.config.v1+json", OCI_MANIFEST.upper()])
def test_other_media_types_are_refused_with_those_that_are_not(media_type: str) -> None:
    error = refusal(image(mediaType=media_type))
    assert error.detail == {"mediaType": media_type, "accepted": sorted(MANIFESTS)}


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        ({"schemaVersion": 1, "name": "a", "fsLayers": []}, DOCKER_MANIFEST),
        (image(schemaVersion=1), None),
        ({"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ({}, "application/vnd.docker.distribution.manifest.v1+json"),
    ],
)
def test_schema_1_is_refused_by_name(document: Json, content_type: str | None) -> None:
    assert "schema 1" in refusal(document, content_type).message


@pytest.mark.parametrize("version", [None, 0, 3, "2", [2], True])
@pytest.mark.parametrize("media_type", sorted(IMAGES | INDEXES))
def test_the_schema_version_is_2(media_type: str, version: object) -> None:
    refusal({"schemaVersion": version, "mediaType": media_type})


# what is wrong, and where


@pytest.mark.parametrize("value", [1, [], {}, True])
@pytest.mark.parametrize("key", ["mediaType", "artifactType"])
def test_strings_are_strings(key: str, value: object) -> None:
    assert refusal(image(**{key: value})).detail == {"path": key}


@pytest.mark.parametrize(
    ("media_type", "key"), [(OCI_MANIFEST, "layers"), (OCI_INDEX, "manifests"), (OCI_ARTIFACT, "blobs")]
)
@pytest.mark.parametrize("value", ["a", 1, {"a": 1}, True])
def test_lists_are_lists(media_type: str, key: str, value: object) -> None:
    document = {"schemaVersion": 2, "mediaType": media_type, key: value}
    if media_type == OCI_MANIFEST:
        document["config"] = CONFIG
    assert refusal(document).detail == {"path": key}


@pytest.mark.parametrize("config", [None, [], "a", 1])
def test_an_image_has_a_config(config: object) -> None:
    assert refusal(image(config=config)).detail == {"path": "config"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mediaType", None),
        ("mediaType", ""),
        ("mediaType", 1),
        ("digest", None),
        ("digest", "sha256:abc"),
        ("digest", "../../etc/passwd"),
        ("digest", {"a": 1}),
        ("size", None),
        ("size", -1),
        ("size", 1.5),
        ("size", "1"),
        ("size", True),
        ("size", 2**63),
        ("size", 2**70),
    ],
)
def test_a_wrong_descriptor_is_named(key: str, value: object) -> None:
    error = refusal(image(layers=[ONE, ONE | {key: value}]))
    assert error.detail == {"path": f"layers[1].{key}"}


@pytest.mark.parametrize("entry", [None, 1, "a", []])
def test_a_descriptor_is_an_object(entry: object) -> None:
    assert refusal(image(layers=[entry])).detail == {"path": "layers[0]"}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a": NaN}', b'"\xed\xa0\x80"', b"{}{}", b"[" * 100_000])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="not JSON"):
        parse_document(data)


@pytest.mark.parametrize("data", [b"[]", b"1", b"null", b'"a"', b"true"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="object"):
        parse_document(data)


def test_the_largest_manifest_and_one_byte_more() -> None:
    data = json.dumps(image()).encode().ljust(MAX_SIZE)
    assert parse_manifest(data).media_type == OCI_MANIFEST
    with pytest.raises(ManifestTooLarge) as caught:
        parse_manifest(data + b" ")
    assert caught.value.detail == {"size": MAX_SIZE + 1, "limit": MAX_SIZE}


# anything at all

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([ONE, TWO, CONFIG]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
loose_descriptors = st.fixed_dictionaries({}, optional={key: anything | st.just(ONE[key]) for key in ONE})
values = anything | loose_descriptors | st.lists(loose_descriptors | st.just(ONE), max_size=3)
documents = st.fixed_dictionaries(
    {"schemaVersion": st.just(2) | anything},
    optional={
        "mediaType": st.sampled_from(sorted(MANIFESTS)) | anything,
        **dict.fromkeys(("config", "layers", "manifests", "blobs", "subject", "annotations", "artifactType"), values),
    },
)
content_types = st.none() | st.sampled_from(sorted(MANIFESTS)) | st.text(max_size=5)


def parses_or_is_refused(data: bytes, content_type: str | None) -> None:
    try:
        manifest = parse_manifest(data, content_type)
    except (ManifestInvalid, ManifestTooLarge) as error:
        assert error.message
    else:
        assert manifest.media_type in MANIFESTS


@given(anything | documents, content_types)
def test_any_json_parses_or_is_refused(document: object, content_type: str | None) -> None:
    parses_or_is_refused(json.dumps(document).encode(), content_type)


@given(st.binary(), content_types)
def test_any_bytes_parse_or_are_refused(data: bytes, content_type: str | None) -> None:
    parses_or_is_refused(data, content_type)
