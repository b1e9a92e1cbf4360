"""Quotas over HTTP, with two workers: what is refused, how, and what stays possible."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.conftest import MakeServer
from tests.support import wire
from tests.support.oci import (
    OCI_CONFIG,
    Json,
    Remote,
    descriptor_of,
    digest_of,
    expect_error,
    expect_status,
    image,
    index,
    random_bytes,
)
from tests.support.server import Server

KIB = 1024
LIMIT = 100 * KIB


@pytest.fixture
def limited(make_server: MakeServer) -> Server:
    return make_server(workers=2, config={"storage": {"quotas": {"team": f"{LIMIT // KIB}KiB"}, "gc": False}})


def expect_refused(answer: requests.Response) -> Json:
    """Check a refusal, which names the quota, and return its detail."""
    (error,) = expect_error(answer, 403, "DENIED")
    assert error["message"].startswith("the quota of team is 100.0 KiB, of which "), error
    detail: Json = error["detail"]
    assert (detail["prefix"], detail["limit"]) == ("team", LIMIT)
    return detail


def files(root: Path) -> list[Path]:
    return [path for path in root.glob("team/**/*") if path.is_file()]


def drip(data: bytes, step: int = 8 * KIB) -> Iterator[bytes]:
    """Send a body by chunked transfer coding, whose length nobody knows."""
    for start in range(0, len(data), step):
        yield data[start : start + step]


def test_a_declared_length_is_refused_at_post_and_put_and_patch(limited: Server) -> None:
    remote = Remote(limited.url, "team/app")
    data = random_bytes(LIMIT + 1)
    detail = expect_refused(remote.post("blobs/uploads/", params={"digest": digest_of(data)}, data=data))
    assert (detail["used"], detail["asked"]) == (0, LIMIT + 1)
    expect_refused(remote.finish_upload(remote.start_upload(), digest_of(data), data=data))
    location = remote.start_upload()
    expect_refused(remote.patch(location, data=data))
    expect_error(remote.get(location), 404, "BLOB_UPLOAD_UNKNOWN")
    assert files(limited.root) == []
    remote.push_blob(data[:LIMIT])


@pytest.mark.direct("nginx refuses such a length itself, with 400")
@pytest.mark.parametrize("name", ["team/app", "free/app"])
@pytest.mark.parametrize("length", [2**63, 2**64, 10**30])
def test_a_length_that_nothing_has_is_refused(limited: Server, name: str, length: int) -> None:
    """With a quota and without one."""
    remote = Remote(limited.url, name)
    location, digest = remote.start_upload().removeprefix(limited.url), digest_of(b"")
    targets = {"PATCH": location, "PUT": f"{location}?digest={digest}"}
    for method, target in (targets | {"POST": f"/v2/{name}/blobs/uploads/?digest={digest}"}).items():
        with wire.connect(limited.host) as connection:
            connection.sendall(wire.head(method, target, f"Content-Length: {length}"))
            answer = wire.receive(connection, method)
        assert answer is not None
        expect_error(answer, 413, "SIZE_INVALID")


def test_a_stream_is_refused_when_it_passes_the_limit(limited: Server) -> None:
    remote = Remote(limited.url, "team/app")
    expect_refused(remote.patch(remote.start_upload(), data=drip(random_bytes(LIMIT + 50 * KIB))))
    data = random_bytes(LIMIT + 1)
    expect_refused(remote.post("blobs/uploads/", params={"digest": digest_of(data)}, data=drip(data)))
    assert files(limited.root) == []
    remote.push_blob(data[:LIMIT])


def test_chunks_count_together(limited: Server) -> None:
    remote = Remote(limited.url, "team/app")
    location = remote.start_upload()
    for _ in range(2):
        expect_status(answer := remote.patch(location, data=random_bytes(40 * KIB)), 202)
        location = answer.headers["Location"]
    assert expect_refused(remote.patch(location, data=random_bytes(40 * KIB)))["asked"] == 120 * KIB
    assert files(limited.root) == []


def test_all_but_new_content_works_at_a_full_quota(limited: Server) -> None:
    remote = Remote(limited.url, "team/app")
    manifest = remote.push_image("1")
    layer = manifest.content["layers"][0]["digest"]
    used = sum(path.stat().st_size for path in limited.root.glob("team/app/blobs/*/*"))
    filling = remote.push_blob(random_bytes(LIMIT - used))
    expect_refused(remote.post("blobs/uploads/", params={"digest": digest_of(b"!")}, data=b"!"))
    other = image(descriptor_of(b"", OCI_CONFIG))
    for query in ("GET", "HEAD"):
        expect_status(remote.request(query, f"blobs/{layer}"), 200)
        expect_status(remote.request(query, "manifests/1"), 200)
    expect_status(remote.put_manifest(manifest, "2"), 201)
    mount = {"mount": layer, "from": "team/app"}
    expect_status(Remote(limited.url, "team/other").post("blobs/uploads/", params=mount), 201)
    expect_error(remote.put_manifest(other, "3"), 400, "MANIFEST_BLOB_UNKNOWN")
    expect_status(remote.delete("manifests/2"), 202)
    expect_status(remote.delete(f"blobs/{filling['digest']}"), 202)
    remote.push_image("4")


def test_a_manifest_and_a_mount_are_refused(limited: Server) -> None:
    remote, free = Remote(limited.url, "team/app"), Remote(limited.url, "free")
    config = remote.push_blob(b"{}", OCI_CONFIG)
    remote.push_blob(random_bytes(LIMIT - 2))
    expect_refused(remote.put_manifest(image(config), "1"))
    expect_error(remote.get("manifests/1"), 404, "NAME_UNKNOWN")
    blob = free.push_blob(random_bytes(10))
    expect_refused(remote.post("blobs/uploads/", params={"mount": blob["digest"], "from": "free"}))
    expect_refused(remote.post("blobs/uploads/", params={"mount": blob["digest"]}))
    expect_status(remote.head(f"blobs/{blob['digest']}"), 404)


def test_of_many_at_once_as_many_are_stored_as_there_is_room_for(limited: Server) -> None:
    barrier = threading.Barrier(8)

    def push(number: int) -> int:
        remote, data = Remote(limited.url, f"team/app{number}"), random_bytes(30 * KIB)
        barrier.wait()
        answer = remote.post("blobs/uploads/", params={"digest": digest_of(data)}, data=data)
        if answer.status_code != 201:
            expect_refused(answer)
        return answer.status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(push, range(8)))
    assert statuses.count(201) == 3
    assert len(files(limited.root)) == 3


def test_the_number_of_repositories_is_limited(make_server: MakeServer) -> None:
    server = make_server(workers=2, config={"storage": {"maxRepos": 1}})
    first, second = Remote(server.url, "first"), Remote(server.url, "second")
    manifest = first.push_image("1")
    answer = second.post("blobs/uploads/")
    (error,) = expect_error(answer, 403, "DENIED")
    assert error["message"] == "this registry may have 1 repositories, and has them: second would be one more"
    assert error["detail"] == {"repositories": 1, "limit": 1}
    mount = {"mount": manifest.content["config"]["digest"], "from": "first"}
    expect_error(second.post("blobs/uploads/", params=mount), 403, "DENIED")
    expect_error(second.put_manifest(index([]), "1"), 403, "DENIED")
    assert not (server.root / "second").exists()
    first.push_image("2")
