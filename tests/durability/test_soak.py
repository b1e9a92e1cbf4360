"""The soak: everything at once, for a minute here and for ten by `make soak`: nothing is lost, and nothing grows.

Clients push, pull, list and delete; the server collects, and so does a command; now and then a worker is killed.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import requests

from tests.durability.ledger import TAG, Ledger, check
from tests.durability.test_gc_races import check_whole, garbage
from tests.support.oci import (
    OCI_CONFIG,
    OCI_LAYER,
    TIMEOUT,
    Document,
    Remote,
    descriptor_of,
    digest_of,
    expect_status,
    image,
)
from tests.support.server import Server

log = logging.getLogger(__name__)

SECONDS = float(os.environ.get("PIERHEAD_SOAK_SECONDS", "60"))
_CLIENTS = 4
_SHARED = ("app", "app/nested", "other")
_STORAGE = {"gcDelay": "1s", "gcInterval": "1s", "undo": "0"}
_KEPT = 40  #: tags that a client keeps in its own repository: it moves them, and remembers where to
_BETWEEN_KILLS = 7.0
#: What memory may come to in the last quarter, as a share of the one before. In the first minutes caches fill.
_GROWTH = 1.25 if SECONDS < 300 else 1.1


class Client:
    """Somebody who does it all, as docker does: only what is not there is uploaded."""

    def __init__(self, url: str, number: int, end: float, ledger: Ledger) -> None:
        self.url, self.number, self.chance, self.end = url, number, random.Random(number), end
        self.ledger = ledger
        self.done: Counter[str] = Counter()
        self.fault: BaseException | None = None

    def run(self) -> None:
        actions = (self.push, self.push, self.keep, self.keep, self.pull, self.pull, self.listing, self.delete)
        try:
            while time.monotonic() < self.end:
                action = self.chance.choice(actions)
                try:
                    action(Remote(self.url, self.chance.choice(_SHARED)))
                except requests.ConnectionError:  # a worker was killed
                    self.done["broken"] += 1
                else:
                    self.done[action.__name__] += 1
        except BaseException as fault:
            self.fault = fault

    def push(self, remote: Remote) -> None:
        """Push an image that others push too, perhaps so slowly that its blobs are collected meanwhile."""
        number = self.chance.randrange(500)
        config = b'{"n":%d}' % number
        layers = [b"layer %d" % (number % 7), b"layer %d" % number * 500]
        manifest = image(descriptor_of(config, OCI_CONFIG), [descriptor_of(layer, OCI_LAYER) for layer in layers])
        self.push_image(remote, (config, *layers), manifest, f"t{self.chance.randrange(20)}")

    def push_image(self, remote: Remote, parts: tuple[bytes, ...], manifest: Document, tag: str) -> None:
        for _ in range(10):
            for part in parts:
                self.upload(remote, part)
            time.sleep(self.chance.choice([0, 0, 0, 0, 0, 1.5]))
            answer = remote.put_manifest(manifest, tag)
            expect_status(answer, 201, 400)
            if answer.status_code == 201:
                return
            assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"  # it took too long: push it again
        raise AssertionError("a push never came to its end")

    def upload(self, remote: Remote, data: bytes) -> None:
        found = remote.head(f"blobs/{digest_of(data)}")
        expect_status(found, 200, 404)
        if found.status_code == 404:
            session = remote.start_upload()
            expect_status(remote.finish_upload(session, digest_of(data), data=data), 201)

    def keep(self, _: Remote) -> None:
        """Push an image to a repository of one's own, remember what was acknowledged, and delete the one before."""
        remote = Remote(self.url, f"kept/{self.number}")
        tag, layer = f"k{self.chance.randrange(_KEPT)}", self.chance.randbytes(20_000)
        manifest = image(descriptor_of(b"{}", OCI_CONFIG), [descriptor_of(layer, OCI_LAYER)])
        before = remote.head(f"manifests/{tag}")
        self.ledger.doubt(TAG, remote.name, tag)
        self.push_image(remote, (b"{}", layer), manifest, tag)
        self.ledger.promise(TAG, remote.name, tag, manifest.body)
        if before.status_code == 200:
            expect_status(remote.delete(f"manifests/{before.headers['Docker-Content-Digest']}"), 202)

    def pull(self, remote: Remote) -> None:
        """Pull whatever there is, whole, or something that was kept, which has to be there."""
        kept = [fact for fact in self.ledger.promises().items() if fact[0].repository == f"kept/{self.number}"]
        if kept and self.chance.random() < 0.5:
            fact, content = self.chance.choice(kept)
            answer = Remote(self.url, fact.repository).get(f"manifests/{fact.name}")
            assert answer.content == content, fact
            remote = Remote(self.url, fact.repository)
        else:
            answer = remote.get(f"manifests/t{self.chance.randrange(20)}")
            expect_status(answer, 200, 404)
        if answer.status_code == 200:
            for layer in answer.json()["layers"]:
                blob = remote.get(f"blobs/{layer['digest']}")
                expect_status(blob, 200, 404)  # another client may have deleted or replaced the image just now
                assert blob.status_code == 404 or digest_of(blob.content) == layer["digest"]

    def listing(self, remote: Remote) -> None:
        expect_status(remote.get("tags/list"), 200, 404)
        expect_status(requests.get(f"{self.url}/v2/_catalog?n=2", timeout=TIMEOUT), 200)

    def delete(self, remote: Remote) -> None:
        found = remote.head(f"manifests/t{self.chance.randrange(20)}")
        expect_status(found, 200, 404)
        if found.status_code == 200:
            expect_status(remote.delete(f"manifests/{found.headers['Docker-Content-Digest']}"), 202, 404)


