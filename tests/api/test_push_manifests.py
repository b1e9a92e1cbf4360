"""Pushing manifests: types, references, limits, tags by query, subjects and conditions."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import MakeServer
from tests.support.oci import (
    DOCKER_CONFIG,
    DOCKER_IMAGE,
    DOCKER_LIST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_IMAGE,
    OCI_INDEX,
    OCI_LAYER,
    REF_NAME,
    Document,
    Json,
    Remote,
    descriptor_of,
    digest_of,
    document,
    expect_error,
    expect_status,
    image,
    index,
    oras_artifact,
    random_bytes,
)
from tests.support.server import Server
from tests.support.wire import exchange, head

UNKNOWN = "sha256:" + "0" * 64
LIMIT = 4 * 1024 * 1024 + 64 * 1024
FOREIGN_LAYERS = [
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
]


def padded(remote: Remote, size: int) -> Document:
    """Return an image manifest of exactly `size` bytes over content that is there."""
    config = remote.push_blob(b"{}", OCI_EMPTY)
    bare = image(config, annotations={"padding": ""})
    return image(config, annotations={"padding": "x" * (size - len(bare.body))})


def missing(media_type: str = OCI_LAYER) -> Json:
    """Return the descriptor of content that nobody has pushed."""
    return descriptor_of(random_bytes(), media_type)


def unknown_digests(errors: list[Json]) -> list[str]:
    """Return the digests that MANIFEST_BLOB_UNKNOWN errors name, sorted."""
    assert {error["code"] for error in errors} == {"MANIFEST_BLOB_UNKNOWN"}
    return sorted(error["detail"]["digest"] for error in errors)


@pytest.mark.parametrize("by", ["tag", "sha256", "sha512"])
def test_put_answers_201_with_location_and_digest(remote: Remote, by: str) -> None:
    """Spec "Pushing Manifests", end-7a: 201, a pullable Location, and the digest, equal to the client's."""
    manifest = remote.build_image()
    digest = digest_of(manifest.body, "sha256" if by == "tag" else by)
    answer = remote.put_manifest(manifest, "1" if by == "tag" else digest)
    expect_status(answer, 201)
    assert answer.headers["Docker-Content-Digest"] == digest
    assert urlsplit(answer.headers["Location"]).path.startswith(f"/v2/{remote.name}/manifests/")
    pulled = remote.get(answer.headers["Location"])
    assert pulled.content == manifest.body
    assert pulled.headers["Docker-Content-Digest"] == digest


@pytest.mark.parametrize("by_digest", [False, True])
def test_put_answers_with_the_etag_that_conditions_ask_for(remote: Remote, by_digest: bool) -> None:
    """The pushed manifest's entity tag is its digest, in quotes, as `If-Match` has it."""
    manifest = remote.build_image()
    answer = remote.put_manifest(manifest, manifest.digest if by_digest else "1")
    expect_status(answer, 201)
    assert answer.headers["ETag"] == f'"{manifest.digest}"'


@pytest.mark.parametrize(
    "shape",
    [
        lambda body: json.dumps(json.loads(body), indent=3).encode() + b"\n",
        lambda body: b" \r\n\t" + body + b"\n\n",
        lambda body: json.dumps(dict(reversed(json.loads(body).items()))).encode(),
        lambda body: json.dumps({**json.loads(body), "unknown": {"é": [1.50, None, "\u2028"]}}).encode(),
        lambda body: json.dumps({**json.loads(body), "annotations": {"é": "ü"}}, ensure_ascii=False).encode(),
        lambda body: body.replace(b"application/", b"application\\/"),
    ],
    ids=["indented", "surrounded", "reversed", "unknown-fields", "utf-8", "escaped"],
)
def test_exact_bytes_are_stored(remote: Remote, shape: Any) -> None:
    """Spec "Pushing Manifests": MUST store the exact byte representation provided by the client."""
    manifest = Document(shape(remote.build_image().body), OCI_IMAGE)
    remote.push(manifest, "1")
    assert remote.get("manifests/1").content == manifest.body
    assert remote.get(f"manifests/{manifest.digest}").content == manifest.body


@pytest.mark.parametrize("parameter", ["; charset=utf-8", ";charset=utf-8", ' ; a="b;c"'])
def test_parameters_of_the_content_type_are_ignored(remote: Remote, parameter: str) -> None:
    """Spec "Pushing Manifests" and "Pulling manifests": parameters SHOULD be ignored, and are not given back."""
    manifest = remote.build_image()
    remote.push(manifest, "1", headers={"Content-Type": manifest.media_type + parameter})
    assert remote.get("manifests/1").headers["Content-Type"] == manifest.media_type


