"""Bad input of every kind: no 5xx, nothing outside the root, no worker lost."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.oci import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_IMAGE,
    OCI_INDEX,
    OCI_LAYER,
    ORAS_ARTIFACT,
    Json,
    Remote,
    descriptor_of,
    digest_of,
    document,
    expect_error,
    expect_status,
    image,
    index,
    random_bytes,
)
from tests.support.server import Server
from tests.support.wire import WireAnswer, connect, exchange, head, receive

pytestmark = pytest.mark.direct("what is hardly HTTP, nginx refuses in its own way")

SECRET = b"what lies outside of the root"
SESSION = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
UPLOADS = "/v2/a/blobs/uploads/"
CLIENT_ERRORS = range(400, 500)
DEPTH = 100_000
DEEP = "[" * DEPTH + "]" * DEPTH


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a registry with two workers, some directories below a secret file."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_bytes(SECRET)
    (outside / "x").mkdir()
    with Server(outside / "x" / "root", workers=2) as server:
        Remote(server.url, "a").push_image("1")
        yield server


def outside_of(server: Server) -> dict[str, bytes]:
    """Return every file outside of the root, with what is in it, but for the server's own log."""
    found: dict[str, bytes] = {}
    for directory, below, files in os.walk(server.root.parent.parent):
        below[:] = [name for name in below if Path(directory, name) != server.root]
        found |= {
            str(path): path.read_bytes() for path in (Path(directory, name) for name in files) if path != server.log
        }
    return found


@pytest.fixture(scope="module")
def workers(victim: Server) -> list[int]:
    """Return the process ids of the workers that were there at first."""
    return victim.worker_pids()


@pytest.fixture(autouse=True)
def unharmed(victim: Server, workers: list[int]) -> Iterator[None]:
    """Check after each test that workers, files outside and the service are what they were."""
    outside = outside_of(victim)
    yield
    assert all(Path(f"/proc/{pid}").exists() for pid in workers)
    assert outside_of(victim) == outside
    assert Remote(victim.url, "a").tags() == ["1"]


@pytest.fixture
def remote(victim: Server, repository: str) -> Remote:
    """Return a client of a fresh repository on the server of this module."""
    return Remote(victim.url, repository)


def send(server: Server, request: bytes) -> WireAnswer:
    """Send a raw request, and return its answer, which there must be."""
    answer = exchange(server.host, request, cut=True)
    assert answer is not None
    assert SECRET not in answer.content
    return answer


CLIMBS = [
    "..",
    "../..",
    "../../secret",
    "../../../../../../etc/passwd",
    "%2e%2e",
    "%2e%2e/%2e%2e/secret",
    "..%2f..%2fsecret",
    "..%2F..%2F..%2F..%2Fetc%2Fpasswd",
    "%2e%2e%2f%2e%2e%2fsecret",
    "%252e%252e%252f%252e%252e%252fsecret",
    "..%5c..%5csecret",
    "..\\..\\secret",
    "%c0%ae%c0%ae/%c0%ae%c0%ae/secret",
    "..;/..;/secret",
    "%00",
    "..%00/secret",
    "./secret",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    ".pierhead",
    "a/.pierhead/locks",
    "%ff%fe",
    "~root",
    "%",
    "%zz",
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "target",
    [
        "/v2/{}/manifests/1",
        "/v2/{}/blobs/sha256:" + "0" * 64,
        "/v2/{}/blobs/uploads/",
        "/v2/{}/tags/list",
        "/v2/a/{}/tags/list",
        "/v2/a/manifests/{}",
        "/v2/a/blobs/{}",
        "/v2/a/blobs/sha256:{}",
        "/v2/a/blobs/uploads/{}",
        "/v2/a/referrers/sha256:{}",
        "/oras/artifacts/v1/{}/manifests/sha256:" + "0" * 64 + "/referrers?artifactType=a/b",
    ],
)
def test_paths_do_not_climb_out(victim: Server, target: str, method: str) -> None:
    """Names, references, digests and session ids are grammar first and paths after, however they are encoded."""
    headers = [f"Content-Type: {OCI_IMAGE}", "Content-Length: 2"] if method in ("PUT", "POST", "PATCH") else []
    for climb in CLIMBS:
        answer = send(victim, head(method, target.format(climb), *headers) + (b"{}" if headers else b""))
        assert answer.status_code in CLIENT_ERRORS, climb


