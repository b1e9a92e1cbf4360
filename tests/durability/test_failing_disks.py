"""Disks that are full, read-only or closed, and too few open files: clear errors, nothing half-done, and no restart."""

from __future__ import annotations

import ctypes
import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from tests.conftest import MakeServer
from tests.durability.ledger import BLOB, TAG, Ledger, check
from tests.durability.mounts import fill, read_only, resize, small_disk
from tests.support.oci import Document, Remote, digest_of, expect_error, expect_status, image, random_bytes
from tests.support.server import Server
from tests.support.wire import connect, head, receive

MEBIBYTE = 1024 * 1024
ZEROS = digest_of(bytes(2 * MEBIBYTE))
_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 16 MB."""
    with small_disk(tmp_path / "disk") as directory:
        yield directory


def push_remembered(remote: Remote, ledger: Ledger, tag: str, size: int = MEBIBYTE) -> Document:
    """Push an image and remember what was acknowledged."""
    data = random_bytes(size)
    config = remote.push_blob(random_bytes())
    layer = remote.push_blob(data)
    ledger.promise(BLOB, remote.name, layer["digest"], data)
    manifest = remote.push(image(config, [layer]), tag)
    ledger.promise(TAG, remote.name, tag, manifest.body)
    return manifest


def assert_whole(server: Server, ledger: Ledger) -> None:
    """Hold that what was acknowledged can be pulled, and is whole on the disk with nothing partial beside it."""
    for fact, content in ledger.promises().items():
        kind = "manifests" if fact.kind == TAG else "blobs"
        assert Remote(server.url, fact.repository).get(f"{kind}/{fact.name}").content == content, fact
    check(server.root, ledger.promises())
    assert not list(server.root.rglob(".tmp-*"))


def test_push_until_the_disk_is_full(make_server: MakeServer, disk: Path) -> None:
    """Blobs that no longer fit get 507; room made by a deletion is used without a restart."""
    server = make_server(root=disk / "data", workers=2)
    remote, ledger = Remote(server.url, "app"), Ledger()
    with pytest.raises(AssertionError, match="status 507"):
        for number in range(32):
            push_remembered(remote, ledger, str(number))
    assert len(ledger.promises()) > 8
    for monolithic in (True, False):
        answer = _push_zeros(remote, monolithic)
        [error] = expect_error(answer, 507, "UNSUPPORTED")
        assert "no space" in error["message"]
        assert remote.head(f"blobs/{ZEROS}").status_code == 404
    assert_whole(server, ledger)
    resize(disk, megabytes=32)
    push_remembered(remote, ledger, "after")
    assert_whole(server, ledger)


def _push_zeros(remote: Remote, monolithic: bool) -> requests.Response:
    """Push a blob in one request, or in a session that is given up when it fails."""
    data = bytes(2 * MEBIBYTE)
    if monolithic:
        return remote.post("blobs/uploads/", params={"digest": ZEROS}, data=data)
    location = remote.start_upload()
    answer = remote.patch(location, data=data)
    expect_status(remote.delete(location), 204)
    return answer


@pytest.mark.parametrize("leave", [0, 4096, 8192, 12288, 16384, 20480, 32768])
def test_full_at_the_manifest(make_server: MakeServer, disk: Path, leave: int) -> None:
    """Whichever of the manifest, its names and the index no longer fits, the repository stays as it was."""
    server = make_server(root=disk / "data", workers=2)
    remote, ledger = Remote(server.url, "app"), Ledger()
    push_remembered(remote, ledger, "before")
    manifest = remote.build_image(annotations={"padding": "x" * 9000})
    filler = fill(disk, leave)
    answer = remote.put_manifest(manifest, "new")
    if answer.status_code == 201:
        ledger.promise(TAG, remote.name, "new", manifest.body)
    else:
        expect_error(answer, 507, "UNSUPPORTED")
        assert remote.tags() == ["before"]
    assert leave or answer.status_code == 507
    assert_whole(server, ledger)
    expect_status(Remote(server.url, "other").post("blobs/uploads/"), 202, 507)
    filler.unlink()
    remote.push(manifest, "new")
    ledger.promise(TAG, remote.name, "new", manifest.body)
    assert_whole(server, ledger)


def test_read_only_disk(make_server: MakeServer, disk: Path) -> None:
    """Everything is served, every write is refused with 503, and writes work again once they may."""
    server = make_server(root=disk / "data", workers=2)
    remote, ledger = Remote(server.url, "app"), Ledger()
    push_remembered(remote, ledger, "before")
    prepared = remote.build_image()
    location = remote.start_upload()
    with read_only(server.root):
        for answer in _writes(remote, prepared, location):
            [error] = expect_error(answer, 503, "UNSUPPORTED")
            assert "read-only" in error["message"]
        assert_whole(server, ledger)
        server.restart()
        assert_whole(server, ledger)
        remote = Remote(server.url, "app")
        expect_error(remote.post("blobs/uploads/"), 503, "UNSUPPORTED")
    expect_status(remote.finish_upload(location, digest_of(b"x"), data=b"x"), 201)
    remote.push(prepared, "after")
    assert_whole(server, ledger)


def _writes(remote: Remote, prepared: Document, location: str) -> Iterator[requests.Response]:
    """Try one write of each kind."""
    yield remote.post("blobs/uploads/")
    yield remote.post("blobs/uploads/", params={"digest": digest_of(b"x")}, data=b"x")
    yield remote.patch(location, data=b"x")
    yield remote.put_manifest(prepared, "new")
    yield remote.put_manifest(prepared)
    yield remote.delete("manifests/before")
    yield remote.delete(f"blobs/{prepared.content['config']['digest']}")
    yield Remote(remote.url, "new/repository").post("blobs/uploads/")


def test_no_permission(tmp_path: Path) -> None:
    """Directories that the registry may not write to are read from, and refuse writes with 503, until they may."""
    server = Server(tmp_path / "data", workers=2)
    with ThreadPoolExecutor(1, initializer=_obey_permissions) as unprivileged, closing_server(server):
        unprivileged.submit(server.start).result()
        remote, ledger = Remote(server.url, "app"), Ledger()
        push_remembered(remote, ledger, "before")
        prepared, location = remote.build_image(), remote.start_upload()
        _permit(server.root, directories=0o555, files=0o444)
        for answer in _writes(remote, prepared, location):
            [error] = expect_error(answer, 503, "UNSUPPORTED")
            assert "permission" in error["message"]
        assert_whole(server, ledger)
        _permit(server.root, directories=0o755, files=0o644)
        remote.push(prepared, "after")
        assert_whole(server, ledger)


def test_directory_above_the_root_that_may_not_be_read(tmp_path: Path) -> None:
    """A service's data may lie below a directory that it can pass through and not list."""
    above = tmp_path / "above"
    (above / "data").mkdir(parents=True)
    server = Server(above / "data", workers=1)
    server.log, server.config_file = tmp_path / "log", tmp_path / "config.json"
    with ThreadPoolExecutor(1, initializer=_obey_permissions) as unprivileged, closing_server(server):
        above.chmod(0o311)
        unprivileged.submit(server.start).result()
        Remote(server.url, "app").push_image("1")


