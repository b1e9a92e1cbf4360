"""Errors: the one shape of their bodies, and which status and code each condition has."""

from __future__ import annotations

import pytest

from tests.support.oci import OCI_IMAGE, Remote, digest_of, expect_error, random_bytes
from tests.support.server import Server
from tests.support.wire import exchange, head

UNKNOWN = "sha256:" + "0" * 64
SESSION = "blobs/uploads/6ba7b810-9dad-11d1-80b4-00c04fd430c8"

BAD_NAMES = [
    "UPPER",
    "a/Upper",
    "a//b",
    "-a",
    "a-",
    "a/-b",
    ".a",
    "a.",
    "a/.b",
    "_a",
    "a_",
    "a___b",
    "a..b",
    "a._b",
    "a%20b",
    "a%0Ab",
    pytest.param("a%00b", marks=pytest.mark.direct("nginx refuses it in its own words")),
    "a@b",
    "a:b",
    "%C3%A9",
    "%FF",
    "a/" + "b" * 300,
    "/".join(["a"] * 200),
]
BAD_DIGESTS = [
    "sha256:" + "0" * 63,
    "sha256:" + "0" * 65,
    "sha256:" + "A" * 64,
    "sha256:" + "g" * 64,
    "sha256:",
    "sha512:" + "0" * 64,
    "SHA256:" + "0" * 64,
    ":" + "0" * 64,
    "sha256:" + "0" * 64 + "%0A",
    "sha256:" + "٠" * 64,
]
#: Well-formed, and so as good as any as a subject, which is elsewhere.
UNSUPPORTED_DIGESTS = ["md5:" + "0" * 32, "blake3:" + "0" * 64]
BAD_TAGS = ["-a", ".a", "a" * 129, "a%20b", "a+b", "é", "a%0A", "a@b"]


@pytest.mark.parametrize(
    ("method", "path", "status", "codes"),
    [
        ("GET", "manifests/absent", 404, ["MANIFEST_UNKNOWN"]),
        ("GET", f"manifests/{UNKNOWN}", 404, ["MANIFEST_UNKNOWN"]),
        ("DELETE", "manifests/absent", 404, ["MANIFEST_UNKNOWN"]),
        ("DELETE", f"manifests/{UNKNOWN}", 404, ["MANIFEST_UNKNOWN"]),
        ("GET", f"blobs/{UNKNOWN}", 404, ["BLOB_UNKNOWN"]),
        ("DELETE", f"blobs/{UNKNOWN}", 404, ["BLOB_UNKNOWN"]),
        ("GET", SESSION, 404, ["BLOB_UPLOAD_UNKNOWN"]),
        ("PATCH", SESSION, 404, ["BLOB_UPLOAD_UNKNOWN"]),
        ("PUT", f"{SESSION}?digest={UNKNOWN}", 404, ["BLOB_UPLOAD_UNKNOWN"]),
        ("DELETE", SESSION, 404, ["BLOB_UPLOAD_UNKNOWN"]),
        ("GET", "tags/list?n=x", 400, ["UNSUPPORTED"]),
        ("GET", "/v2/_catalog?n=x", 400, ["UNSUPPORTED"]),
        ("POST", "blobs/uploads/?digest=nonsense", 400, ["DIGEST_INVALID"]),
        ("POST", "blobs/uploads/?digest-algorithm=md5", 400, ["DIGEST_INVALID"]),
        ("GET", "referrers/nonsense", 400, ["DIGEST_INVALID"]),
    ],
)
def test_each_condition_has_its_status_and_code(
    remote: Remote, method: str, path: str, status: int, codes: list[str]
) -> None:
    """Spec "Error Codes" and the failure column of "Endpoints"."""
    remote.push_image("1")
    expect_error(remote.request(method, path), status, *codes)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "tags/list"), ("GET", "manifests/1"), ("GET", f"manifests/{UNKNOWN}"), ("DELETE", f"manifests/{UNKNOWN}")],
)
def test_repository_never_pushed_to_is_unknown(remote: Remote, method: str, path: str) -> None:
    """Spec "Pushing Manifests" and "Deleting Manifests": a repository that does not exist is 404, code-9."""
    expect_error(remote.request(method, path), 404, "NAME_UNKNOWN")


