"""Pushing blobs: every way of uploading one, and sessions that are interrupted, disordered or misused."""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.oci import TIMEOUT, Answer, Remote, digest_of, expect_error, expect_status, random_bytes
from tests.support.server import Server
from tests.support.wire import connect, exchange, head, receive

UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
UNKNOWN = "sha256:" + "0" * 64

every_algorithm = pytest.mark.parametrize("algorithm", ["sha256", "sha512"])


def check_blob(remote: Remote, answer: requests.Response, data: bytes, algorithm: str = "sha256") -> None:
    """Check the 201 of a finished upload, and that its Location gives the blob."""
    digest = digest_of(data, algorithm)
    expect_status(answer, 201)
    assert answer.headers["Docker-Content-Digest"] == digest
    assert urlsplit(answer.headers["Location"]).path == f"/v2/{remote.name}/blobs/{digest}"
    pulled = remote.get(answer.headers["Location"])
    assert pulled.status_code == 200
    assert pulled.content == data


def check_session(remote: Remote, answer: Answer, received: int) -> str:
    """Check the headers that describe an open session, and return its location."""
    location = answer.headers["Location"]
    assert urlsplit(location).path.startswith(f"/v2/{remote.name}/blobs/uploads/")
    assert answer.headers["Range"] == f"0-{max(received - 1, 0)}"
    assert UUID.fullmatch(answer.headers["Docker-Upload-UUID"])
    assert answer.headers["Docker-Upload-UUID"] in location
    return location


def check_state(remote: Remote, location: str, received: int) -> None:
    """Check that the session tells `received` bytes."""
    answer = remote.get(location)
    assert answer.status_code == 204
    assert answer.content == b""
    check_session(remote, answer, received)


def stream(data: bytes, size: int = 1000) -> list[bytes]:
    """Cut `data` into pieces, which requests sends with chunked transfer encoding."""
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("path", ["blobs/uploads/", "blobs/uploads"])
def test_session_starts_with_a_location(remote: Remote, path: str) -> None:
    """Spec "POST then PUT", end-4a: 202 and a Location with a UUID, relative unless configured otherwise."""
    answer = remote.post(path)
    expect_status(answer, 202)
    location = check_session(remote, answer, 0)
    assert location.startswith("/v2/")
    assert UUID.search(location)
    assert answer.content == b""


def test_sessions_are_unique(remote: Remote) -> None:
    """Spec "POST then PUT": the UUID represents a unique session."""
    assert len({remote.start_upload() for _ in range(5)}) == 5


@every_algorithm
def test_post_then_put(remote: Remote, algorithm: str) -> None:
    """Spec "POST then PUT", end-6: 201 with a pullable Location."""
    data = random_bytes(100_000)
    answer = remote.finish_upload(
        remote.start_upload(),
        digest_of(data, algorithm),
        data=data,
        headers={"Content-Type": "application/octet-stream"},
    )
    check_blob(remote, answer, data, algorithm)


@every_algorithm
def test_streamed_put(remote: Remote, algorithm: str) -> None:
    """RFC 9112 (section 7.1): a PUT may come chunked, without Content-Length."""
    data = random_bytes(100_000)
    answer = remote.finish_upload(remote.start_upload(), digest_of(data, algorithm), data=iter(stream(data)))
    check_blob(remote, answer, data, algorithm)


@every_algorithm
@pytest.mark.parametrize("path", ["blobs/uploads/", "blobs/uploads"])
def test_single_post(remote: Remote, path: str, algorithm: str) -> None:
    """Spec "Single POST", end-4b: 201 with a pullable Location."""
    data = random_bytes(100_000)
    answer = remote.post(path, params={"digest": digest_of(data, algorithm)}, data=data)
    check_blob(remote, answer, data, algorithm)


