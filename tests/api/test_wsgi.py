"""How it is started: `gunicorn wsgi:app` instead of `pierhead serve`, and what the start says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.conftest import MakeServer
from tests.support.oci import digest_of, random_bytes
from tests.support.server import free_port
from tests.support.wire import exchange, head

_TREE = Path(__file__).parents[2]
_GUNICORN = Path(sys.executable).with_name("gunicorn")


@contextmanager
def gunicorn(tmp_path: Path, directory: Path, options: Callable[[str], list[str]]) -> Iterator[str]:
    """Run it in `directory`, with `options` made from the address it shall have; yield the address."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    config = tmp_path / "config.json"
    root = tmp_path / "data"
    config.write_text(
        json.dumps({"storage": {"rootDirectory": str(root)}, "http": {"port": port}, "server": {"workers": 1}})
    )
    environment = os.environ | {"PIERHEAD_CONFIG": str(config)}
    process = subprocess.Popen([_GUNICORN, *options(address), "wsgi:app"], cwd=directory, env=environment)
    try:
        _await(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None
        try:
            requests.get(f"http://{address}/v2/", timeout=10)
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(address)


def _ours(address: str) -> list[str]:
    return ["--worker-class", "registry.worker.Worker", "--bind", address]


@pytest.mark.parametrize("by_file", [True, False])
def test_it_serves_as_pierhead_serve_does(tmp_path: Path, by_file: bool) -> None:
    """In a checkout with all settings of the configuration, by gunicorn.conf.py; elsewhere with our worker by name."""
    options: Callable[[str], list[str]] = (lambda _: []) if by_file else _ours
    with gunicorn(tmp_path, _TREE if by_file else tmp_path, options) as address:
        data = random_bytes(3_000_000)
        answer = requests.post(
            f"http://{address}/v2/app/blobs/uploads/", params={"digest": digest_of(data)}, data=data, timeout=60
        )
        assert answer.status_code == 201
        assert requests.get(f"http://{address}{answer.headers['Location']}", timeout=60).content == data
        malformed = exchange(address, b"GET /v2/ HTTP/9.9\r\n\r\n")
        assert malformed is not None
        assert json.loads(malformed.content)["errors"][0]["code"] == "UNSUPPORTED"
        location = requests.post(f"http://{address}/v2/app/blobs/uploads/", timeout=60).headers["Location"]
        exchange(address, head("PATCH", location, "Transfer-Encoding: chunked") + b"5\r\nhello\r\nx", cut=True)
        assert requests.get(f"http://{address}{location}", timeout=60).headers["Range"] == "0-4"


def test_another_version_of_the_specification_is_warned_of(make_server: MakeServer) -> None:
    server = make_server(config={"distSpecVersion": "1.0.1"})
    assert "distSpecVersion" in server.log.read_text()
