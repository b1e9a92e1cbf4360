"""Many clients at once over several processes: nothing acknowledged is lost, nothing is stored or hashed twice."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import MakeServer
from tests.durability.ledger import BLOB, Fact, check
from tests.support.oci import Remote, digest_of, expect_status, random_bytes

MEBIBYTE = 1024 * 1024


def test_a_thousand_tags_from_sixteen_clients(make_server: MakeServer) -> None:
    """No acknowledged tag is lost to writers of the same repository in other processes."""
    server = make_server(workers=4)
    manifests = [Remote(server.url, "shared").build_image() for _ in range(16)]

    def push(client: int) -> list[str]:
        remote = Remote(server.url, "shared")
        tags = [f"c{client:02}-{number:03}" for number in range(client, 1000, 16)]
        for tag in tags:
            remote.push(manifests[client], tag)
        return tags

    with ThreadPoolExecutor(16) as pool:
        pushed = list(pool.map(push, range(16)))
    remote = Remote(server.url, "shared")
    assert remote.tags() == sorted(tag for tags in pushed for tag in tags)
    assert sum(len(tags) for tags in pushed) == 1000
    for client, tags in enumerate(pushed):
        for tag in tags:
            assert remote.get(f"manifests/{tag}").content == manifests[client].body


@pytest.mark.parametrize("repositories", [1, 12])
def test_one_blob_from_twelve_clients(make_server: MakeServer, repositories: int) -> None:
    """All pushes succeed, and the blob lies on the disk once: every name is a link to one inode."""
    server = make_server(workers=4)
    for _ in range(5):
        data = random_bytes(2 * MEBIBYTE)
        digest = digest_of(data)
        ready = threading.Barrier(12)

        def push(client: int, data: bytes = data, ready: threading.Barrier = ready) -> None:
            remote = Remote(server.url, f"team/{client % repositories}")
            location = remote.start_upload()
            ready.wait()
            expect_status(remote.finish_upload(location, digest_of(data), data=data), 201)

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(push, range(12)))
        files = list(server.root.rglob(digest.removeprefix("sha256:")))
        assert len(files) == repositories + 1
        assert len({file.stat().st_ino for file in files}) == 1
        check(server.root, {Fact(BLOB, "team/0", digest): data})


# A process of its own that serves chunks of one session: "append <start>" or "commit" a line, and the count of bytes
# hashed as the answer. The content is zeros.
_PROCESS = """
import io, sys
from storage import uploads
from storage.digest import Digest
from storage.local import LocalBackend

hashed = 0

class Counting:
    def __init__(self, algorithm):
        self.hasher = original(algorithm)

    def update(self, data):
        global hashed
        hashed += len(data)
        self.hasher.update(data)

    def hexdigest(self):
        return self.hasher.hexdigest()

original, uploads.new_hasher = uploads.new_hasher, Counting
backend = LocalBackend(sys.argv[1])
chunk = bytes(1024 * 1024)
for line in sys.stdin:
    command, session, argument = line.split()
    if command == "append":
        backend.append_upload("big", session, io.BytesIO(chunk), int(argument))
    elif command == "begin":
        session = backend.begin_upload("big", "sha256")
    else:
        backend.commit_upload("big", session, Digest(argument), io.BytesIO())
    print(session, hashed, flush=True)
