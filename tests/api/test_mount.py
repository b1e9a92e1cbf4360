"""Mounting a blob of another repository instead of uploading it."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import requests

from tests.support.oci import OCI_EMPTY, Remote, digest_of, expect_error, expect_status, image, random_bytes
from tests.support.server import Server


@pytest.fixture
def source(remote: Remote) -> Remote:
    """Return a second repository, to mount from."""
    return Remote(remote.url, f"{remote.name}-source")


def mount(remote: Remote, digest: str, source: str | None) -> requests.Response:
    """Ask for a mount, with or without `from`."""
    params = {"mount": digest} if source is None else {"mount": digest, "from": source}
    return remote.post("blobs/uploads/", params=params)


def check_mounted(remote: Remote, answer: requests.Response, data: bytes, digest: str) -> None:
    """Check the 201 of a mount and that its Location gives the blob."""
    expect_status(answer, 201)
    assert answer.headers["Docker-Content-Digest"] == digest
    assert urlsplit(answer.headers["Location"]).path == f"/v2/{remote.name}/blobs/{digest}"
    assert remote.get(answer.headers["Location"]).content == data


def check_session_instead(remote: Remote, answer: requests.Response, data: bytes) -> None:
    """Check that a 202 opened a session in which the blob can be uploaded after all."""
    expect_status(answer, 202)
    assert "Docker-Upload-UUID" in answer.headers
    assert answer.headers["Range"] == "0-0"
    assert urlsplit(answer.headers["Location"]).path.startswith(f"/v2/{remote.name}/blobs/uploads/")
    digest = digest_of(data)
    assert remote.head(f"blobs/{digest}").status_code == 404
    expect_status(remote.finish_upload(answer.headers["Location"], digest, data=data), 201)
    assert remote.get(f"blobs/{digest}").content == data


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [random_bytes(100_000), b""], ids=["some", "empty"])
def test_mount_from_a_repository(remote: Remote, source: Remote, data: bytes, algorithm: str) -> None:
    """Spec "Mounting a blob from another repository", end-11: MUST be 201 with the blob's Location."""
    digest = source.push_blob(data, algorithm=algorithm)["digest"]
    check_mounted(remote, mount(remote, digest, source.name), data, digest)


def test_mounted_blob_counts_for_manifests(remote: Remote, source: Remote) -> None:
    """Spec "Mounting a blob from another repository": the step takes the place of an upload."""
    config = source.push_blob(random_bytes(), OCI_EMPTY)
    manifest = image(config)
    expect_error(remote.put_manifest(manifest, "1"), 400, "MANIFEST_BLOB_UNKNOWN")
    expect_status(mount(remote, config["digest"], source.name), 201)
    remote.push(manifest, "1")


def test_mounted_blob_outlives_its_source(remote: Remote, source: Remote) -> None:
    """Spec "Deleting Blobs": deleting in one repository leaves the other's blob."""
    data = random_bytes()
    digest = source.push_blob(data)["digest"]
    expect_status(mount(remote, digest, source.name), 201)
    expect_status(source.delete(f"blobs/{digest}"), 202)
    assert remote.get(f"blobs/{digest}").content == data


def test_mount_without_from(remote: Remote, source: Remote) -> None:
    """Spec "Mounting a blob from another repository": `from` is optional, the blob is found wherever it is."""
    data = random_bytes()
    digest = source.push_blob(data)["digest"]
    check_mounted(remote, mount(remote, digest, None), data, digest)


def test_mount_of_what_the_repository_has(remote: Remote, source: Remote) -> None:
    """Spec "Layer Upload De-duplication": what is already there needs no upload."""
    data = random_bytes()
    digest = remote.push_blob(data)["digest"]
    check_mounted(remote, mount(remote, digest, remote.name), data, digest)
    check_mounted(remote, mount(remote, digest, None), data, digest)


def test_mount_of_what_nobody_has_opens_a_session(remote: Remote) -> None:
    """Spec "Mounting a blob from another repository": unable to mount, SHOULD be 202 and a session."""
    for source in (remote.name, None):
        data = random_bytes()
        check_session_instead(remote, mount(remote, digest_of(data), source), data)


@pytest.mark.parametrize("has", [True, False])
def test_mount_from_a_repository_that_lacks_it(remote: Remote, source: Remote, has: bool) -> None:
    """Spec "Mounting a blob from another repository": a source without the blob, or that is none, gives a session."""
    if has:
        source.push_image("1")
    data = random_bytes()
    check_session_instead(remote, mount(remote, digest_of(data), source.name), data)


@pytest.mark.parametrize("name", ["UPPER", "../..", "a//b", "", "blobs", "a\0b", "/etc"])
def test_mount_from_an_invalid_name(remote: Remote, name: str) -> None:
    """Spec "Pulling manifests": `<other_name>` is a name; an invalid one is refused or gives a session."""
    data = random_bytes()
    answer = mount(remote, digest_of(data), name)
    if answer.status_code == 202:
        check_session_instead(remote, answer, data)
    else:
        expect_error(answer, 400, "NAME_INVALID")


@pytest.mark.parametrize("digest", ["nonsense", "sha256:abc", "md5:" + "0" * 32, "", "sha256:../../index.json"])
def test_mount_of_a_malformed_digest(remote: Remote, source: Remote, digest: str) -> None:
    """Spec "Pushing blobs": an invalid digest SHOULD be 400."""
    source.push_image("1")
    expect_error(mount(remote, digest, source.name), 400, "DIGEST_INVALID")


def test_mount_with_a_body_is_still_a_mount(remote: Remote, source: Remote) -> None:
    """Spec "Mounting a blob from another repository": a POST whose body is empty chunks is one too."""
    data = random_bytes()
    digest = source.push_blob(data)["digest"]
    answer = remote.post("blobs/uploads/", params={"mount": digest, "from": source.name}, data=iter([]))
    check_mounted(remote, answer, data, digest)


def test_mounted_blob_is_the_same_file(server: Server, remote: Remote, source: Remote) -> None:
    """A mount is a link: it moves no bytes."""
    digest = source.push_blob(random_bytes())["digest"]
    expect_status(mount(remote, digest, source.name), 201)
    algorithm, encoded = digest.split(":")
    files = [server.root / name / "blobs" / algorithm / encoded for name in (remote.name, source.name)]
    assert files[0].samefile(files[1])