@pytest.mark.parametrize("media_type", [OCI_IMAGE, DOCKER_IMAGE])
def test_media_type_of_the_document_serves_without_content_type(remote: Remote, media_type: str) -> None:
    """Spec "Pushing Manifests": clients SHOULD set Content-Type; without it the document's mediaType serves."""
    manifest = remote.build_image(media_type)
    expect_status(remote.put("manifests/1", data=manifest.body), 201)
    assert remote.get("manifests/1").headers["Content-Type"] == media_type


@pytest.mark.parametrize(
    ("declared", "sent"),
    [(OCI_IMAGE, OCI_INDEX), (OCI_IMAGE, DOCKER_IMAGE), (DOCKER_IMAGE, OCI_IMAGE), (DOCKER_IMAGE, DOCKER_LIST)],
)
def test_content_type_that_contradicts_the_document_is_refused(remote: Remote, declared: str, sent: str) -> None:
    """Spec "Pushing Manifests": Content-Type MUST be the value of mediaType where there is one."""
    manifest = remote.build_image(declared)
    expect_error(remote.put_manifest(manifest, "1", headers={"Content-Type": sent}), 400, "MANIFEST_INVALID")
    expect_error(remote.get("manifests/1"), 404)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    ],
)
def test_schema_1_is_clearly_refused(remote: Remote, media_type: str) -> None:
    """Spec "Legacy Docker support error codes": schema 1 is of the past; the message says so."""
    body = {"schemaVersion": 1, "name": remote.name, "tag": "1", "fsLayers": [], "history": [], "signatures": []}
    errors = expect_error(remote.put_manifest(document(body, media_type), "1"), 400, "MANIFEST_INVALID")
    assert "schema" in errors[0]["message"].lower()


def test_schema_1_without_a_type_is_refused(remote: Remote) -> None:
    """Spec "Legacy Docker support error codes": schema 1 documents have no mediaType, and are not taken for others."""
    body = {"schemaVersion": 1, "name": remote.name, "tag": "1", "fsLayers": [], "history": [], "signatures": []}
    for headers in ({}, {"Content-Type": DOCKER_IMAGE}, {"Content-Type": OCI_IMAGE}):
        answer = remote.put("manifests/1", data=json.dumps(body), headers=headers)
        expect_error(answer, 400, "MANIFEST_INVALID")


@pytest.mark.parametrize(
    "media_type",
    ["application/json", "text/plain", "application/octet-stream", "nonsense", OCI_LAYER, OCI_CONFIG, "image/png"],
)
def test_type_that_is_no_manifest_is_refused(remote: Remote, media_type: str) -> None:
    """What is pushed as a manifest must be of a type of the field."""
    body = {**remote.build_image().content}
    del body["mediaType"]
    expect_error(remote.put_manifest(document(body, media_type), "1"), 400, "MANIFEST_INVALID")


@pytest.mark.parametrize("size", [4_000_000, 4 * 1024 * 1024, LIMIT])
def test_manifest_of_four_megabytes_is_taken(remote: Remote, size: int) -> None:
    """Spec "Pushing Manifests": SHOULD support at least 4 megabytes; the limit is a little above 4 MiB."""
    manifest = padded(remote, size)
    assert len(manifest.body) == size
    remote.push(manifest, "1")
    assert remote.get("manifests/1").content == manifest.body


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("size", [LIMIT + 1, 12_000_000])
def test_manifest_above_the_limit_is_413(server: Server, remote: Remote, size: int, streamed: bool) -> None:
    """Spec "Pushing Manifests": over the limit SHOULD be 413, whether the length was announced or not."""
    body = padded(remote, size).body
    target = f"/v2/{remote.name}/manifests/1"
    if streamed:
        framing, body = "Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        framing = f"Content-Length: {len(body)}"
    answer = exchange(server.host, head("PUT", target, f"Content-Type: {OCI_IMAGE}", framing) + body)
    assert answer is not None
    expect_error(answer, 413, "MANIFEST_INVALID")
    assert remote.head("manifests/1").status_code == 404


