"""Imports that are killed, and imports beside a server that is pushed to and collects its garbage."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.clients.support.images import Layout
from tests.conftest import MakeServer
from tests.durability.ledger import TAG, Fact, check
from tests.support.oci import Document, Remote, random_bytes
from tests.support.server import Server

_PIERHEAD = Path(sys.executable).with_name("pierhead")
IMAGES = 40
LAYER = 300_000


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "source")


def fill(layout: Layout) -> dict[Fact, bytes | None]:
    """Write images, indexes among them; return what must be there once they are imported."""
    manifests: dict[str, Document] = {}
    for number in range(IMAGES):
        made = layout.multi_arch("amd64", "arm64") if number % 4 == 0 else layout.image(random_bytes(LAYER), layers=2)
        manifests[f"v{number}"] = layout.tag(f"v{number}", made)
    return {Fact(TAG, "team/app", tag): manifest.body for tag, manifest in manifests.items()}


def start(server: Server, source: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start an import."""
    command = [str(_PIERHEAD), "import", str(source), "team/app", "--config", str(server.config_file), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(running: subprocess.Popen[bytes], images: int) -> None:
    """Wait until an import has told of so many images."""
    assert running.stdout is not None
    while images:
        line = running.stdout.readline()
        assert line, "it ended"
        images -= line.startswith(b"team/app: ")


@pytest.mark.parametrize("kind", ["links", "copies", "archive"])
def test_an_import_that_is_killed_goes_on(make_server: MakeServer, layout: Layout, tmp_path: Path, kind: str) -> None:
    """Nothing partial is there at any moment; the next import brings only what is missing."""
    promises = fill(layout)
    source = layout.archive(tmp_path / "source.tar") if kind == "archive" else layout.root
    options = ["--copy"] if kind == "copies" else []
    server = make_server()
    for number in range(1, 6):
        running = start(server, source, *options)
        wait_for(running, number * IMAGES // 6)
        time.sleep(random.uniform(0, 0.02))
        running.send_signal(signal.SIGKILL)
        running.communicate()
        check(server.root, {})
    said, _ = start(server, source, *options).communicate()
    check(server.root, promises)
    assert f" 0 images imported, {IMAGES}" not in said.decode(), "it was never killed in the middle"
    said, _ = start(server, source, *options).communicate()
    assert f"0 images imported, {IMAGES} there already, 0 kept, 0 failed" in said.decode()
    assert "0 linked (0 bytes), 0 copied (0 bytes)" in said.decode()


def test_imports_beside_pushes_and_collections(make_server: MakeServer, layout: Layout) -> None:
    """Files that are old when they are linked are no garbage before their manifest comes."""
    promises = fill(layout)
    for path in layout.root.rglob("blobs/*/*"):
        os.utime(path, (0, 0))
    storage = {"gcDelay": "1s", "gcInterval": "1s", "undo": "0s"}
    server = make_server(workers=2, config={"storage": storage})
    stop = threading.Event()
    pushed: dict[Fact, bytes | None] = {}

    def push() -> None:
        remote = Remote(server.url, "team/app")
        while not stop.is_set():
            tag = f"pushed{len(pushed)}"
            pushed[Fact(TAG, "team/app", tag)] = remote.push_image(tag).body

    crowd = [threading.Thread(target=push)]
    try:
        for thread in crowd:
            thread.start()
        imports = [start(server, layout.root) for _ in range(2)]
        for running in imports:
            said, _ = running.communicate()
            assert running.returncode == 0, said.decode()
        time.sleep(2.5)
    finally:
        stop.set()
        for thread in crowd:
            thread.join()
    assert len(pushed) > 5
    check(server.root, promises | pushed)