def test_blob_of_a_repository_never_pushed_to_is_unknown(remote: Remote) -> None:
    """Spec "Pulling blobs": a blob that is not in the repository is 404."""
    expect_error(remote.get(f"blobs/{UNKNOWN}"), 404, "BLOB_UNKNOWN", "NAME_UNKNOWN")


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", "tags/list"),
        ("GET", "manifests/1"),
        ("PUT", "manifests/1"),
        ("GET", f"blobs/{UNKNOWN}"),
        ("POST", "blobs/uploads/"),
        ("GET", f"referrers/{UNKNOWN}"),
    ],
)
def test_name_outside_the_grammar_is_refused(server: Server, method: str, rest: str, name: str) -> None:
    """Spec "Pulling manifests": `<name>` MUST match the grammar; code-8 says that it does not."""
    target = f"/v2/{name}/{rest}"
    answer = exchange(server.host, head(method, target, f"Content-Type: {OCI_IMAGE}", "Content-Length: 0"))
    assert answer is not None
    expect_error(answer, 400, "NAME_INVALID")


@pytest.mark.parametrize("component", ["blobs", "index.json", "oci-layout"])
@pytest.mark.parametrize("place", ["{}", "{}/a", "a/{}", "a/{}/b"])
def test_name_that_collides_with_the_layout_is_refused(server: Server, place: str, component: str) -> None:
    """A repository must not lie where another one's layout has its own files: NAME_INVALID, and the message says so."""
    name = place.format(component)
    errors = expect_error(Remote(server.url, name).post("blobs/uploads/"), 400, "NAME_INVALID")
    assert component in errors[0]["message"] + str(errors[0]["detail"])


@pytest.mark.parametrize(
    "name", ["a", "0", "a.b", "a_b", "a__b", "a-b", "a---b", "a/b/c/d", "uploads", "tags/list", "manifests/x", "v2"]
)
def test_name_inside_the_grammar_is_taken(server: Server, repository: str, name: str) -> None:
    """Spec "Pulling manifests": names that match the grammar work, those that look like routes too."""
    remote = Remote(server.url, f"{repository}/{name}")
    manifest = remote.push_image("1")
    assert remote.get("manifests/1").content == manifest.body
    assert remote.tags() == ["1"]


def test_name_as_long_as_clients_can_send_is_taken(server: Server, repository: str) -> None:
    """Spec "Pulling manifests", implementers note: host, `/` and name together may have 255 characters."""
    name = f"{repository}/{'x' * 255}"[: 255 - len(server.host) - 1]
    remote = Remote(server.url, name)
    remote.push_image("1")
    assert remote.tags() == ["1"]


@pytest.mark.parametrize("digest", [*BAD_DIGESTS, *UNSUPPORTED_DIGESTS])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "blobs/{}"),
        ("DELETE", "blobs/{}"),
        ("POST", "blobs/uploads/?digest={}"),
        ("GET", "manifests/{}"),
        ("PUT", "manifests/{}"),
        ("DELETE", "manifests/{}"),
    ],
)
def test_malformed_or_unsupported_digest_is_refused(remote: Remote, method: str, path: str, digest: str) -> None:
    """Spec "Pushing blobs": an invalid digest or unsupported algorithm is 400; everywhere else likewise, code-4."""
    remote.push_image("1")
    body = remote.get("manifests/1").content if method == "PUT" else b""
    answer = remote.request(method, path.format(digest), data=body, headers={"Content-Type": OCI_IMAGE})
    expect_error(answer, 400, "DIGEST_INVALID")


@pytest.mark.parametrize("digest", BAD_DIGESTS)
def test_malformed_digest_of_a_subject_is_refused(remote: Remote, digest: str) -> None:
    """Spec "Listing Referrers", end-12a: an invalid digest is 400; of which algorithm it is says only its content."""
    expect_error(remote.get(f"referrers/{digest}"), 400, "DIGEST_INVALID")


@pytest.mark.parametrize("tag", BAD_TAGS)
def test_invalid_tag_is_unknown_to_readers_and_refused_to_writers(remote: Remote, tag: str) -> None:
    """Spec "Pulling manifests": a tag MUST match the grammar, of at most 128 characters."""
    manifest = remote.push_image("1")
    expect_error(remote.get(f"manifests/{tag}"), 404, "MANIFEST_UNKNOWN")
    assert remote.head(f"manifests/{tag}").status_code == 404
    expect_error(remote.delete(f"manifests/{tag}"), 404, "MANIFEST_UNKNOWN")
    expect_error(remote.put_manifest(manifest, tag), 400, "MANIFEST_INVALID")
    assert remote.tags() == ["1"]


@pytest.mark.parametrize("tag", ["a", "_", "0", "A.b-C_d", "a" * 128, "latest"])
def test_tag_inside_the_grammar_is_taken(remote: Remote, tag: str) -> None:
    """Spec "Pulling manifests": what matches the grammar of tags works, up to 128 characters."""
    manifest = remote.push_image(tag)
    assert remote.get(f"manifests/{tag}").content == manifest.body
    assert remote.tags() == [tag]