def test_every_missing_reference_is_named(remote: Remote) -> None:
    """Spec "Push": MUST result in one or more MANIFEST_BLOB_UNKNOWN errors, code-5."""
    present = remote.push_blob(random_bytes())
    absent = [missing(OCI_CONFIG), missing(), missing()]
    manifest = image(absent[0], [absent[1], present, absent[2]])
    errors = expect_error(remote.put_manifest(manifest, "1"), 400, "MANIFEST_BLOB_UNKNOWN")
    assert unknown_digests(errors) == sorted(entry["digest"] for entry in absent)
    expect_error(remote.get("manifests/1"), 404)
    expect_error(remote.get(f"manifests/{manifest.digest}"), 404)


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_every_missing_child_is_named(remote: Remote, media_type: str) -> None:
    """Spec "Push": an index whose manifests are not there is rejected with MANIFEST_BLOB_UNKNOWN."""
    present = remote.push_image().descriptor()
    absent = [missing(OCI_IMAGE), missing(OCI_INDEX)]
    errors = expect_error(remote.put_manifest(index([absent[0], present, absent[1]], media_type), "1"), 400)
    assert unknown_digests(errors) == sorted(entry["digest"] for entry in absent)
    assert remote.tags() == []


@pytest.mark.parametrize("media_type", [DOCKER_IMAGE, OCI_IMAGE])
def test_content_of_another_repository_does_not_count(remote: Remote, media_type: str) -> None:
    """Spec "Push": what is referenced must be in this repository; another one has it, and it is still missing."""
    neighbour = Remote(remote.url, f"{remote.name}/inner")
    manifest = neighbour.push_image(media_type=media_type)
    errors = expect_error(remote.put_manifest(manifest, "1"), 400, "MANIFEST_BLOB_UNKNOWN")
    assert len(errors) == 2
    child = remote.put_manifest(index([manifest.descriptor()]), "1")
    assert unknown_digests(expect_error(child, 400)) == [manifest.digest]


def test_missing_blob_of_an_oras_artifact_is_named(remote: Remote) -> None:
    """Artifacts of the ORAS spec refer to blobs too, and they must be there."""
    absent = missing("text/plain")
    errors = expect_error(remote.put_manifest(oras_artifact("a/b", [absent]), "1"), 400)
    assert unknown_digests(errors) == [absent["digest"]]


@pytest.mark.parametrize("media_type", FOREIGN_LAYERS)
def test_foreign_layers_need_not_be_there(remote: Remote, media_type: str) -> None:
    """Spec "Push": a registry MAY reject unknown references; layers that are never pushed are not rejected."""
    docker = "docker" in media_type
    config = remote.push_blob(random_bytes(), DOCKER_CONFIG if docker else OCI_CONFIG)
    layer = {**missing(media_type), "urls": ["https://example.com/layer"]}
    manifest = image(config, [layer], DOCKER_IMAGE if docker else OCI_IMAGE)
    remote.push(manifest, "1")
    assert remote.get("manifests/1").content == manifest.body


def test_list_of_blobs_may_be_empty(remote: Remote) -> None:
    """Spec "Pushing Manifests": the list of blobs MAY be empty."""
    remote.push(image(remote.push_blob(b"{}", OCI_EMPTY), []), "image")
    remote.push(index([]), "index")
    remote.push(oras_artifact("a/b"), "artifact")
    assert remote.tags() == ["artifact", "image", "index"]


def test_index_may_list_blobs(remote: Remote) -> None:
    """Image spec "Image Index": an unknown mediaType is no error; BuildKit's cache is an index over layers."""
    layer = remote.push_blob(random_bytes())
    cache = remote.push_blob(random_bytes(), "application/vnd.buildkit.cacheconfig.v0")
    manifest = remote.push(index([layer, cache]), "cache")
    assert remote.get("manifests/cache").content == manifest.body
    assert remote.get(f"blobs/{layer['digest']}").status_code == 200
    absent = missing()
    assert unknown_digests(expect_error(remote.put_manifest(index([cache, absent]), "1"), 400)) == [absent["digest"]]
    expect_error(remote.delete(f"blobs/{layer['digest']}"), 405, "DENIED")