@pytest.mark.parametrize(
    "media_type",
    ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json", "text/plain"],
)
def test_body_is_opaque_whatever_its_type(remote: Remote, media_type: str) -> None:
    """Spec "Definitions", Blob: binary content; curl calls it a form, and nothing may parse it as one."""
    headers = {"Content-Type": media_type}
    data = b"digest=sha256&mount=x\r\n--x\r\n\r\n" + random_bytes(10_000)
    check_blob(
        remote, remote.post("blobs/uploads/", params={"digest": digest_of(data)}, data=data, headers=headers), data
    )
    location = remote.patch(remote.start_upload(), data=data, headers=headers).headers["Location"]
    twice = data + data
    check_blob(remote, remote.finish_upload(location, digest_of(twice), data=data, headers=headers), twice)


def test_session_starts_without_content_length(server: Server, remote: Remote) -> None:
    """RFC 9110 (section 8.6): a POST without content need not say so."""
    answer = exchange(server.host, head("POST", f"/v2/{remote.name}/blobs/uploads/"))
    assert answer is not None
    expect_status(answer, 202)
    check_session(remote, answer, 0)


def test_streamed_single_post(remote: Remote) -> None:
    """RFC 9112 (section 7.1): a single POST may come chunked, without Content-Length."""
    data = random_bytes(100_000)
    answer = remote.post("blobs/uploads/", params={"digest": digest_of(data)}, data=iter(stream(data)))
    check_blob(remote, answer, data)


@every_algorithm
@pytest.mark.parametrize("way", ["post", "post-put", "patch-put"])
def test_empty_blob(remote: Remote, way: str, algorithm: str) -> None:
    """A blob of zero bytes can be pushed in every way."""
    digest = digest_of(b"", algorithm)
    if way == "post":
        answer = remote.post("blobs/uploads/", params={"digest": digest}, data=b"")
    else:
        location = remote.start_upload()
        if way == "patch-put":
            patched = remote.patch(location, data=b"")
            expect_status(patched, 202)
            location = check_session(remote, patched, 0)
        answer = remote.finish_upload(location, digest)
    check_blob(remote, answer, b"", algorithm)


@every_algorithm
@pytest.mark.parametrize("last_in_put", [False, True])
@pytest.mark.parametrize("announce", [False, True])
def test_chunks_in_order(remote: Remote, announce: bool, last_in_put: bool, algorithm: str) -> None:
    """Spec "Pushing a blob in chunks", end-4c, end-5, end-6: the last chunk may come in a PATCH or in the PUT."""
    data = random_bytes(50_000)
    chunks = stream(data, 12_000)
    answer = remote.post("blobs/uploads/", params={"digest-algorithm": algorithm} if announce else {})
    expect_status(answer, 202)
    location = check_session(remote, answer, 0)
    sent = 0
    for chunk in chunks[:-1] if last_in_put else chunks:
        headers = {"Content-Range": f"{sent}-{sent + len(chunk) - 1}", "Content-Type": "application/octet-stream"}
        answer = remote.patch(location, data=chunk, headers=headers)
        expect_status(answer, 202)
        sent += len(chunk)
        location = check_session(remote, answer, sent)
        check_state(remote, location, sent)
    final = {"data": chunks[-1], "headers": {"Content-Range": f"{sent}-{len(data) - 1}"}} if last_in_put else {}
    check_blob(remote, remote.finish_upload(location, digest_of(data, algorithm), **final), data, algorithm)


@every_algorithm
def test_streamed_patch(remote: Remote, algorithm: str) -> None:
    """Docker's way: one PATCH with chunked transfer encoding, no Content-Length and no Content-Range."""
    data = random_bytes(100_000)
    answer = remote.patch(remote.start_upload(), data=iter(stream(data)))
    expect_status(answer, 202)
    location = check_session(remote, answer, len(data))
    check_blob(remote, remote.finish_upload(location, digest_of(data, algorithm)), data, algorithm)


def test_patches_without_range_append(remote: Remote) -> None:
    """Spec "Pushing a blob in chunks": a chunk that does not say where it goes, goes to the end."""
    data = random_bytes(30_000)
    location = remote.start_upload()
    for chunk in stream(data, 10_000):
        answer = remote.patch(location, data=chunk)
        expect_status(answer, 202)
        location = answer.headers["Location"]
    check_blob(remote, remote.finish_upload(location, digest_of(data)), data)