@pytest.mark.parametrize("target", ["/swagger/v2/{}", "/{}", "/v2/{}", "/flasgger_static/{}"])
def test_other_paths_give_nothing_away(victim: Server, target: str) -> None:
    """What serves files of its own, for the documentation, serves no others."""
    for climb in CLIMBS:
        assert send(victim, head("GET", target.format(climb))).status_code in range(200, 500), climb


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", UPLOADS + "?digest={}"),
        ("POST", UPLOADS + "?digest=sha256:{}"),
        ("POST", UPLOADS + "?digest-algorithm={}"),
        ("POST", UPLOADS + "?mount={}&from=a"),
        ("POST", UPLOADS + "?mount=sha256:{}&from=a"),
        ("PUT", "/v2/a/manifests/sha256:" + "0" * 64 + "?tag={}"),
        ("PUT", UPLOADS + SESSION + "?digest={}"),
        ("GET", "/v2/a/tags/list?n={}"),
        ("GET", "/v2/_catalog?n={}"),
    ],
)
def test_parameters_do_not_climb_out(victim: Server, method: str, target: str) -> None:
    """What comes in the query is judged like what comes in the path."""
    for climb in CLIMBS:
        request = head(method, target.format(climb), f"Content-Type: {OCI_IMAGE}", "Content-Length: 0")
        expect_error(send(victim, request), CLIENT_ERRORS)


@pytest.mark.parametrize("target", ["/v2/a/tags/list?last={}", "/v2/_catalog?last={}", "/v2/a/manifests/1?ns={}"])
def test_parameters_that_only_compare_do_no_harm(victim: Server, target: str) -> None:
    """`last` is compared and `ns` ignored: anything may be in them."""
    for climb in CLIMBS:
        expect_status(send(victim, head("GET", target.format(climb))), 200, 400)


def test_digests_in_manifests_do_not_climb_out(remote: Remote) -> None:
    """A digest in a document is judged like one in a URL."""
    config = remote.push_blob(b"{}", OCI_EMPTY)
    for digest in [form.format(climb) for climb in CLIMBS for form in ("{}", "sha256:{}", "../{}:" + "0" * 64)]:
        entry = {"mediaType": OCI_LAYER, "digest": digest, "size": 2}
        for manifest in (image(config, [entry]), image(entry), index([entry]), image(config, subject=entry)):
            expect_error(remote.put_manifest(manifest, "1"), 400, "MANIFEST_INVALID", "DIGEST_INVALID")


BROKEN_JSON = {
    "empty": b"",
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "string": b'"manifest"',
    "list": b"[]",
    "list-of-manifests": json.dumps([index([]).content]).encode(),
    "open": b'{"schemaVersion": 2, "mediaType": "%s", "manifests": [' % OCI_INDEX.encode(),
    "trailing": index([]).body + b"}",
    "two": index([]).body * 2,
    "comment": b"/* no */" + index([]).body,
    "single-quotes": b"{'schemaVersion': 2}",
    "nan": b'{"schemaVersion": NaN, "manifests": []}',
    "latin-1": b'{"schemaVersion": 2, "manifests": [], "annotations": {"a": "\xe9"}}',
    "utf-16": index([]).body.decode().encode("utf-16"),
    "nul": b"\0" * 100,
    "binary": bytes(range(256)) * 100,
    "open-lists": b"[" * DEPTH,
    "open-objects": b'{"a":' * DEPTH,
    "lists": DEEP.encode(),
    "objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "xml": b"<manifest/>",
}


@pytest.mark.parametrize("body", BROKEN_JSON.values(), ids=BROKEN_JSON)
@pytest.mark.parametrize("media_type", [OCI_IMAGE, OCI_INDEX, DOCKER_IMAGE, DOCKER_LIST, ORAS_ARTIFACT, None])
def test_body_that_is_no_manifest_is_refused(remote: Remote, media_type: str | None, body: bytes) -> None:
    """Spec "Error Codes", code-6: a manifest is a JSON object, and a message says why this is none."""
    headers = {"Content-Type": media_type} if media_type else {}
    expect_error(remote.put("manifests/1", data=body, headers=headers), 400, "MANIFEST_INVALID")
    expect_error(remote.get("manifests/1"), 404)


