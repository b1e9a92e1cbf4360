"""The scheduled collection: it runs in the server, in one worker at a time, and goes on when that one dies."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from registry.schedule import State, do_alone
from storage import locks
from tests.support.oci import Remote, digest_of, expect_status, random_bytes
from tests.support.server import Server, children

_STORAGE = {"gcDelay": "1s", "gcInterval": "1s", "undo": "0"}
_PATIENCE = 60


def wait_for(what: Callable[[], object]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + _PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.1)


def has(root: Path, digest: str) -> bool:
    """Tell whether a blob is anywhere in a store, from which directories vanish meanwhile."""
    return any(digest.partition(":")[2] in files for _, _, files in os.walk(root))


def test_garbage_goes_while_the_server_serves(tmp_path: Path) -> None:
    with Server(tmp_path / "data", config={"storage": _STORAGE}, workers=2) as server:
        client = Remote(server.url, "team/app")
        kept, secret = client.push_image("kept"), client.push_image("secret")
        expect_status(client.delete(f"manifests/{secret.digest}"), 202)
        layer = secret.content["layers"][0]["digest"]
        wait_for(lambda: not has(tmp_path / "data", layer))
        for part in (kept.content["config"], *kept.content["layers"]):
            expect_status(client.get(f"blobs/{part['digest']}"), 200)
        assert client.get("manifests/kept").content == kept.body
        garbage = random_bytes()
        client.push_blob(garbage)
        # A worker that is killed leaves the schedule to the others.
        os.kill(children(server.pid)[0], signal.SIGKILL)
        wait_for(lambda: not has(tmp_path / "data", digest_of(garbage)))
    journal = [json.loads(line) for line in (tmp_path / "data/.pierhead/gc/journal").read_text().splitlines()]
    assert {line["action"] for line in journal} >= {"binned", "unlinked"}
    assert len({(line["what"], line["action"], line["time"]) for line in journal}) == len(journal)


def test_each_store_has_its_own_schedule(tmp_path: Path) -> None:
    """The default store collects nothing; the substore does."""
    sub = {"/sub": {"rootDirectory": str(tmp_path / "sub"), **_STORAGE}}
    config = {"storage": {"gc": False, "gcDelay": "1s", "gcInterval": "1s", "subPaths": sub}}
    with Server(tmp_path / "data", config=config) as server:
        data = random_bytes()
        for repository in ("app", "sub/app"):
            Remote(server.url, repository).push_blob(data)
        wait_for(lambda: not has(tmp_path / "sub", digest_of(data)))
        assert has(tmp_path / "data", digest_of(data))


def test_one_at_a_time(tmp_path: Path) -> None:
    """While somebody holds the lock nobody else does the work, and what was just done is not done again."""
    directory = str(tmp_path)
    runs: list[float] = []

    def work() -> None:
        runs.append(time.time())

    with locks.exclusive(f"{directory}/lock"):
        do_alone(work, directory, 3600)
    assert not runs
    do_alone(work, directory, 3600)
    assert len(runs) == 1
    State(directory).save()
    do_alone(work, directory, 3600)
    assert len(runs) == 1