def test_index_may_list_a_child_twice(remote: Remote) -> None:
    """Image spec "Image Index": one image may serve several platforms."""
    child = remote.push_image()
    entries = [child.descriptor(platform={"os": "linux", "architecture": name}) for name in ("amd64", "arm64")]
    remote.push(index(entries), "1")
    assert remote.get(f"manifests/{child.digest}").content == child.body


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_children_of_indexes_resolve_by_digest(remote: Remote, media_type: str) -> None:
    """Spec "Pulling manifests": what an index lists, at any depth, is pulled by digest."""
    leaves = [remote.push_image(), remote.push_image()]
    inner = remote.push(index([leaves[0].descriptor()], media_type))
    outer = remote.push(index([inner.descriptor(), leaves[1].descriptor()], media_type), "1")
    for manifest in (outer, inner, *leaves):
        answer = remote.get(f"manifests/{manifest.digest}")
        assert answer.content == manifest.body
        assert answer.headers["Content-Type"] == manifest.media_type
    assert remote.tags() == ["1"]


def test_sparse_index_is_taken_where_configured(make_server: MakeServer, repository: str) -> None:
    """Spec "Push": a registry MAY reject; with `server.sparseIndexes` children may be missing, blobs still not."""
    server = make_server(config={"server": {"sparseIndexes": True}})
    remote = Remote(server.url, repository)
    present, absent = remote.push_image(), missing(OCI_IMAGE)
    sparse = remote.push(index([present.descriptor(), absent]), "1")
    assert remote.get("manifests/1").content == sparse.body
    assert remote.get(f"manifests/{present.digest}").content == present.body
    expect_error(remote.get(f"manifests/{absent['digest']}"), 404, "MANIFEST_UNKNOWN")
    expect_error(remote.put_manifest(image(missing(OCI_CONFIG))), 400, "MANIFEST_BLOB_UNKNOWN")


def test_digest_that_is_not_the_contents_is_refused(remote: Remote) -> None:
    """Spec "Pushing Manifests": the digest MUST be equal to the client provided one, so another is refused."""
    manifest = remote.build_image()
    for algorithm in ("sha256", "sha512"):
        wrong = digest_of(b"other", algorithm)
        expect_error(remote.put_manifest(manifest, wrong), 400, "DIGEST_INVALID")
        assert remote.head(f"manifests/{wrong}").status_code == 404
    assert remote.head(f"manifests/{manifest.digest}").status_code == 404


@pytest.mark.direct("to nginx, who sends no more is gone")
def test_manifest_cut_short_is_refused(server: Server, remote: Remote) -> None:
    """Spec "Error Codes", code-10: less than Content-Length announced is not the manifest."""
    body = remote.build_image().body
    request = head(
        "PUT", f"/v2/{remote.name}/manifests/1", f"Content-Type: {OCI_IMAGE}", f"Content-Length: {len(body) + 9}"
    )
    answer = exchange(server.host, request + body, cut=True)
    assert answer is not None
    expect_error(answer, 400, "SIZE_INVALID")
    assert remote.head("manifests/1").status_code == 404


def test_streamed_manifest_is_taken(remote: Remote) -> None:
    """RFC 9112 (section 7.1): a manifest may come chunked."""
    manifest = remote.build_image()
    expect_status(remote.put("manifests/1", data=iter([manifest.body]), headers={"Content-Type": OCI_IMAGE}), 201)
    assert remote.get("manifests/1").content == manifest.body


def test_tag_moves_and_the_old_manifest_stays(remote: Remote) -> None:
    """Spec "Definitions", Tag: a pointer; a manifest that loses its last tag is still there by digest."""
    old = remote.push_image("1")
    new = remote.push_image("1")
    assert remote.get("manifests/1").content == new.body
    assert remote.get(f"manifests/{old.digest}").content == old.body
    assert remote.tags() == ["1"]


def test_pushing_again_changes_nothing(remote: Remote) -> None:
    """RFC 9110 (section 9.2.2): PUT is idempotent, by tag and by digest."""
    manifest = remote.push_image("1")
    for reference in ("1", manifest.digest, "1"):
        remote.push(manifest, reference)
    assert remote.tags() == ["1"]


def test_many_tags_on_one_manifest(remote: Remote) -> None:
    """Spec "Definitions", Tag: a manifest may have zero, one, or many tags."""
    manifest = remote.push_image()
    assert remote.tags() == []
    for tag in ("b", "a", "c"):
        remote.push(manifest, tag)
    assert remote.tags() == ["a", "b", "c"]
    assert {remote.get(f"manifests/{tag}").content for tag in ("a", "b", "c")} == {manifest.body}