@pytest.mark.parametrize(
    "place", ["annotations", "unknown", "config", "layers", "manifests", "subject", "artifactType"]
)
@pytest.mark.parametrize("media_type", [OCI_IMAGE, OCI_INDEX])
def test_deep_json_anywhere_is_survived(remote: Remote, media_type: str, place: str) -> None:
    """A document 100,000 levels deep is refused, or stored where its depth lies in what nobody reads."""
    config = remote.push_blob(b"{}", OCI_EMPTY)
    base = image(config).content if media_type == OCI_IMAGE else index([]).content
    body = json.dumps({**base, place: "DEEP"}).replace('"DEEP"', DEEP).encode()
    answer = remote.put("manifests/1", data=body, headers={"Content-Type": media_type})
    if answer.status_code == 201:
        assert remote.get("manifests/1").content == body
    else:
        expect_error(answer, 400, "MANIFEST_INVALID")


WRONG: list[Any] = [None, True, 0, -1, 1.5, "", "x", [], {}, [None], [[]], ["x"], [1], {"a": None}, [{}], 10**30]


def wrong_for(*allowed: Any) -> list[Any]:
    """Return the wrong values but for those that are right in some place."""
    return [value for value in WRONG if not any(value == good and type(value) is type(good) for good in allowed)]


@pytest.mark.parametrize("value", wrong_for(), ids=json.dumps)
@pytest.mark.parametrize("field", ["config", "layers"])
def test_wrong_types_in_an_image_are_refused(remote: Remote, field: str, value: Any) -> None:
    """Image spec "Image Manifest": config is a descriptor, layers an array of descriptors."""
    content = image(remote.push_blob(b"{}", OCI_EMPTY)).content
    answer = remote.put_manifest(document({**content, field: value}, OCI_IMAGE), "1")
    harmless = (field == "layers" and value in ([], None)) and value is not False
    if harmless:
        expect_status(answer, 201, 400)
    else:
        expect_error(answer, 400, "MANIFEST_INVALID")


@pytest.mark.parametrize("value", wrong_for([]), ids=json.dumps)
@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_wrong_types_in_an_index_are_refused(remote: Remote, media_type: str, value: Any) -> None:
    """Image spec "Image Index": manifests is an array of descriptors."""
    manifest = document({"schemaVersion": 2, "mediaType": media_type, "manifests": value}, media_type)
    answer = remote.put_manifest(manifest, "1")
    if value is None:
        expect_status(answer, 201, 400)
    else:
        expect_error(answer, 400, "MANIFEST_INVALID")


@pytest.mark.parametrize("value", WRONG, ids=json.dumps)
@pytest.mark.parametrize("field", ["digest", "mediaType", "size"])
@pytest.mark.parametrize("place", ["config", "layers", "manifests", "subject", "blobs"])
def test_wrong_types_in_a_descriptor_are_refused(remote: Remote, place: str, field: str, value: Any) -> None:
    """Image spec "Descriptor": mediaType and digest are strings of a grammar, size a number not below zero."""
    config = remote.push_blob(b"{}", OCI_EMPTY)
    entry = {**config, field: value}
    content: Json = {
        "config": image(entry).content,
        "layers": image(config, [config, entry]).content,
        "manifests": index([entry]).content,
        "subject": image(config, subject=entry).content,
        "blobs": {"mediaType": ORAS_ARTIFACT, "artifactType": "a/b", "blobs": [entry]},
    }[place]
    answer = remote.put_manifest(document(content, content["mediaType"]), "1")
    if field == "digest":
        expect_error(answer, 400, "MANIFEST_INVALID", "DIGEST_INVALID")
    else:
        check_taken_or_refused(remote, answer, config["digest"])


@pytest.mark.parametrize("value", WRONG, ids=json.dumps)
@pytest.mark.parametrize(
    "field", ["schemaVersion", "annotations", "artifactType", "subject", "urls", "data", "platform"]
)
@pytest.mark.parametrize("media_type", [OCI_IMAGE, OCI_INDEX])
def test_wrong_types_elsewhere_do_no_harm(remote: Remote, media_type: str, field: str, value: Any) -> None:
    """What a registry hardly reads may be refused or stored, but must not break an answer, now or later."""
    config = remote.push_blob(b"{}", OCI_EMPTY)
    base = {"subject": config} | (image(config) if media_type == OCI_IMAGE else index([])).content
    answer = remote.put_manifest(document({**base, field: value}, media_type), "1")
    check_taken_or_refused(remote, answer, config["digest"])


