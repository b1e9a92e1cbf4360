"""Pulling: manifests and blobs by GET and HEAD, validators, caching and ranges."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from tests.support.oci import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    OCI_EMPTY,
    OCI_INDEX,
    Document,
    Remote,
    digest_of,
    expect_error,
    image,
    index,
    oras_artifact,
    random_bytes,
)
from tests.support.wire import exchange, head

BLOB = bytes(range(256)) * 4
ALGORITHMS = ["sha256", "sha512"]


def oci_image(remote: Remote) -> Document:
    """Push what an OCI image refers to."""
    return remote.build_image()


def oci_image_without_media_type(remote: Remote) -> Document:
    """Push what an image refers to that leaves its own mediaType out, as OCI 1.0 tools do."""
    built = remote.build_image()
    return Document(built.body.replace(b'"mediaType": "%s", ' % built.media_type.encode(), b"", 1), built.media_type)


def oci_index(remote: Remote) -> Document:
    """Push what an OCI index refers to."""
    return index([remote.push_image().descriptor(platform={"os": "linux", "architecture": "amd64"})])


def nested_index(remote: Remote) -> Document:
    """Push what an index of an index refers to."""
    inner = remote.push(index([remote.push_image().descriptor()]))
    return index([inner.descriptor(), remote.push_image().descriptor()])


def empty_index(_: Remote) -> Document:
    """Refer to nothing."""
    return index([], annotations={"unique": random_bytes().hex()})


def docker_image(remote: Remote) -> Document:
    """Push what a Docker schema 2 image refers to."""
    return remote.build_image(DOCKER_IMAGE)


def docker_list(remote: Remote) -> Document:
    """Push what a Docker manifest list refers to."""
    return index([remote.push(remote.build_image(DOCKER_IMAGE)).descriptor()], DOCKER_LIST)


def artifact(remote: Remote) -> Document:
    """Push what an artifact with an empty config refers to."""
    return image(
        remote.push_blob(b"{}", OCI_EMPTY), [remote.push_blob(random_bytes(), "text/plain")], artifactType="a/b"
    )


def helm_chart(remote: Remote) -> Document:
    """Push what a Helm chart refers to: an image whose config has a media type of its own."""
    config = remote.push_blob(b'{"name": "chart"}', "application/vnd.cncf.helm.config.v1+json")
    return image(config, [remote.push_blob(random_bytes(), "application/vnd.cncf.helm.chart.content.v1.tar+gzip")])


def sha512_image(remote: Remote) -> Document:
    """Push what an image refers to whose content is addressed by sha512."""
    return remote.build_image(algorithm="sha512")


def oras(remote: Remote) -> Document:
    """Push what an ORAS artifact refers to."""
    return oras_artifact("application/vnd.example", [remote.push_blob(random_bytes(), "text/plain")])


KINDS: list[Callable[[Remote], Document]] = [
    oci_image,
    oci_image_without_media_type,
    oci_index,
    nested_index,
    empty_index,
    docker_image,
    docker_list,
    artifact,
    helm_chart,
    sha512_image,
    oras,
]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def check_manifest(answer: requests.Response, manifest: Document, digest: str) -> None:
    """Check everything that a 200 for a manifest must say."""
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == manifest.media_type
    assert answer.headers["Content-Length"] == str(len(manifest.body))
    assert answer.headers["Docker-Content-Digest"] == digest


@every_kind
@every_algorithm
def test_manifest_comes_back_byte_for_byte(remote: Remote, kind: Callable[[Remote], Document], algorithm: str) -> None:
    """Spec "Pulling manifests", end-3: 200, the expected manifest, its type without parameters, and its digest."""
    manifest = kind(remote)
    digest = digest_of(manifest.body, algorithm)
    remote.push(manifest, digest, params={"tag": "1"})
    for reference in (digest, "1"):
        answer = remote.get(f"manifests/{reference}")
        check_manifest(answer, manifest, digest)
        assert answer.content == manifest.body


@every_kind
def test_head_of_a_manifest_says_what_get_says(remote: Remote, kind: Callable[[Remote], Document]) -> None:
    """Spec "Checking if content exists in the registry": 200 with the digest and the size."""
    manifest = remote.push(kind(remote), "1")
    for reference in (manifest.digest, "1"):
        answer = remote.head(f"manifests/{reference}")
        check_manifest(answer, manifest, manifest.digest)
        assert answer.content == b""
        assert lasting_headers(answer) == lasting_headers(remote.get(f"manifests/{reference}"))


@every_algorithm
def test_blob_comes_back_byte_for_byte(remote: Remote, algorithm: str) -> None:
    """Spec "Pulling blobs", end-2: 200, the expected blob, and its digest in the algorithm asked for."""
    data = random_bytes(100_000)
    digest = remote.push_blob(data, algorithm=algorithm)["digest"]
    answer = remote.get(f"blobs/{digest}")
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["Content-Length"] == str(len(data))
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Accept-Ranges"] == "bytes"


@every_algorithm
def test_head_of_a_blob_says_what_get_says(remote: Remote, algorithm: str) -> None:
    """Spec "Checking if content exists in the registry": 200 with the digest and the size."""
    data = random_bytes(1000)
    digest = remote.push_blob(data, algorithm=algorithm)["digest"]
    answer = remote.head(f"blobs/{digest}")
    assert answer.status_code == 200
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Content-Length"] == "1000"
    assert lasting_headers(answer) == lasting_headers(remote.get(f"blobs/{digest}"))


def test_same_content_is_found_only_by_the_algorithm_it_was_pushed_with(remote: Remote) -> None:
    """Spec "Pulling blobs": the digest MUST match the body; a blob never pushed by sha512 is not there by sha512."""
    data = random_bytes()
    remote.push_blob(data)
    other = digest_of(data, "sha512")
    assert remote.head(f"blobs/{other}").status_code == 404
    remote.push_blob(data, algorithm="sha512")
    for digest in (digest_of(data), other):
        answer = remote.get(f"blobs/{digest}")
        assert answer.content == data
        assert answer.headers["Docker-Content-Digest"] == digest


def test_manifest_pushed_by_two_algorithms_has_two_digests(remote: Remote) -> None:
    """Spec "Pulling manifests": the digest of an answer is the one asked for."""
    manifest = remote.push_image()
    other = digest_of(manifest.body, "sha512")
    assert remote.head(f"manifests/{other}").status_code == 404
    remote.push(manifest, other)
    for digest in (manifest.digest, other):
        answer = remote.get(f"manifests/{digest}")
        check_manifest(answer, manifest, digest)


@every_algorithm
def test_empty_blob_is_a_blob(remote: Remote, algorithm: str) -> None:
    """Spec "Pulling blobs" and "Checking if content exists": zero bytes are a size too."""
    digest = remote.push_blob(b"", algorithm=algorithm)["digest"]
    for answer in (remote.get(f"blobs/{digest}"), remote.head(f"blobs/{digest}")):
        assert answer.status_code == 200
        assert answer.headers["Content-Length"] == "0"
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.content == b""


def test_blob_of_another_repository_is_not_there(remote: Remote) -> None:
    """Spec "Pulling blobs": a blob not found in the repository MUST be 404, whoever else has it."""
    digest = remote.push_blob(random_bytes())["digest"]
    neighbour = Remote(remote.url, f"{remote.name}/inner")
    neighbour.push_image("1")
    expect_error(neighbour.get(f"blobs/{digest}"), 404, "BLOB_UNKNOWN")
    assert neighbour.head(f"blobs/{digest}").status_code == 404


def test_manifest_of_another_repository_is_not_there(remote: Remote) -> None:
    """Spec "Pulling manifests": a manifest not found in the repository MUST be 404."""
    manifest = remote.push_image("1")
    neighbour = Remote(remote.url, f"{remote.name}/inner")
    neighbour.push_image("2")
    for reference in ("1", manifest.digest):
        expect_error(neighbour.get(f"manifests/{reference}"), 404, "MANIFEST_UNKNOWN")
        assert neighbour.head(f"manifests/{reference}").status_code == 404


def test_blob_is_no_manifest(remote: Remote) -> None:
    """Spec "Pulling manifests": only what was pushed as a manifest is one; a config blob is not."""
    manifest = remote.push_image("1")
    config = manifest.content["config"]["digest"]
    assert remote.head(f"blobs/{config}").status_code == 200
    expect_error(remote.get(f"manifests/{config}"), 404, "MANIFEST_UNKNOWN")


def test_digest_may_be_percent_encoded(remote: Remote) -> None:
    """RFC 3986 (section 2.2): a client may encode the colon of a digest, in every path that has one."""
    manifest = remote.push_image("1")
    layer = manifest.content["layers"][0]["digest"]
    for path in (f"manifests/{manifest.digest}", f"blobs/{layer}", f"referrers/{manifest.digest}"):
        answer = exchange(
            remote.url.removeprefix("http://"), head("GET", f"/v2/{remote.name}/{path.replace(':', '%3A')}")
        )
        assert answer is not None
        assert answer.status_code == 200
        assert answer.content == remote.get(path).content


def test_source_host_may_be_ignored(remote: Remote) -> None:
    """Spec "Registry Proxying": `ns` is OPTIONAL and changes nothing where nothing is proxied."""
    manifest = remote.push_image("1")
    assert remote.get("manifests/1", params={"ns": "docker.io"}).content == manifest.body


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/vnd.oci.image.manifest.v1+json", f"{DOCKER_IMAGE}, {OCI_INDEX}, */*;q=0.1"]
)
def test_manifest_is_never_converted(remote: Remote, accept: str | None) -> None:
    """Spec "Pulling manifests": the type SHOULD be the one pushed; a digest allows no other bytes."""
    manifest = remote.push_image("1")
    answer = remote.get("manifests/1", headers={"Accept": accept})
    check_manifest(answer, manifest, manifest.digest)
    assert answer.content == manifest.body


def lasting_headers(answer: requests.Response) -> dict[str, str]:
    """Return the headers that do not differ from one request to the next."""
    changing = ("date", "connection", "keep-alive", "x-request-id")
    return {name.lower(): value for name, value in answer.headers.items() if name.lower() not in changing}


def test_digest_addresses_are_immutable_and_tags_are_not(remote: Remote) -> None:
    """RFC 9111 (section 5.2), RFC 8246: what a digest names never changes, what a tag names does."""
    manifest = remote.push_image("1")
    layer = manifest.content["layers"][0]["digest"]
    for path in (f"manifests/{manifest.digest}", f"blobs/{layer}"):
        assert "immutable" in remote.get(path).headers["Cache-Control"]
    by_tag = remote.get("manifests/1").headers.get("Cache-Control", "")
    assert "immutable" not in by_tag
    assert "max-age" not in by_tag or "max-age=0" in by_tag


@pytest.mark.parametrize("what", ["tag", "digest", "blob"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_validator_spares_the_body(remote: Remote, method: str, what: str) -> None:
    """RFC 9110 (section 13.1.2): If-None-Match with the ETag, weak or in a list, or `*`, is 304; another is not."""
    manifest = remote.push_image("1")
    layer = manifest.content["layers"][0]["digest"]
    path = {"tag": "manifests/1", "digest": f"manifests/{manifest.digest}", "blob": f"blobs/{layer}"}[what]
    etag = remote.request(method, path).headers["ETag"]
    assert etag.startswith('"')
    for condition in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = remote.request(method, path, headers={"If-None-Match": condition})
        assert answer.status_code == 304, condition
        assert answer.headers["ETag"] == etag
        assert answer.content == b""
    for condition in ('"other"', 'W/"other", "another"', etag.strip('"')[:-1], ""):
        answer = remote.request(method, path, headers={"If-None-Match": condition})
        assert answer.status_code == 200, condition


def test_etag_of_a_tag_follows_the_tag(remote: Remote) -> None:
    """RFC 9110 (section 8.8.3): when the tag moves, the old validator no longer matches."""
    remote.push_image("1")
    etag = remote.get("manifests/1").headers["ETag"]
    moved = remote.push_image("1")
    answer = remote.get("manifests/1", headers={"If-None-Match": etag})
    assert answer.status_code == 200
    assert answer.content == moved.body
    assert answer.headers["ETag"] != etag


def test_absent_content_is_404_whatever_the_condition(remote: Remote) -> None:
    """RFC 9110 (section 13.2.1): a condition is not judged where the answer without it would be an error."""
    remote.push_image("1")
    for path in ("manifests/absent", "blobs/sha256:" + "0" * 64):
        assert remote.get(path, headers={"If-None-Match": "*"}).status_code == 404


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-9", 0, 9),
        ("bytes=5-", 5, 1023),
        ("bytes=-5", 1019, 1023),
        ("bytes=-1024", 0, 1023),
        ("bytes=-5000", 0, 1023),
        ("bytes=1023-", 1023, 1023),
        ("bytes=1000-5000", 1000, 1023),
        ("bytes=0-1023", 0, 1023),
        ("bytes=100-" + "9" * 18, 100, 1023),
        ("BYTES=3-4", 3, 4),
    ],
)
def test_range_answers_exactly_the_bytes_asked_for(remote: Remote, wanted: str, first: int, last: int) -> None:
    """Spec "Pulling blobs": the registry SHOULD support Range, RFC 9110 (section 14.2)."""
    digest = remote.push_blob(BLOB)["digest"]
    answer = remote.get(f"blobs/{digest}", headers={"Range": wanted})
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/1024"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["ETag"] == remote.head(f"blobs/{digest}").headers["ETag"]
    assert answer.content == BLOB[first : last + 1]


@pytest.mark.parametrize(
    "wanted", ["bytes=1024-", "bytes=1024-1030", "bytes=5000-", "bytes=" + "9" * 18 + "-", "bytes=9-0", "bytes=500-499"]
)
def test_range_that_holds_nothing_is_416_with_the_size(remote: Remote, wanted: str) -> None:
    """RFC 9110 (sections 14.2 and 15.5.17): what ends before it begins may be rejected; 416 says how long it is."""
    digest = remote.push_blob(BLOB)["digest"]
    answer = remote.get(f"blobs/{digest}", headers={"Range": wanted})
    expect_error(answer, 416)
    assert answer.headers["Content-Range"] == "bytes */1024"


@pytest.mark.direct("nginx sends all of nothing")
def test_range_of_an_empty_blob_is_416(remote: Remote) -> None:
    """RFC 9110 (section 14.1.2): zero bytes have no first one."""
    digest = remote.push_blob(b"")["digest"]
    answer = remote.get(f"blobs/{digest}", headers={"Range": "bytes=0-0"})
    expect_error(answer, 416)
    assert answer.headers["Content-Range"] == "bytes */0"
    assert remote.get(f"blobs/{digest}", headers={"Range": "bytes=-5"}).status_code in (200, 416)


def test_suffix_of_zero_bytes_is_416(remote: Remote) -> None:
    """RFC 9110 (section 14.1.2): a suffix range is satisfiable only if its length is not zero."""
    digest = remote.push_blob(BLOB)["digest"]
    expect_error(remote.get(f"blobs/{digest}", headers={"Range": "bytes=-0"}), 416)


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=0-1,5-9",
        "bytes=" + ",".join(f"{start}-{start}" for start in range(0, 1000, 2)),
        "bytes=0-,0-,0-,0-",
        "bytes=a-b",
        "bytes=-",
        "bytes=--5",
        "bytes=1-2-3",
        "bytes=0x1-0x2",
        "bytes=٠-٩".encode(),
        "bytes",
        "bytes=",
        "0-5",
        "lines=0-5",
        "bytes 0-5",
    ],
)
def test_range_that_is_malformed_or_multiple_is_ignored(remote: Remote, wanted: str | bytes) -> None:
    """RFC 9110 (section 14.2): an invalid ranges-specifier or unknown unit MAY be ignored, many ranges too."""
    digest = remote.push_blob(BLOB)["digest"]
    answer = remote.get(f"blobs/{digest}", headers={"Range": wanted})
    assert answer.status_code == 200
    assert "Content-Range" not in answer.headers
    assert answer.content == BLOB


def test_range_holds_for_the_validator_only(remote: Remote) -> None:
    """RFC 9110 (section 13.1.5): If-Range gives the part if its strong ETag matches, else the whole."""
    digest = remote.push_blob(BLOB)["digest"]
    path = f"blobs/{digest}"
    etag = remote.head(path).headers["ETag"]
    part = remote.get(path, headers={"Range": "bytes=0-9", "If-Range": etag})
    assert (part.status_code, part.content) == (206, BLOB[:10])
    for condition in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        whole = remote.get(path, headers={"Range": "bytes=0-9", "If-Range": condition})
        assert (whole.status_code, whole.content) == (200, BLOB), condition


def test_validator_goes_before_range(remote: Remote) -> None:
    """RFC 9110 (section 13.2.2): If-None-Match is judged before Range."""
    digest = remote.push_blob(BLOB)["digest"]
    etag = remote.head(f"blobs/{digest}").headers["ETag"]
    answer = remote.get(f"blobs/{digest}", headers={"Range": "bytes=0-9", "If-None-Match": etag})
    assert answer.status_code == 304


def test_interrupted_pull_is_resumed_by_range(remote: Remote) -> None:
    """Spec "Resumable Pull": the rest of a large blob, joined to its beginning, is the blob; sha512 likewise."""
    data = random_bytes(3_000_000)
    for algorithm in ALGORITHMS:
        digest = remote.push_blob(data, algorithm=algorithm)["digest"]
        beginning = remote.get(f"blobs/{digest}", headers={"Range": "bytes=0-1234566"}).content
        rest = remote.get(f"blobs/{digest}", headers={"Range": "bytes=1234567-"}).content
        assert digest_of(beginning + rest, algorithm) == digest


def test_head_knows_no_range(remote: Remote) -> None:
    """RFC 9110 (section 14.2): Range is defined for GET only; HEAD tells of the whole."""
    digest = remote.push_blob(BLOB)["digest"]
    answer = remote.head(f"blobs/{digest}", headers={"Range": "bytes=0-9"})
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == "1024"


def test_absence_is_not_immutable(remote: Remote) -> None:
    """RFC 9111 (section 4.2.2): what is not there now may be pushed, so a cache must not keep the 404."""
    remote.push_image("1")
    for path in ("manifests/sha256:" + "0" * 64, "blobs/sha256:" + "0" * 64):
        answer = remote.get(path)
        assert answer.status_code == 404
        assert "immutable" not in answer.headers.get("Cache-Control", "")
        assert "max-age" not in answer.headers.get("Cache-Control", "")


def test_connection_goes_on_after_a_range(remote: Remote) -> None:
    """RFC 9112 (section 9.3): a range ends where it said, so the next answer on the connection is whole."""
    digest = remote.push_blob(BLOB)["digest"]
    for wanted, size in (("bytes=0-99", 100), ("bytes=-7", 7), ("bytes=1000-", 24)):
        assert len(remote.get(f"blobs/{digest}", headers={"Range": wanted}).content) == size
    assert remote.get(f"blobs/{digest}").content == BLOB
