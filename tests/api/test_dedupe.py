"""Dedupe on disk: one inode for a blob, however many repositories have it."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import MakeServer
from tests.support.oci import Remote, digest_of, expect_status, random_bytes
from tests.support.server import Server


def blob_file(root: Path, name: str, digest: str) -> Path:
    """Return where a repository's blob lies on the disk."""
    algorithm, encoded = digest.split(":")
    return root / name / "blobs" / algorithm / encoded


def test_blob_in_ten_repositories_lies_on_the_disk_once(server: Server, repository: str) -> None:
    """Ten pushes, one inode; the content is the blob's, in each repository."""
    data = random_bytes(100_000)
    digest = digest_of(data)
    remotes = [Remote(server.url, f"{repository}/{number}") for number in range(10)]
    for remote in remotes:
        remote.push_blob(data)
    files = [blob_file(server.root, remote.name, digest) for remote in remotes]
    assert len({(file.stat().st_dev, file.stat().st_ino) for file in files}) == 1
    assert files[0].stat().st_nlink >= 10
    for remote, file in zip(remotes, files, strict=True):
        assert file.read_bytes() == data
        assert remote.get(f"blobs/{digest}").content == data


def test_deleting_one_link_leaves_the_others(server: Server, repository: str) -> None:
    """A repository's blob is its own, even if its inode is shared."""
    data = random_bytes()
    digest = digest_of(data)
    remotes = [Remote(server.url, f"{repository}/{number}") for number in range(3)]
    for remote in remotes:
        remote.push_blob(data)
    expect_status(remotes[0].delete(f"blobs/{digest}"), 202)
    assert not blob_file(server.root, remotes[0].name, digest).exists()
    assert [remote.get(f"blobs/{digest}").content for remote in remotes[1:]] == [data, data]
    remotes[0].push_blob(data)
    assert blob_file(server.root, remotes[0].name, digest).samefile(blob_file(server.root, remotes[1].name, digest))


def test_algorithms_do_not_share(server: Server, remote: Remote) -> None:
    """The same content by two digests is two blobs, each whole."""
    data = random_bytes()
    for algorithm in ("sha256", "sha512"):
        digest = remote.push_blob(data, algorithm=algorithm)["digest"]
        assert blob_file(server.root, remote.name, digest).read_bytes() == data


def test_dedupe_can_be_switched_off_for_each_substore(make_server: MakeServer, tmp_path: Path) -> None:
    """`storage.dedupe` is a setting of each substore: links here, copies there."""
    linked, copied = tmp_path / "linked", tmp_path / "copied"
    paths = {"/linked": {"rootDirectory": str(linked)}, "/copied": {"rootDirectory": str(copied), "dedupe": False}}
    server = make_server(config={"storage": {"subPaths": paths}})
    data = random_bytes()
    digest = digest_of(data)
    inodes = {}
    for place, root in (("linked", linked), ("copied", copied)):
        names = [f"{place}/{number}" for number in range(3)]
        for name in names:
            Remote(server.url, name).push_blob(data)
        inodes[place] = {blob_file(root, name, digest).stat().st_ino for name in names}
    assert len(inodes["linked"]) == 1
    assert len(inodes["copied"]) == 3


def test_switching_dedupe_on_and_off_loses_nothing(make_server: MakeServer, tmp_path: Path) -> None:
    """What was stored with one setting is served with the other, and later pushes follow the new one."""
    data = random_bytes()
    digest = digest_of(data)
    root = tmp_path / "root"
    for number, dedupe in enumerate([False, True, False]):
        server = make_server(root=root, config={"storage": {"dedupe": dedupe}})
        Remote(server.url, f"r{number}/a").push_blob(data)
        Remote(server.url, f"r{number}/b").push_blob(data)
        for before in range(number + 1):
            assert Remote(server.url, f"r{before}/b").get(f"blobs/{digest}").content == data
        server.stop()
        files = [blob_file(root, f"r{number}/{letter}", digest) for letter in "ab"]
        assert files[0].samefile(files[1]) == dedupe


def test_corrupted_link_is_not_spread(server: Server, repository: str) -> None:
    """A commit links the shared copy only if its size is right: a truncated one does not reach new repositories."""
    data = random_bytes(10_000)
    digest = digest_of(data)
    Remote(server.url, f"{repository}/old").push_blob(data)
    blob_file(server.root, f"{repository}/old", digest).open("r+b").truncate(5)
    fresh = Remote(server.url, f"{repository}/new")
    fresh.push_blob(data)
    assert fresh.get(f"blobs/{digest}").content == data