@pytest.mark.parametrize("value", wrong_for({}), ids=json.dumps)
def test_subject_that_is_no_descriptor_is_refused(remote: Remote, value: Any) -> None:
    """Image spec "Image Manifest": subject is a descriptor; null is as good as none."""
    config = remote.push_blob(b"{}", OCI_EMPTY)
    answer = remote.put_manifest(image(config, subject=value), "1")
    if value is None:
        expect_status(answer, 201, 400)
        assert "OCI-Subject" not in answer.headers
    else:
        expect_error(answer, 400, "MANIFEST_INVALID")


def check_taken_or_refused(remote: Remote, answer: Any, subject: str) -> None:
    """Check that a manifest was refused well or is served well, and that lists over it still work."""
    if answer.status_code == 201:
        expect_status(remote.get("manifests/1"), 200)
        assert remote.tags() == ["1"]
    else:
        expect_error(answer, 400, "MANIFEST_INVALID")
    for path in (f"referrers/{subject}", f"referrers/{subject}?artifactType=a/b"):
        answer = remote.get(path)
        expect_status(answer, 200)
        for entry in answer.json()["manifests"]:
            assert isinstance(entry.get("artifactType", ""), str)
            assert isinstance(entry.get("annotations", {}), dict)


@pytest.mark.parametrize("name", ["\ud800", "\0", "\u202e", "é" * 1000, "\n", "\r\nSet-Cookie: a=b"])
def test_odd_characters_in_a_manifest_do_no_harm(remote: Remote, name: str) -> None:
    """Strings that are no text in some encoding, or that would break a header, are kept, or refused with 400."""
    config = remote.push_blob(b"{}", OCI_EMPTY)
    fields: Json = {"annotations": {name: name}, "artifactType": name, "subject": config}
    answer = remote.put_manifest(document({**image(config).content, **fields}, OCI_IMAGE), "1")
    assert "Set-Cookie" not in answer.headers
    check_taken_or_refused(remote, answer, config["digest"])


@pytest.mark.parametrize(
    "media_type",
    [
        b"a" * 7000,
        b"\xff\xfe",
        b";",
        b"/",
        b"a/b; charset=" + b"x" * 5000,
        b"application/json, " + OCI_IMAGE.encode(),
        b"",
    ],
)
def test_odd_content_types_are_refused(remote: Remote, media_type: bytes) -> None:
    """A Content-Type that names no manifest type is 400, whatever it is made of."""
    content = image(remote.push_blob(b"{}", OCI_EMPTY)).content
    answer = remote.put("manifests/1", data=json.dumps(content), headers={"Content-Type": media_type})
    if media_type.strip(b"; "):
        expect_error(answer, 400, "MANIFEST_INVALID")
    else:
        expect_status(answer, 201, 400)  # There is no type in it, so the document's own may serve.


def test_many_references_are_survived(remote: Remote) -> None:
    """A manifest of tens of thousands of references is judged in reasonable time, the missing ones named."""
    entries = [descriptor_of(number.to_bytes(4), OCI_LAYER) for number in range(20_000)]
    errors = expect_error(remote.put_manifest(index(entries), "1"), 400, "MANIFEST_BLOB_UNKNOWN")
    assert entries[0]["digest"] in str(errors)


@pytest.mark.parametrize(
    "header", ["If-None-Match", "If-Match", "If-Range", "Range", "Accept", "X-Forwarded-For", "Cookie"]
)
@pytest.mark.parametrize(
    "value", [b'"' + b"a" * 6000, b"," * 6000, b'W/"' * 2000, b"\xff" * 100, b"*, *", b'"a" "b"', b"-", b" \t "]
)
def test_odd_header_values_are_survived(remote: Remote, header: str, value: bytes) -> None:
    """A condition that cannot be understood is ignored or refused."""
    manifest = remote.push_image("1")
    layer = manifest.content["layers"][0]["digest"]
    for path in ("manifests/1", f"blobs/{layer}", "tags/list"):
        answer = exchange_header(remote, f"/v2/{remote.name}/{path}", header.encode() + b": " + value)
        expect_status(answer, 200, 304, 412, 416, 400)


def exchange_header(remote: Remote, target: str, line: bytes) -> WireAnswer:
    """Send a GET with one raw header line."""
    request = head("GET", target).removesuffix(b"\r\n") + line + b"\r\n\r\n"
    answer = exchange(remote.url.removeprefix("http://"), request)
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=-" + "9" * 30,
        "bytes=100-" + "9" * 30,
        "bytes=" + "9" * 30 + "-",
        "bytes=0-0" + ",0-0" * 1000,
        "bytes=" + "9" * 5000 + "-",
        "bytes=" + "-" * 5000,
    ],
)
def test_absurd_ranges_are_survived(remote: Remote, wanted: str) -> None:
    """RFC 9110 (section 17.15): many small or overlapping ranges must not multiply the work."""
    data = random_bytes(1000)
    digest = remote.push_blob(data)["digest"]
    answer = remote.get(f"blobs/{digest}", headers={"Range": wanted})
    expect_status(answer, 200, 206, 416, 400)
    assert len(answer.content) <= 1000