def test_last_chunk_in_the_put_may_be_streamed(remote: Remote) -> None:
    """Spec "Pushing a blob in chunks": the closing PUT may carry the rest, without Content-Range too."""
    data = random_bytes(30_000)
    location = remote.patch(remote.start_upload(), data=data[:10_000]).headers["Location"]
    check_blob(remote, remote.finish_upload(location, digest_of(data), data=iter(stream(data[10_000:]))), data)


def test_digest_counts_for_the_whole_blob_not_for_the_last_chunk(remote: Remote) -> None:
    """Spec "Pushing a blob in chunks": the PUT MUST include the digest of the whole blob."""
    data = random_bytes(2000)
    location = remote.patch(remote.start_upload(), data=data[:1000]).headers["Location"]
    answer = remote.finish_upload(location, digest_of(data[1000:]), data=data[1000:])
    expect_error(answer, 400, "DIGEST_INVALID")


def test_unsupported_algorithm_is_refused_at_the_start(remote: Remote) -> None:
    """Spec "Pushing blobs": an unsupported algorithm SHOULD be 400."""
    for algorithm in ("md5", "blake3", "SHA256", "", "../sha256"):
        expect_error(remote.post("blobs/uploads/", params={"digest-algorithm": algorithm}), 400, "DIGEST_INVALID")


@pytest.mark.parametrize("start", [1, 5, 9, 11, 4_000_000_000_000])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_chunk_out_of_order_is_416_and_leaves_the_session_unharmed(remote: Remote, method: str, start: int) -> None:
    """Spec "Pushing a blob in chunks": MUST be 416, of a PATCH and of the PUT; the state is the true one."""
    data = random_bytes(20)
    location = remote.patch(remote.start_upload(), data=data[:10]).headers["Location"]
    headers = {"Content-Range": f"{start}-{start + 9}"}
    params = {"digest": digest_of(data)} if method == "PUT" else {}
    answer = remote.request(method, location, data=data[10:], headers=headers, params=params)
    expect_error(answer, 416, "BLOB_UPLOAD_INVALID")
    location = check_session(remote, answer, 10)
    check_state(remote, location, 10)
    assert remote.head(f"blobs/{digest_of(data)}").status_code == 404
    patched = remote.patch(location, data=data[10:], headers={"Content-Range": "10-19"})
    check_blob(remote, remote.finish_upload(patched.headers["Location"], digest_of(data)), data)


def test_first_chunk_must_begin_with_zero(remote: Remote) -> None:
    """Spec "Pushing a blob in chunks": the first chunk's range MUST begin with 0; an empty session says 0-0."""
    answer = remote.patch(remote.start_upload(), data=b"hello", headers={"Content-Range": "5-9"})
    expect_error(answer, 416, "BLOB_UPLOAD_INVALID")
    check_session(remote, answer, 0)


def test_chunk_sent_again_is_416(remote: Remote) -> None:
    """Spec "Pushing a blob in chunks": a chunk's first byte is the last one's end plus one, so no chunk comes twice."""
    location = remote.start_upload()
    headers = {"Content-Range": "0-4"}
    location = remote.patch(location, data=b"hello", headers=headers).headers["Location"]
    answer = remote.patch(location, data=b"hello", headers=headers)
    expect_error(answer, 416, "BLOB_UPLOAD_INVALID")
    check_session(remote, answer, 5)
    check_blob(remote, remote.finish_upload(location, digest_of(b"hello")), b"hello")


@pytest.mark.parametrize(
    "content_range",
    [
        "0-",
        "-4",
        "4-0",
        "a-b",
        "0",
        "0-4,5-9",
        "٠-٤".encode(),
        "0x0-0x4",
        "--4",
        "+0-+4",
    ],
)
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_malformed_content_range_is_400(remote: Remote, method: str, content_range: str | bytes) -> None:
    """Spec "Pushing a blob in chunks": the range MUST match `^[0-9]+-[0-9]+$`."""
    location = remote.start_upload()
    params = {"digest": digest_of(b"hello")} if method == "PUT" else {}
    headers = {"Content-Range": content_range}
    answer = remote.request(method, location, data=b"hello", headers=headers, params=params)
    expect_error(answer, 400, "BLOB_UPLOAD_INVALID")
    check_state(remote, location, 0)