"""


class _Process:
    """One of several workers on the same root."""

    def __init__(self, root: Path) -> None:
        """Start it."""
        command = [sys.executable, "-c", _PROCESS, str(root)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hashed = 0

    def do(self, command: str, session: str = "-", argument: object = "-") -> str:
        """Carry out a command; return the session."""
        assert self._process.stdin
        assert self._process.stdout
        print(command, session, argument, file=self._process.stdin, flush=True)
        session, hashed = self._process.stdout.readline().split()
        self.hashed = int(hashed)
        return session

    def end(self) -> None:
        """End it."""
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[_Process]]:
    """Give two workers on the same root."""
    pair = [_Process(tmp_path / "root") for _ in range(2)]
    yield pair
    for process in pair:
        process.end()


@pytest.mark.parametrize("turn", [1, 100], ids=["alternating", "in runs"])
def test_no_byte_is_hashed_more_than_twice(processes: list[_Process], tmp_path: Path, turn: int) -> None:
    """1 GB in chunks of 1 MB over two workers: hash state cannot leave a process, but the work stays bounded."""
    count = 1024
    whole = hashlib.sha256()
    for _ in range(count):
        whole.update(bytes(MEBIBYTE))
    session = processes[0].do("begin")
    for number in range(count):
        processes[number // turn % 2].do("append", session, number * MEBIBYTE)
    processes[1].do("commit", session, f"sha256:{whole.hexdigest()}")
    assert count * MEBIBYTE <= sum(process.hashed for process in processes) <= 2 * count * MEBIBYTE
    assert (tmp_path / "root/big/blobs/sha256" / whole.hexdigest()).stat().st_size == count * MEBIBYTE


def test_upload_in_one_process_is_hashed_once(processes: list[_Process]) -> None:
    """A worker hashes only bytes that it has not hashed yet."""
    session = processes[0].do("begin")
    for number in range(8):
        processes[0].do("append", session, number * MEBIBYTE)
    processes[0].do("commit", session, digest_of(bytes(8 * MEBIBYTE)))
    assert processes[0].hashed == 8 * MEBIBYTE


def test_upload_that_came_whole_is_hashed_once_whoever_commits_it(processes: list[_Process]) -> None:
    """The digest of a body that one request carried lies beside the session."""
    session = processes[0].do("begin")
    processes[0].do("append", session, 0)
    processes[1].do("commit", session, digest_of(bytes(MEBIBYTE)))
    assert [process.hashed for process in processes] == [MEBIBYTE, 0]


def test_two_writers_cannot_corrupt_a_session(make_server: MakeServer, repository: str) -> None:
    """Of writers that race with the same offset one wins; the others are told where the session stands."""
    server = make_server(workers=4)
    parts = [random_bytes(MEBIBYTE) for _ in range(6)]
    location = Remote(server.url, repository).start_upload()

    def push(_client: int) -> int:
        remote = Remote(server.url, repository)
        won = 0
        for number, part in enumerate(parts):
            start = number * MEBIBYTE
            headers = {"Content-Range": f"{start}-{start + MEBIBYTE - 1}"}
            answer = remote.patch(location, data=part, headers=headers)
            while answer.status_code == 416 and _state(remote, location) <= start:  # the winner is still writing
                answer = remote.patch(location, data=part, headers=headers)
            expect_status(answer, 202, 416)
            won += answer.status_code == 202
        return won

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(push, range(4))) == len(parts)
    remote, data = Remote(server.url, repository), b"".join(parts)
    expect_status(remote.finish_upload(location, digest_of(data)), 201)
    assert remote.get(f"blobs/{digest_of(data)}").content == data


def _state(remote: Remote, location: str) -> int:
    last = int(remote.get(location).headers["Range"].removeprefix("0-"))
    return last + 1 if last else 0


def test_two_commits_of_one_session(make_server: MakeServer, repository: str) -> None:
    """Of requests that race to finish a session one succeeds, and the blob is whole."""
    server = make_server(workers=4)
    for _ in range(10):
        data = random_bytes(100_000)
        location = Remote(server.url, repository).start_upload()

        def finish(_client: int, location: str = location, data: bytes = data) -> int:
            return Remote(server.url, repository).finish_upload(location, digest_of(data), data=data).status_code

        with ThreadPoolExecutor(4) as pool:
            statuses = sorted(pool.map(finish, range(4)))
        assert statuses[0] == 201
        assert set(statuses[1:]) <= {400, 404, 416}, statuses
        assert Remote(server.url, repository).get(f"blobs/{digest_of(data)}").content == data
