"""Equal blobs are one file on the disk, as far as file systems allow, and never at the price of content."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import MakeServer
from tests.durability.ledger import BLOB, Fact, check
from tests.durability.mounts import small_disk
from tests.support.oci import Remote, digest_of, expect_status, random_bytes
from tests.support.server import Server

COPIES = {"storage": {"dedupe": False}}


def blob(server: Server, repository: str, digest: str) -> Path:
    """Return the path of a blob."""
    return server.root / repository / "blobs" / digest.replace(":", "/")


def pooled(server: Server, digest: str) -> Path:
    """Return the path of the pool's link to a blob."""
    algorithm, encoded = digest.split(":")
    return server.root / ".pierhead/pool" / algorithm / encoded[:2] / encoded


def inodes(server: Server, digest: str, *repositories: str) -> list[int]:
    """Return the inode numbers of the repositories' files."""
    return [blob(server, repository, digest).stat().st_ino for repository in repositories]


def assert_content(server: Server, data: bytes, *repositories: str) -> None:
    """Hold that the repositories have the blob, on the disk and over HTTP."""
    digest = digest_of(data)
    for repository in repositories:
        assert Remote(server.url, repository).get(f"blobs/{digest}").content == data
    check(server.root, {Fact(BLOB, repository, digest): data for repository in repositories})


def test_ten_repositories_share_one_file(make_server: MakeServer) -> None:
    """Pushed, monolithic, mounted from a repository or from anywhere: one inode, whose links are counted."""
    server, data = make_server(workers=2), random_bytes(100_000)
    digest, names = digest_of(data), [f"team/r{number}" for number in range(10)]
    for number, name in enumerate(names):
        remote = Remote(server.url, name)
        source = {"from": names[0]} if number % 2 else {}
        query = {"mount": digest, **source} if number > 4 else {"digest": digest}
        expect_status(remote.post("blobs/uploads/", params=query, data=b"" if number > 4 else data), 201)
    assert set(inodes(server, digest, *names)) == {pooled(server, digest).stat().st_ino}
    assert pooled(server, digest).stat().st_nlink == 11
    assert_content(server, data, *names)
    for name in names:
        expect_status(Remote(server.url, name).delete(f"blobs/{digest}"), 202)
    assert not pooled(server, digest).exists()


def test_repository_on_another_file_system(make_server: MakeServer, tmp_path: Path) -> None:
    """Where a repository's directory is a mount point no link leads: it gets a copy, and the others go on sharing."""
    root = tmp_path / "data"
    with small_disk(root / "far"):
        server, data = make_server(root=root, workers=2), random_bytes(100_000)
        digest = digest_of(data)
        Remote(server.url, "one").push_blob(data)
        Remote(server.url, "far/pushed").push_blob(data)
        query = {"mount": digest, "from": "one"}
        expect_status(Remote(server.url, "far/mounted").post("blobs/uploads/", params=query), 201)
        expect_status(Remote(server.url, "two").post("blobs/uploads/", params=query | {"from": "far/pushed"}), 201)
        Remote(server.url, "three").push_blob(data)
        assert_content(server, data, "one", "two", "three", "far/pushed", "far/mounted")
        assert blob(server, "far/pushed", digest).stat().st_dev != blob(server, "one", digest).stat().st_dev
        assert len(set(inodes(server, digest, "one", "three"))) == 1
        Remote(server.url, "far/pushed").push_image("1")
        server.kill()


def test_pool_copy_of_the_wrong_size_is_replaced(make_server: MakeServer) -> None:
    """A damaged pool copy is never linked; the next push takes its place."""
    server, data = make_server(), random_bytes(100_000)
    digest = digest_of(data)
    Remote(server.url, "one").push_blob(data)
    pooled(server, digest).unlink()
    pooled(server, digest).write_bytes(data[:500])
    for name in ("two", "three"):
        Remote(server.url, name).push_blob(data)
    assert_content(server, data, "one", "two", "three")
    assert inodes(server, digest, "two", "three") == [pooled(server, digest).stat().st_ino] * 2


def test_blob_of_the_wrong_size_is_healed(make_server: MakeServer) -> None:
    """Who pushes a blob again repairs a file that was cut short, and all links made from then on."""
    server, data = make_server(), random_bytes(100_000)
    digest = digest_of(data)
    for name in ("one", "two"):
        Remote(server.url, name).push_blob(data)
    os.truncate(blob(server, "one", digest), 500)
    for name in ("one", "two", "three"):
        Remote(server.url, name).push_blob(data)
    assert_content(server, data, "one", "two", "three")
    assert len(set(inodes(server, digest, "one", "two", "three"))) == 1


def test_mount_from_a_damaged_source_harms_nobody(make_server: MakeServer) -> None:
    """A repository that has the blob whole keeps it, whatever it is told to mount."""
    server, data = make_server(config=COPIES), random_bytes(100_000)
    digest = digest_of(data)
    for name in ("damaged", "whole"):
        Remote(server.url, name).push_blob(data)
    os.truncate(blob(server, "damaged", digest), 500)
    query = {"mount": digest, "from": "damaged"}
    expect_status(Remote(server.url, "whole").post("blobs/uploads/", params=query), 201, 202)
    assert Remote(server.url, "whole").get(f"blobs/{digest}").content == data


def test_without_dedupe_everybody_has_a_copy(make_server: MakeServer) -> None:
    """`storage.dedupe: false` keeps repositories apart, mounts included."""
    server, data = make_server(config=COPIES), random_bytes(100_000)
    digest = digest_of(data)
    for name in ("one", "two"):
        Remote(server.url, name).push_blob(data)
    expect_status(Remote(server.url, "three").post("blobs/uploads/", params={"mount": digest, "from": "one"}), 201)
    assert len(set(inodes(server, digest, "one", "two", "three"))) == 3
    assert not pooled(server, digest).exists()
    assert_content(server, data, "one", "two", "three")


def test_dedupe_switched_on_and_off(make_server: MakeServer, tmp_path: Path) -> None:
    """A root works with either setting, whatever it was before; nothing is lost and nothing is rewritten."""
    old, new = random_bytes(100_000), random_bytes(100_000)
    names: list[str] = []
    for number, dedupe in enumerate((False, True, False, True)):
        server = make_server(root=tmp_path / "data", config={"storage": {"dedupe": dedupe}})
        for suffix in "ab":
            names.append(f"r{number}{suffix}")
            Remote(server.url, names[-1]).push_blob(old)
            Remote(server.url, names[-1]).push_blob(new)
            Remote(server.url, names[-1]).push_image("1")
        assert len(set(inodes(server, digest_of(old), *names[-2:]))) == (1 if dedupe else 2)
        assert_content(server, old, *names)
        assert_content(server, new, *names)
        server.stop()
    assert len(set(inodes(server, digest_of(old), *names))) == 5