@pytest.mark.parametrize(
    "content_range", ["-5--1", "9" * 30 + "-" + "9" * 31, "0-" + "9" * 5000, "5-1", "0-0" + ",1-1" * 1000]
)
def test_absurd_content_ranges_are_refused(remote: Remote, content_range: str) -> None:
    """Spec "Pushing a blob in chunks": 400 or 416, and the session is unharmed."""
    location = remote.start_upload()
    answer = remote.patch(location, data=b"x", headers={"Content-Range": content_range})
    expect_error(answer, (400, 416), "BLOB_UPLOAD_INVALID", "SIZE_INVALID")
    expect_status(remote.finish_upload(location, digest_of(b"hello"), data=b"hello"), 201)


FRAMINGS = {
    "both": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "both-reversed": ["Transfer-Encoding: chunked", "Content-Length: 5"],
    "two-lengths": ["Content-Length: 5", "Content-Length: 6"],
    "list-of-lengths": ["Content-Length: 5, 6"],
    "negative": ["Content-Length: -5"],
    "plus": ["Content-Length: +5"],
    "hexadecimal": ["Content-Length: 0x5"],
    "word": ["Content-Length: five"],
    "space": ["Content-Length : 5"],
    "unknown-coding": ["Transfer-Encoding: rot13"],
    "chunked-twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "chunked-not-last": ["Transfer-Encoding: chunked, identity"],
    "folded": ["Transfer-Encoding:\r\n chunked"],
    "obfuscated": ["Transfer-Encoding: \x0bchunked"],
    "underscore": ["Content_Length: 5", "Transfer-Encoding : chunked"],
}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST"])
def test_ambiguous_framing_is_refused(victim: Server, remote: Remote, method: str, framing: list[str]) -> None:
    """RFC 9112 (section 6.3): a length that can be read in two ways is an attack; what follows is no request."""
    data = b"0\r\n\r\nGET /v2/a/tags/list HTTP/1.1\r\nHost: x\r\n\r\n"
    target = {
        "PATCH": remote.start_upload(),
        "PUT": f"{remote.start_upload()}?digest={digest_of(b'')}",
        "POST": f"/v2/{remote.name}/blobs/uploads/?digest={digest_of(b'')}",
    }[method]
    request = head(method, target, *framing).replace(b"Connection: close\r\n", b"")
    with connect(victim.host) as connection:
        connection.sendall(request + data)
        connection.shutdown(socket.SHUT_WR)
        answer = receive(connection)
        assert answer is not None
        expect_error(answer, CLIENT_ERRORS)
        assert connection.recv(1000) == b""


def check_refused_or_kept(answer: WireAnswer, what: str) -> None:
    """Check that a broken body is a client's error; only a PATCH may also have kept what there was of it."""
    if what != "patch" or answer.status_code != 202:
        expect_error(answer, CLIENT_ERRORS)


CHUNKS = {
    "word": b"five\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "prefixed": b"0x5\r\nhello\r\n0\r\n\r\n",
    "huge": b"f" * 16 + b"\r\nhello\r\n0\r\n\r\n",
    "endless-size": b"5" * 100_000,
    "endless-extension": b"5;" + b"a" * 1_000_000,
    "too-long": b"3\r\nhello\r\n0\r\n\r\n",
    "too-short": b"9\r\nhello\r\n0\r\n\r\n",
    "cut": b"5\r\nhel",
    "no-last-chunk": b"5\r\nhello\r\n",
    "line-feeds": b"5\nhello\n0\n\n",
    "empty-size": b"\r\nhello\r\n",
    "nothing": b"",
    "bad-trailer": b"5\r\nhello\r\n0\r\nno trailer\r\n\r\n",
}


