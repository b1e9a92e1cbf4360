"""For a minute clients push and delete while the server collects, and so does a command: nothing is damaged."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import requests

from tests.durability.test_gc_races import check_whole, garbage
from tests.support.oci import OCI_CONFIG, OCI_LAYER, Remote, descriptor_of, digest_of, expect_status, image
from tests.support.server import Server

_SECONDS = 60.0
_NAMES = ("app", "app/nested", "other")
_STORAGE = {"gcDelay": "1s", "gcInterval": "1s", "undo": "0"}


class Client:
    """Somebody who pushes, moves and deletes tags, as docker does: only what is not there is uploaded."""

    def __init__(self, url: str, seed: int, end: float) -> None:
        self.url, self.chance, self.end = url, random.Random(seed), end
        self.pushed, self.again = 0, 0
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while time.monotonic() < self.end:
                self.step(Remote(self.url, self.chance.choice(_NAMES)))
        except BaseException as fault:
            self.fault = fault

    def step(self, remote: Remote) -> None:
        tag = f"t{self.chance.randrange(20)}"
        if self.chance.random() < 0.3:
            found = remote.head(f"manifests/{tag}")
            expect_status(found, 200, 404)
            if found.status_code == 200:
                expect_status(remote.delete(f"manifests/{found.headers['Docker-Content-Digest']}"), 202, 404)
            return
        number = self.chance.randrange(500)
        config = b'{"n":%d}' % number
        layers = [b"layer %d" % (number % 7), b"layer %d" % number * 500]
        manifest = image(descriptor_of(config, OCI_CONFIG), [descriptor_of(layer, OCI_LAYER) for layer in layers])
        for _ in range(10):
            for part in (config, *layers):
                self.upload(remote, part)
            time.sleep(self.chance.choice([0, 0, 0, 1.5, 3]))
            answer = remote.put_manifest(manifest, tag)
            expect_status(answer, 201, 400)
            if answer.status_code == 201:
                self.pushed += 1
                return
            assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"  # it took too long: push it again
            self.again += 1
        raise AssertionError("a push never came to its end")

    def upload(self, remote: Remote, data: bytes) -> None:
        found = remote.head(f"blobs/{digest_of(data)}")
        expect_status(found, 200, 404)
        if found.status_code == 404:
            session = remote.start_upload()
            expect_status(remote.finish_upload(session, digest_of(data), data=data), 201)


def test_a_minute_of_pushes_deletions_and_collections(tmp_path: Path) -> None:
    root, config = tmp_path / "data", tmp_path / "config.json"
    config.write_text(json.dumps({"storage": {"rootDirectory": str(root), **_STORAGE}}))
    command = [sys.executable, "-c", "from registry.cli import main; main()", "gc", "--config", str(config)]
    with Server(root, config={"storage": _STORAGE}, workers=2) as server:
        end = time.monotonic() + _SECONDS
        clients = [Client(server.url, seed, end) for seed in range(4)]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            time.sleep(0.5)
        for thread in threads:
            thread.join()
        assert [client.fault for client in clients] == [None] * 4
        assert sum(client.pushed for client in clients) > 20
        tags = {name: requests.get(f"{server.url}/v2/{name}/tags/list", timeout=60).json()["tags"] for name in _NAMES}
        assert any(tags.values())
        assert check_whole(root) == sum(map(len, tags.values()))
        deadline = time.monotonic() + 60
        while left := garbage(root):
            assert time.monotonic() < deadline, left
            time.sleep(0.5)
        assert check_whole(root) == sum(map(len, tags.values()))
    assert " 500 " not in server.log_tail()