@pytest.mark.parametrize("content_range", ["bytes=5-9", "bytes 5-9/10", "5-9/10"])
def test_range_in_the_form_of_http_is_refused_or_understood(remote: Remote, content_range: str) -> None:
    """RFC 9110 (section 14.4): another form of the range may be read, but never passed over: these are out of order."""
    location = remote.start_upload()
    answer = remote.patch(location, data=b"hello", headers={"Content-Range": content_range})
    expect_error(answer, (400, 416), "BLOB_UPLOAD_INVALID")
    check_state(remote, location, 0)


@pytest.mark.parametrize("content_range", ["0-9", "0-3"])
def test_content_range_that_contradicts_content_length_is_refused(remote: Remote, content_range: str) -> None:
    """Spec "Pushing a blob in chunks": the range is inclusive on both ends, so it tells the length."""
    location = remote.start_upload()
    answer = remote.patch(location, data=b"hello", headers={"Content-Range": content_range})
    expect_error(answer, (400, 416), "BLOB_UPLOAD_INVALID", "SIZE_INVALID")
    check_state(remote, location, 0)


@pytest.mark.parametrize("way", ["post", "put", "patched"])
def test_wrong_digest_stores_nothing(remote: Remote, way: str) -> None:
    """Spec "Pushing blobs": an invalid digest SHOULD be 400; neither digest is there afterwards."""
    data, claimed = random_bytes(), digest_of(random_bytes())
    if way == "post":
        answer = remote.post("blobs/uploads/", params={"digest": claimed}, data=data)
    elif way == "put":
        answer = remote.finish_upload(remote.start_upload(), claimed, data=data)
    else:
        location = remote.patch(remote.start_upload(), data=data).headers["Location"]
        answer = remote.finish_upload(location, claimed)
    expect_error(answer, 400, "DIGEST_INVALID")
    assert remote.head(f"blobs/{claimed}").status_code == 404
    assert remote.head(f"blobs/{digest_of(data)}").status_code == 404


@pytest.mark.parametrize("query", ["", "?digest=", "?digest=nonsense", "?digest=md5:" + "0" * 32, "?digest=sha256:abc"])
def test_closing_without_a_digest_or_with_a_malformed_one_is_400(remote: Remote, query: str) -> None:
    """Spec "Pushing a blob in chunks": the closing PUT MUST include the digest."""
    location = remote.start_upload()
    expect_error(remote.put(location + query, data=b"hello"), 400, "DIGEST_INVALID")


def test_session_is_gone_once_closed(remote: Remote) -> None:
    """Spec "Pushing a blob in chunks": PUT closes the session."""
    location = remote.start_upload()
    expect_status(remote.finish_upload(location, digest_of(b"hello"), data=b"hello"), 201)
    for answer in (
        remote.get(location),
        remote.patch(location, data=b"x"),
        remote.finish_upload(location, digest_of(b"hello")),
        remote.delete(location),
    ):
        expect_error(answer, 404, "BLOB_UPLOAD_UNKNOWN")


def test_cancelled_session_is_gone(remote: Remote) -> None:
    """Spec "Cancel a blob upload", end-14: SHOULD be 204."""
    location = remote.patch(remote.start_upload(), data=b"hello").headers["Location"]
    answer = remote.delete(location)
    assert answer.status_code == 204
    assert answer.content == b""
    expect_error(remote.get(location), 404, "BLOB_UPLOAD_UNKNOWN")
    expect_error(remote.delete(location), 404, "BLOB_UPLOAD_UNKNOWN")
    assert remote.head(f"blobs/{digest_of(b'hello')}").status_code == 404