@pytest.mark.parametrize("body", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("what", ["patch", "put", "post", "manifest"])
def test_broken_chunks_are_survived(victim: Server, remote: Remote, what: str, body: bytes) -> None:
    """RFC 9112 (section 7.1): a broken chunked body is refused, or its connection closed; no blob comes of it."""
    digest = digest_of(b"hello")
    method, target = {
        "patch": ("PATCH", remote.start_upload()),
        "put": ("PUT", f"{remote.start_upload()}?digest={digest}"),
        "post": ("POST", f"/v2/{remote.name}/blobs/uploads/?digest={digest}"),
        "manifest": ("PUT", f"/v2/{remote.name}/manifests/1"),
    }[what]
    request = head(method, target, f"Content-Type: {OCI_IMAGE}", "Transfer-Encoding: chunked") + body
    answer = exchange(victim.host, request, cut=True)
    if answer is not None:
        check_refused_or_kept(answer, what)
    assert remote.head(f"blobs/{digest}").status_code == 404
    assert remote.head("manifests/1").status_code == 404


@pytest.mark.parametrize("length", ["9" * 18, "9" * 30, "9" * 5000])
@pytest.mark.parametrize("what", ["patch", "put", "post", "manifest"])
def test_absurd_content_lengths_are_survived(victim: Server, remote: Remote, what: str, length: str) -> None:
    """A length that no disk can hold is no reason to fail: the body is cut short, or refused at once."""
    method, target = {
        "patch": ("PATCH", remote.start_upload()),
        "put": ("PUT", f"{remote.start_upload()}?digest={digest_of(b'hello')}"),
        "post": ("POST", f"/v2/{remote.name}/blobs/uploads/?digest={digest_of(b'hello')}"),
        "manifest": ("PUT", f"/v2/{remote.name}/manifests/1"),
    }[what]
    request = head(method, target, f"Content-Type: {OCI_IMAGE}", f"Content-Length: {length}") + b"hello"
    for more in (b"", b"Content-Range: 0-4\r\n"):
        answer = exchange(victim.host, request.replace(b"Content-Length", more + b"Content-Length"), cut=True)
        if answer is not None:
            check_refused_or_kept(answer, what)
    assert remote.head(f"blobs/{digest_of(b'hello')}").status_code == 404


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("GET", "/v2/" + "a/" * 50_000),
        head("GET", "/v2/a/tags/list?last=" + "a" * 100_000),
        head("GET", "/v2/a/tags/list?" + "&".join(f"p{number}=1" for number in range(20_000))),
        head("GET", "/v2/a/tags/list", "X-Long: " + "a" * 1_000_000),
        head("GET", "/v2/a/tags/list", *(f"X-{number}: {number}" for number in range(10_000))),
        head("A" * 10_000, "/v2/"),
    ],
    ids=["path", "parameter", "parameters", "header", "headers", "method"],
)
def test_huge_requests_are_refused(victim: Server, request_bytes: bytes) -> None:
    """RFC 9110 (section 15.5.15), RFC 6585 (section 5): too long is a client's error."""
    answer = exchange(victim.host, request_bytes)
    if answer is not None:
        expect_error(answer, CLIENT_ERRORS)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 10_000,
        b"\r\n" * 10_000,
        b"GET",
        b"GET /v2/ HTTP/1.1\r\nHost: x",
        b"GET http://evil.example/v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\n\r\n",
        b"GET /v2/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: \xff@:/\\\r\nConnection: close\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
        b"TRACE /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_is_hardly_http_is_survived(victim: Server, request_bytes: bytes) -> None:
    """RFC 9112 (section 3): an invalid request line is a bad request, or the connection is closed."""
    answer = exchange(victim.host, request_bytes, cut=True)
    if answer is not None:
        expect_status(answer, *range(200, 500))


def test_nothing_appears_in_the_root_for_bad_requests(victim: Server) -> None:
    """Reading, or failing to write, creates no directory of a repository."""
    before = directories(victim.root)
    remote = Remote(victim.url, "ghost")
    for method, path in (
        ("GET", "tags/list"),
        ("GET", "manifests/1"),
        ("DELETE", "manifests/1"),
        ("GET", "referrers/sha256:" + "0" * 64),
        ("GET", f"blobs/uploads/{SESSION}"),
        ("PATCH", f"blobs/uploads/{SESSION}"),
        ("POST", "blobs/uploads/?digest=nonsense"),
    ):
        remote.request(method, path)
    expect_error(remote.put_manifest(image(descriptor_of(b"x", OCI_CONFIG)), "1"), 400)
    assert directories(victim.root) == before


def directories(root: Path) -> set[str]:
    """Return the names at the top of the root that could be repositories."""
    return {entry.name for entry in root.iterdir() if not entry.name.startswith((".", "_"))}