def test_annotations_make_no_tags(remote: Remote) -> None:
    """Image layout's `ref.name` inside a pushed document is the client's own: only the URL names a tag."""
    child = remote.push_image("1", annotations={REF_NAME: "forged"})
    remote.push(index([child.descriptor(annotations={REF_NAME: "listed"})], annotations={REF_NAME: "top"}), "2")
    remote.push(remote.build_image(annotations={REF_NAME: "1"}))
    assert remote.tags() == ["1", "2"]
    assert remote.get("manifests/1").content == child.body


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_tags_in_the_query_are_set(remote: Remote, algorithm: str) -> None:
    """Spec "Pushing Manifests", end-7b: at least 10 tags a request, each accepted one in OCI-Tag."""
    tags = [f"{number}.0-rc_x" for number in range(10)]
    manifest = remote.build_image()
    digest = digest_of(manifest.body, algorithm)
    answer = remote.put_manifest(manifest, digest, params={"tag": tags})
    expect_status(answer, 201)
    assert sorted(tag.strip() for tag in answer.headers["OCI-Tag"].split(",")) == tags
    assert answer.headers["Docker-Content-Digest"] == digest
    assert remote.tags() == tags
    for tag in tags:
        assert remote.head(f"manifests/{tag}").headers["Docker-Content-Digest"] == digest


def test_tags_in_the_query_move(remote: Remote) -> None:
    """Spec "Pushing Manifests", end-7b: a tag that exists is set like any other, the others stay."""
    old = remote.push_image("1")
    remote.push(old, "2")
    new = remote.build_image()
    remote.push(new, new.digest, params={"tag": ["2", "3", "3"]})
    assert remote.tags() == ["1", "2", "3"]
    assert [remote.get(f"manifests/{tag}").content for tag in ("1", "2", "3")] == [old.body, new.body, new.body]


def test_no_tag_no_header(remote: Remote) -> None:
    """Spec "Pushing Manifests": OCI-Tag is for accepted tags, OCI-Subject for a subject."""
    answer = remote.put_manifest(remote.build_image())
    assert "OCI-Tag" not in answer.headers
    assert "OCI-Subject" not in answer.headers


@pytest.mark.parametrize("bad", ["-a", "a" * 129, "a b", "", "é", "a\n", "../x", "a,b"])
def test_invalid_tag_in_the_query_refuses_the_whole(remote: Remote, bad: str) -> None:
    """Spec "Pulling manifests": a tag MUST match the grammar; nothing of such a request is stored."""
    manifest = remote.build_image()
    answer = remote.put_manifest(manifest, manifest.digest, params={"tag": ["good", bad]})
    expect_error(answer, 400, "MANIFEST_INVALID")
    expect_error(remote.get("manifests/good"), 404)
    expect_error(remote.get(f"manifests/{manifest.digest}"), 404)


def test_too_many_tags_in_the_query(server: Server, remote: Remote) -> None:
    """Spec "Pushing Manifests": too many tags MAY be 414; whatever was accepted is told and there."""
    manifest = remote.build_image()
    query = "&".join(f"tag=t{number}" for number in range(1000))
    target = f"/v2/{remote.name}/manifests/{manifest.digest}?{query}"
    framing = (f"Content-Type: {OCI_IMAGE}", f"Content-Length: {len(manifest.body)}")
    answer = exchange(server.host, head("PUT", target, *framing) + manifest.body)
    assert answer is not None
    if answer.status_code == 201:
        assert len(remote.tags()) == 1000
    else:
        expect_error(answer, (400, 414, 431))
        assert remote.head("manifests/t0").status_code == 404


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("by_tag", [True, False])
def test_subject_is_confirmed(remote: Remote, known: bool, by_tag: bool) -> None:
    """Spec "Pushing Manifests with Subject": MUST answer OCI-Subject; "Push": the subject need not exist."""
    subject = remote.push_image().descriptor() if known else missing(OCI_IMAGE)
    config = remote.push_blob(b"{}", OCI_EMPTY)
    for manifest in (image(config, artifactType="a/b", subject=subject), index([], subject=subject)):
        answer = remote.put_manifest(manifest, "1" if by_tag else manifest.digest)
        expect_status(answer, 201)
        assert answer.headers["OCI-Subject"] == subject["digest"]


def test_sha512_subject_is_confirmed(remote: Remote) -> None:
    """Spec "Pushing Manifests with Subject": the header carries the subject's digest as it is."""
    subject = descriptor_of(random_bytes(), OCI_IMAGE, "sha512")
    answer = remote.put_manifest(image(remote.push_blob(b"{}", OCI_EMPTY), subject=subject))
    assert answer.headers["OCI-Subject"] == subject["digest"]