def test_session_belongs_to_its_repository(remote: Remote) -> None:
    """A session id from another repository is unknown, to every method, and the session is not touched."""
    location = remote.patch(remote.start_upload(), data=b"hello").headers["Location"]
    neighbour = Remote(remote.url, f"{remote.name}/inner")
    neighbour.start_upload()
    stolen = location.replace(f"/v2/{remote.name}/", f"/v2/{neighbour.name}/")
    for answer in (
        neighbour.get(stolen),
        neighbour.patch(stolen, data=b"evil"),
        neighbour.finish_upload(stolen, digest_of(b"hello")),
        neighbour.delete(stolen),
    ):
        expect_error(answer, 404, "BLOB_UPLOAD_UNKNOWN")
    check_state(remote, location, 5)
    check_blob(remote, remote.finish_upload(location, digest_of(b"hello")), b"hello")


def test_blob_pushed_twice_is_there_once(server: Server, remote: Remote) -> None:
    """Spec "Layer Upload De-duplication": pushing what is there succeeds."""
    data = random_bytes()
    for _ in range(2):
        digest = remote.push_blob(data)["digest"]
    check_blob(remote, remote.post("blobs/uploads/", params={"digest": digest}, data=data), data)
    assert len(list((server.root / remote.name / "blobs" / "sha256").iterdir())) == 1


def test_blobs_and_sessions_work_before_the_first_manifest(remote: Remote) -> None:
    """Spec "Push": blobs come first, so a repository without a manifest takes and gives them."""
    data = random_bytes()
    digest = remote.push_blob(data)["digest"]
    assert remote.get(f"blobs/{digest}").content == data
    expect_error(remote.get("tags/list"), 404, "NAME_UNKNOWN")


@pytest.mark.direct("to nginx, who sends no more is gone")
def test_body_of_a_put_cut_short_is_refused(server: Server, remote: Remote) -> None:
    """Spec "Error Codes", code-10: fewer bytes than Content-Length says are not the blob, even if they hash to it."""
    for method, target in (
        ("PUT", f"{remote.start_upload()}?digest={digest_of(b'hello')}"),
        ("POST", f"/v2/{remote.name}/blobs/uploads/?digest={digest_of(b'hello')}"),
    ):
        answer = exchange(server.host, head(method, target, "Content-Length: 10") + b"hello", cut=True)
        assert answer is not None
        expect_error(answer, 400, "SIZE_INVALID")
        assert remote.head(f"blobs/{digest_of(b'hello')}").status_code == 404


@pytest.mark.direct("to nginx, who sends no more is gone")
@pytest.mark.parametrize("resume", ["patch", "put"])
def test_patch_cut_short_keeps_its_bytes_and_goes_on(server: Server, remote: Remote, resume: str) -> None:
    """Spec "Resumable Push", end-13: the client asks for the state and sends only the rest."""
    data = random_bytes(100)
    location = remote.start_upload()
    exchange(server.host, head("PATCH", location, "Content-Length: 100") + data[:40], cut=True)
    wait_for_state(remote, location, "0-39")
    headers = {"Content-Range": "40-99"}
    if resume == "put":
        check_blob(remote, remote.finish_upload(location, digest_of(data), data=data[40:], headers=headers), data)
    else:
        patched = remote.patch(location, data=data[40:], headers=headers)
        check_session(remote, patched, 100)
        check_blob(remote, remote.finish_upload(patched.headers["Location"], digest_of(data)), data)