class Watch:
    """What the server's processes have taken, from time to time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.memory: list[int] = []
        self.descriptors: list[int] = []

    def look(self) -> None:
        """Take a sample; one in which a process ends meanwhile is none."""
        pids = [self.server.pid, *self.server.worker_pids()]
        try:
            samples = [(_pss(pid), len(os.listdir(f"/proc/{pid}/fd"))) for pid in pids]
        except (OSError, StopIteration):
            return
        if len(samples) == self.server.workers + 1:
            self.memory.append(sum(memory for memory, _ in samples))
            self.descriptors.append(sum(descriptors for _, descriptors in samples))

    def growth(self) -> float:
        """Return the most memory of the last quarter as a share of the most of the one before."""
        quarter = len(self.memory) // 4
        return max(self.memory[-quarter:]) / max(self.memory[-2 * quarter : -quarter])


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def test_everything_at_once(tmp_path: Path) -> None:
    root, config = tmp_path / "data", tmp_path / "config.json"
    config.write_text(json.dumps({"storage": {"rootDirectory": str(root), **_STORAGE}}))
    collect = [sys.executable, "-c", "from registry.cli import main; main()", "gc", "--config", str(config)]
    ledger = Ledger()
    with Server(root, config={"storage": _STORAGE}, workers=2) as server:
        watch, at_rest = Watch(server), Watch(server)
        at_rest.look()
        end = time.monotonic() + SECONDS
        clients = [Client(server.url, number, end, ledger) for number in range(_CLIENTS)]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        # Not in the second half: a new worker would hide what an old one does not give back.
        kills, last_kill, next_kill = 0, end - SECONDS / 2, time.monotonic() + _BETWEEN_KILLS
        while time.monotonic() < end:
            done = subprocess.run(collect, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            time.sleep(0.5)
            watch.look()
            if next_kill < time.monotonic() < last_kill:
                os.kill(random.choice(server.worker_pids()), signal.SIGKILL)
                kills, next_kill = kills + 1, time.monotonic() + _BETWEEN_KILLS
        for thread in threads:
            thread.join()
        assert [client.fault for client in clients] == [None] * _CLIENTS
        done_by_all = sum((client.done for client in clients), Counter[str]())
        shown = [kilobytes // 1000 for kilobytes in watch.memory[:: max(1, len(watch.memory) // 10)]]
        log.info("%.0f s: %s; %s workers killed; MB: %s", SECONDS, dict(done_by_all), kills, shown)
        assert all(done_by_all[name] > SECONDS / 10 for name in ("push", "keep", "pull", "listing", "delete"))
        assert kills >= SECONDS // _BETWEEN_KILLS // 3
        assert len(ledger.promises()) > _KEPT
        check(root, ledger.promises())
        names = [*_SHARED, *(f"kept/{number}" for number in range(_CLIENTS))]
        lists = [requests.get(f"{server.url}/v2/{name}/tags/list", timeout=TIMEOUT).json() for name in names]
        deadline = time.monotonic() + 60
        while left := garbage(root):
            assert time.monotonic() < deadline, left
            time.sleep(0.5)
        assert check_whole(root) == sum(len(answer["tags"]) for answer in lists)
        assert watch.growth() < _GROWTH, watch.memory
        while True:  # the connections of clients that are gone are closed in a moment
            at_rest.look()
            if at_rest.descriptors[-1] <= at_rest.descriptors[0] + 8:
                break
            assert time.monotonic() < deadline, at_rest.descriptors
            time.sleep(0.5)
    assert " 500 " not in server.log_tail()
    assert "Traceback" not in server.log.read_text()