@pytest.mark.parametrize(
    "path", ["/v2/x", "/v2/x/y/z", "/v2/x/manifests", "/v2/x/blobs", "/v2/x/tags", "/v2/x/tags/list/"]
)
def test_path_that_is_no_route_is_404(remote: Remote, path: str) -> None:
    """Everything under /v2/ answers errors in the spec's shape, paths that lead nowhere too."""
    expect_error(remote.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2/", {"GET", "HEAD"}),
        ("DELETE", "/v2/_catalog", {"GET", "HEAD"}),
        ("PUT", "tags/list", {"GET", "HEAD"}),
        ("POST", "manifests/1", {"GET", "HEAD", "PUT", "DELETE"}),
        ("PATCH", f"manifests/{UNKNOWN}", {"GET", "HEAD", "PUT", "DELETE"}),
        ("PUT", f"blobs/{UNKNOWN}", {"GET", "HEAD", "DELETE"}),
        ("POST", f"blobs/{UNKNOWN}", {"GET", "HEAD", "DELETE"}),
        ("GET", "blobs/uploads/", {"POST"}),
        ("POST", SESSION, {"GET", "PATCH", "PUT", "DELETE"}),
        ("DELETE", f"referrers/{UNKNOWN}", {"GET", "HEAD"}),
        ("BREW", "tags/list", {"GET", "HEAD"}),
    ],
)
def test_method_that_a_route_lacks_is_405_with_allow(remote: Remote, method: str, path: str, allowed: set[str]) -> None:
    """RFC 9110 (section 15.5.6): a 405 names the methods that the resource has."""
    answer = remote.request(method, path)
    expect_error(answer, 405, "UNSUPPORTED")
    assert allowed <= {name.strip() for name in answer.headers["Allow"].split(",")}
    assert method not in answer.headers["Allow"]


@pytest.mark.parametrize("path", ["manifests/absent", f"blobs/{UNKNOWN}", "manifests/-bad"])
def test_head_of_what_is_not_there_is_404_without_a_body(remote: Remote, path: str) -> None:
    """Spec "Checking if content exists in the registry": MUST be 404."""
    remote.push_image("1")
    answer = remote.head(path)
    assert answer.status_code == 404
    assert answer.content == b""


@pytest.mark.direct("nginx refuses these in its own words")
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v2/\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n",
        b"G(T /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        head("GET", "/v2/", "Broken header line"),
        head("GET", "/v2/", "Bad Name: x"),
        head("GET", "/v2/", "X-Nul: a\0b"),
        head("PUT", "/v2/a/manifests/1", "Content-Length: -1"),
        head("PUT", "/v2/a/manifests/1", "Content-Length: ten"),
        head("PUT", "/v2/a/manifests/1", "Content-Length: 1", "Content-Length: 2"),
        head("PUT", "/v2/a/manifests/1", "Transfer-Encoding: nonsense"),
        head("GET", "/v2/" + "a" * 20_000),
        head("GET", "/v2/", "X-Long: " + "a" * 100_000),
        head("GET", "/v2/", *(f"X-{number}: a" for number in range(1000))),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_refusals_of_the_http_server_itself_have_the_shape_too(server: Server, request_bytes: bytes) -> None:
    """Spec "Error Codes": a JSON error has the one format, also where a request never reaches the application."""
    answer = exchange(server.host, request_bytes)
    assert answer is not None
    expect_error(answer, range(400, 500))


def test_errors_name_what_was_wrong(remote: Remote) -> None:
    """Spec "Error Codes": the detail provides information the client can use to resolve the issue."""
    remote.push_image("1")
    errors = expect_error(remote.get(f"blobs/{UNKNOWN}"), 404, "BLOB_UNKNOWN")
    assert UNKNOWN in str(errors[0])
    errors = expect_error(remote.get("manifests/absent"), 404, "MANIFEST_UNKNOWN")
    assert "absent" in str(errors[0])
    errors = expect_error(remote.get("tags/list?n=minus"), 400)
    assert "n" in errors[0]["detail"].values() or "n" in errors[0]["detail"]


def test_wrong_digest_error_names_both_digests(remote: Remote) -> None:
    """Spec "Error Codes", code-4: the client learns what the registry made of the content it sent."""
    data = random_bytes()
    errors = expect_error(remote.finish_upload(remote.start_upload(), UNKNOWN, data=data), 400, "DIGEST_INVALID")
    assert UNKNOWN in str(errors[0])
    assert digest_of(data) in str(errors[0])