@pytest.mark.direct("broken chunks nginx refuses in its own words")
@pytest.mark.parametrize("tail", [b"", b"5\r\nhel", b"5\r\nhelloX", b"zz\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n"])
def test_chunked_body_cut_short_or_broken_makes_no_blob(server: Server, remote: Remote, tail: bytes) -> None:
    """RFC 9112 (section 8): a chunked body that does not end with its last chunk is incomplete."""
    target = f"{remote.start_upload()}?digest={digest_of(b'hello')}"
    request = head("PUT", target, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n" + tail
    answer = exchange(server.host, request, cut=True)
    if answer is not None:
        expect_error(answer, range(400, 500))
    assert remote.head(f"blobs/{digest_of(b'hello')}").status_code == 404


def test_second_writer_of_a_session_is_turned_away(server: Server, remote: Remote) -> None:
    """Two writers on one session cannot corrupt it: while one writes, the other gets 416."""
    location = remote.start_upload()
    with connect(server.host) as first:
        first.sendall(head("PATCH", location, "Content-Length: 10", "Expect: 100-continue"))
        assert first.recv(1000).startswith(b"HTTP/1.1 100")
        first.sendall(b"first")
        time.sleep(1)  # The interim answer is sent before the application runs, and nothing tells when it has begun.
        for _ in range(4):
            second = Remote(remote.url, remote.name)  # A connection of its own, to whichever worker takes it.
            expect_error(second.patch(location, data=b"second"), 416, "BLOB_UPLOAD_INVALID")
            put = second.finish_upload(location, digest_of(b"second"), data=b"second")
            expect_error(put, 416, "BLOB_UPLOAD_INVALID")
        first.sendall(b"-half")
        answer = receive(first)
    assert answer is not None
    expect_status(answer, 202)
    check_session(remote, answer, 10)
    check_blob(remote, remote.finish_upload(location, digest_of(b"first-half")), b"first-half")


def test_session_goes_on_over_new_connections(remote: Remote) -> None:
    """Spec "Resumable Push": whichever worker a connection reaches, the session is the same."""
    data = random_bytes(8000)
    location = remote.start_upload()
    for start, chunk in enumerate(stream(data)):
        answer = requests.patch(
            remote.url + location,
            data=chunk,
            headers={"Content-Range": f"{start * 1000}-{start * 1000 + 999}"},
            timeout=TIMEOUT,
        )
        expect_status(answer, 202)
        location = check_session(remote, answer, (start + 1) * 1000)
    check_blob(remote, remote.finish_upload(location, digest_of(data)), data)


def test_refusal_reaches_a_client_that_is_still_sending(remote: Remote) -> None:
    """RFC 9112 (section 9.6): an answer before the end of the body must not be lost to a reset of the connection."""
    data = bytes(40_000_000)
    disordered = {"Content-Range": f"7-{len(data) + 6}"}
    for _ in range(3):
        expect_error(remote.patch(remote.start_upload(), data=data, headers=disordered), 416, "BLOB_UPLOAD_INVALID")
        expect_error(remote.patch(f"blobs/uploads/{'0' * 8}-0000-4000-8000-{'0' * 12}", data=data), 404)
        expect_error(remote.post("blobs/uploads/", params={"digest": "nonsense"}, data=data), 400, "DIGEST_INVALID")
        expect_error(remote.put("manifests/1", data=data), 413, "MANIFEST_INVALID")


def test_large_blob_in_every_way(remote: Remote) -> None:
    """A body larger than any buffer arrives whole: PUT, streamed PATCH, and chunks of 10 MB."""
    data = random_bytes(1_000_000) * 23
    digest = digest_of(data)
    for way in ("put", "stream", "chunks"):
        location = remote.start_upload()
        if way == "stream":
            location = remote.patch(location, data=iter(stream(data, 700_001))).headers["Location"]
        if way == "chunks":
            for chunk in stream(data, 10_000_000):
                location = remote.patch(location, data=chunk).headers["Location"]
        expect_status(remote.finish_upload(location, digest, data=data if way == "put" else b""), 201)
        assert digest_of(remote.get(f"blobs/{digest}").content) == digest
        expect_status(remote.delete(f"blobs/{digest}"), 202)


def wait_for_state(remote: Remote, location: str, expected: str) -> None:
    """Wait until the session tells the range `expected`: an abandoned request may still be about to end."""
    deadline = time.monotonic() + 10
    while (state := remote.get(location)).headers.get("Range") != expected:
        assert time.monotonic() < deadline, state.headers
        time.sleep(0.05)
    assert state.status_code == 204


def test_unknown_digest_on_an_unknown_session_is_404(remote: Remote) -> None:
    """Spec "Endpoints", end-6: 404 for a session that never was."""
    answer = remote.put("blobs/uploads/6ba7b810-9dad-11d1-80b4-00c04fd430c8", params={"digest": UNKNOWN})
    expect_error(answer, 404, "BLOB_UPLOAD_UNKNOWN")