ABSENT, SAME, OTHER = "absent", "same", "other"


@pytest.mark.parametrize(
    ("state", "header", "value", "status"),
    [
        (ABSENT, "If-None-Match", "*", 201),
        (ABSENT, "If-Match", "*", 412),
        (ABSENT, "If-Match", '"sha256:0"', 412),
        (ABSENT, "If-None-Match", '"sha256:0"', 201),
        (SAME, "If-Match", "{etag}", 201),
        (SAME, "If-Match", "*", 201),
        (SAME, "If-Match", '"other", {etag}', 201),
        (SAME, "If-Match", '"other"', 412),
        (SAME, "If-Match", "W/{etag}", 412),
        (SAME, "If-None-Match", "*", 412),
        (SAME, "If-None-Match", "{etag}", 412),
        (SAME, "If-None-Match", "W/{etag}", 412),
        (SAME, "If-None-Match", '"other"', 201),
        (OTHER, "If-Match", "{etag}", 412),
        (OTHER, "If-None-Match", "{etag}", 201),
    ],
)
def test_conditional_push(remote: Remote, state: str, header: str, value: str, status: int) -> None:
    """Spec "Referrers Tag Schema": conditional pushes avoid conflicts, RFC 9110 (section 13.1); 412 changes nothing."""
    remote.push_image("unrelated")
    etag = ""
    if state != ABSENT:
        remote.push_image("1")
        etag = remote.head("manifests/1").headers["ETag"]
    if state == OTHER:
        remote.push_image("1")
    before = remote.get("manifests/1").content
    manifest = remote.build_image()
    answer = remote.put_manifest(manifest, "1", headers={header: value.format(etag=etag)})
    if status == 412:
        expect_error(answer, 412, "MANIFEST_INVALID")
        assert remote.get("manifests/1").content == before
        assert remote.head(f"manifests/{manifest.digest}").status_code == 404
    else:
        expect_status(answer, 201)
        assert remote.get("manifests/1").content == manifest.body


def test_conditional_push_into_a_new_repository(remote: Remote) -> None:
    """RFC 9110 (section 13.1.2): If-None-Match: * creates only; the second one of two is refused."""
    first, second = remote.build_image(), remote.build_image()
    expect_status(remote.put_manifest(first, "1", headers={"If-None-Match": "*"}), 201)
    expect_error(remote.put_manifest(second, "1", headers={"If-None-Match": "*"}), 412, "MANIFEST_INVALID")
    assert remote.get("manifests/1").content == first.body


def test_conditional_push_by_digest(remote: Remote) -> None:
    """RFC 9110 (section 13.1): conditions hold for digest addresses as well."""
    manifest = remote.build_image()
    expect_error(remote.put_manifest(manifest, headers={"If-Match": "*"}), 412, "MANIFEST_INVALID")
    expect_status(remote.put_manifest(manifest, headers={"If-None-Match": "*"}), 201)
    expect_error(remote.put_manifest(manifest, headers={"If-None-Match": "*"}), 412, "MANIFEST_INVALID")
    expect_status(remote.put_manifest(manifest, headers={"If-Match": "*"}), 201)


def test_pushed_index_hides_nothing(remote: Remote) -> None:
    """A tagged child keeps its tag when an index comes to list it."""
    child = remote.push_image("child")
    remote.push(index([child.descriptor()]), "parent")
    assert remote.tags() == ["child", "parent"]
    assert remote.get("manifests/child").content == child.body


def test_child_by_sha512(remote: Remote) -> None:
    """Image spec "Descriptor", Digests: an index may name its children by either registered algorithm."""
    child = remote.build_image()
    remote.push(child, digest_of(child.body, "sha512"))
    remote.push(index([child.descriptor("sha512")]), "1")
    answer = remote.get(f"manifests/{digest_of(child.body, 'sha512')}")
    assert answer.content == child.body
    expect_error(remote.put_manifest(index([child.descriptor("sha256")])), 400, "MANIFEST_BLOB_UNKNOWN")


def test_unknown_tag_for_unknown_digest(remote: Remote) -> None:
    """Spec "Pulling manifests": not found MUST be 404, by tag and by digest, after pushes as well."""
    remote.push_image("1")
    for reference in ("2", UNKNOWN, "sha512:" + "0" * 128):
        expect_error(remote.get(f"manifests/{reference}"), 404, "MANIFEST_UNKNOWN")