@contextmanager
def closing_server(server: Server) -> Iterator[None]:
    """Stop a server that something else starts."""
    try:
        yield
    finally:
        server.stop()


def _obey_permissions() -> None:
    """Let the processes that this thread starts obey file permissions though they are root's."""
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _permit(root: Path, directories: int, files: int) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(directories if path.is_dir() else files)


def test_too_many_open_files(make_server: MakeServer) -> None:
    """Uploads for which there is no descriptor get 503 and are told to try again; the others are not disturbed."""
    server = make_server(workers=1, limits={"RLIMIT_NOFILE": 96})
    remote, ledger = Remote(server.url, "app"), Ledger()
    push_remembered(remote, ledger, "before")
    blobs = [random_bytes(1000) for _ in range(55)]
    with ExitStack() as stack:
        uploads = [stack.enter_context(connect(server.host)) for _ in blobs]
        for upload, data in zip(uploads, blobs, strict=True):
            target = f"/v2/app/blobs/uploads/?digest={digest_of(data)}"
            upload.sendall(head("POST", target, f"Content-Length: {len(data)}") + data[:500])
        time.sleep(2)
        refused, _, _ = select.select(uploads, [], [], 0)
        assert 0 < len(refused) < len(blobs)
        for upload, data in zip(uploads, blobs, strict=True):
            if upload not in refused:
                upload.sendall(data[500:])
            answer = receive(upload)
            assert answer is not None
            if answer.status_code == 201:
                ledger.promise(BLOB, "app", digest_of(data), data)
            else:
                expect_error(answer, 503, "TOOMANYREQUESTS")
                assert int(answer.headers["Retry-After"]) > 0
    for data in blobs:
        remote.push_blob(data)
    remote.push_image("after")
    assert_whole(server, ledger)
