"""Substores: which root a repository lies under, by the longest prefix on component boundaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.oci import Remote, digest_of, expect_error, expect_status, random_bytes
from tests.support.server import Server

ROUTES = {
    "a": "a",
    "a/b": "a-b",
    "a/b/c": "a-b",
    "a/bc": "a",
    "a/c/b": "a",
    "ab": "default",
    "ab/a": "default",
    "b": "default",
    "b/a/b": "default",
    "x/y/z": "x-y-z",
    "x/y": "default",
    "x/y/zz": "default",
}


@dataclass(frozen=True)
class Stores:
    """Hold a server with substores, and their roots by nickname."""

    server: Server
    roots: dict[str, Path]

    def remote(self, name: str) -> Remote:
        """Return a client of one repository."""
        return Remote(self.server.url, name)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """Serve substores `/a`, `/a/b` and `/x/y/z` beside the default one, with two workers."""
    base = tmp_path_factory.mktemp("stores")
    roots = {nickname: base / nickname for nickname in ("default", "a", "a-b", "x-y-z")}
    paths = {f"/{name.replace('-', '/')}": {"rootDirectory": str(roots[name])} for name in ("a", "a-b", "x-y-z")}
    with Server(roots["default"], config={"storage": {"subPaths": paths}}, workers=2) as server:
        yield Stores(server, roots)


@pytest.mark.parametrize(("name", "nickname"), ROUTES.items())
def test_repository_lies_under_its_own_root_with_its_full_name(stores: Stores, name: str, nickname: str) -> None:
    """`/a` matches `a` and `a/b`, not `ab`; `/a/b` beats `/a`; the full name stays on the disk."""
    manifest = stores.remote(name).push_image("1")
    algorithm, encoded = manifest.digest.split(":")
    for candidate, root in stores.roots.items():
        there = (root / name / "blobs" / algorithm / encoded).exists()
        assert there == (candidate == nickname), candidate
    assert (stores.roots[nickname] / name / "index.json").is_file()
    assert stores.remote(name).get("manifests/1").content == manifest.body


def test_repositories_of_all_substores_work_alike(stores: Stores) -> None:
    """Pull, list, delete and sessions go to the same root as the push."""
    for name in ("a/life", "a/b/life", "life", "x/y/z/life"):
        remote = stores.remote(name)
        data = random_bytes()
        location = remote.patch(remote.start_upload(), data=data[:10]).headers["Location"]
        expect_status(remote.finish_upload(location, digest_of(data), data=data[10:]), 201)
        manifest = remote.push_image("1")
        assert remote.tags() == ["1"]
        expect_status(remote.delete(f"manifests/{manifest.digest}"), 202)
        assert remote.tags() == []
        expect_status(remote.delete(f"blobs/{digest_of(data)}"), 202)


def test_mount_without_from_stays_in_the_substore(stores: Stores) -> None:
    """Without `from`, what some repository of the substore holds is mounted; another substore's is not looked for."""
    data = random_bytes()
    digest = stores.remote("a/source").push_blob(data)["digest"]
    expect_status(stores.remote("a/target").post("blobs/uploads/", params={"mount": digest}), 201)
    assert stores.remote("a/target").get(f"blobs/{digest}").content == data
    expect_status(stores.remote("other/target").post("blobs/uploads/", params={"mount": digest}), 202)
    expect_error(stores.remote("other/target").get(f"blobs/{digest}"), 404)


def test_mount_between_substores_works_or_opens_a_session(stores: Stores) -> None:
    """Spec "Mounting a blob from another repository": 201 with the blob there, or 202 and a usable session."""
    data = random_bytes()
    digest = stores.remote("a/from").push_blob(data)["digest"]
    target = stores.remote("into/other")
    answer = target.post("blobs/uploads/", params={"mount": digest, "from": "a/from"})
    expect_status(answer, 201, 202)
    if answer.status_code == 202:
        expect_status(target.finish_upload(answer.headers["Location"], digest, data=data), 201)
    assert target.get(f"blobs/{digest}").content == data
