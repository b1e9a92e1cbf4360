"""Under systemd: the units are sound, a socket may be handed over, and a restart costs no client anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import RemoteDisconnected
from pathlib import Path

import pytest
import requests

from tests.clients.support.programs import require
from tests.support.oci import Remote, digest_of, random_bytes
from tests.support.server import free_port

PIERHEAD = Path(sys.executable).with_name("pierhead")
DEPLOY = Path(__file__).parents[2] / "deploy"
PATIENCE = 60.0

#: Become another program, with a socket where systemd would put it.
_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a configuration with a port on which nobody is to listen."""
    path = tmp_path / "config.json"
    document = {
        "storage": {"rootDirectory": str(tmp_path / "data")},
        "http": {"port": free_port()},
        "server": {"workers": 2},
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(autouse=True)
def programs() -> None:
    require("systemd-analyze", "systemd-socket-activate")


def test_the_units_are_sound(tmp_path: Path) -> None:
    """`systemd-analyze` finds nothing to say, but that the program is not where it is to be installed."""
    for name in ("pierhead.service", "pierhead.socket"):
        shutil.copy(DEPLOY / name, tmp_path)
    service = tmp_path / "pierhead.service"
    service.write_text(service.read_text().replace("/opt/pierhead/bin/pierhead", str(PIERHEAD)))
    units = [str(service), str(tmp_path / "pierhead.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "pierhead" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_service_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "pierhead.service"]
    done = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_stopping_is_given_the_time_that_the_registry_takes() -> None:
    text = (DEPLOY / "pierhead.service").read_text()
    [seconds] = re.findall(r"^TimeoutStopSec=([0-9]+)$", text, re.MULTILINE)
    assert int(seconds) > 300, "server.gracefulTimeout"


def test_a_socket_of_systemd_is_served(config: Path) -> None:
    port = free_port()
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", str(PIERHEAD), "serve", str(config)]
    with running(command) as process:
        wait_until_it_listens(port)
        remote = Remote(f"http://127.0.0.1:{port}", "team/app")
        pushed = remote.push_image("1")
        assert remote.get("manifests/1").content == pushed.body
        assert process.poll() is None
        own_port = json.loads(config.read_text())["http"]["port"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", own_port))


def test_systemd_is_told_when_it_serves(config: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.settimeout(PATIENCE)
        notices.bind(str(tmp_path / "notify"))
        environ = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with running([str(PIERHEAD), "serve", str(config)], env=environ):
            assert b"READY=1" in notices.recv(4096)
            port = json.loads(config.read_text())["http"]["port"]
            assert requests.get(f"http://127.0.0.1:{port}/v2/", timeout=PATIENCE).status_code == 200


def test_a_restart_under_load_costs_nobody_anything(config: Path) -> None:
    """Clients wait where they would be refused; an upload under way is finished; nothing acknowledged is missing."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        load = Load(url)
        for number in range(3):
            with running(handed_over(listener, config)) as process:
                Remote(url, "team/app").push_image("first")
                if not number:
                    load.start()
                slow = SlowUpload(url)
                slow.start()
                time.sleep(1)
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0
                slow.join()
                assert slow.status == 201
        with running(handed_over(listener, config)):
            load.stop()
            assert load.faults == []
            assert len(load.pushed) > 20
            for tag, body in load.pushed.items():
                assert requests.get(f"{url}/v2/team/app/manifests/{tag}", timeout=PATIENCE).content == body


class Load:
    """Push and pull all the time; who is sent away before an answer has begun asks again, as every client does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pushed: dict[str, bytes] = {}
        self.faults: list[BaseException] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(4)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        count = 0
        while not self._over.is_set() and not self.faults:
            tag = f"t{number}-{count}"
            try:
                self.pushed[tag] = Remote(self.url, "team/app").push_image(tag).body
                answer = requests.get(f"{self.url}/v2/team/app/manifests/{tag}", timeout=PATIENCE)
                assert answer.content == self.pushed[tag]
                count += 1
            except BaseException as fault:
                if not _was_sent_away(fault):
                    self.faults.append(fault)


def _was_sent_away(fault: BaseException | None) -> bool:
    """Tell whether a connection ended before the first byte of an answer."""
    while fault is not None:
        reasons = [fault, *(argument for argument in fault.args if isinstance(argument, BaseException))]
        if any(isinstance(reason, (RemoteDisconnected, ConnectionResetError, BrokenPipeError)) for reason in reasons):
            return True
        fault = fault.__context__
    return False


class SlowUpload(threading.Thread):
    """Push a blob that takes some seconds to come."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._parts = [random_bytes(50_000) for _ in range(20)]
        self.status = 0

    def run(self) -> None:
        def body() -> Iterator[bytes]:
            for part in self._parts:
                yield part
                time.sleep(0.15)

        digest = digest_of(b"".join(self._parts))
        target = f"{self._url}/v2/team/slow/blobs/uploads/?digest={digest}"
        self.status = requests.post(target, data=body(), timeout=PATIENCE).status_code


def handed_over(listener: socket.socket, config: Path) -> list[str]:
    """Return the command that serves on a socket that is open already."""
    os.set_inheritable(listener.fileno(), True)
    return [sys.executable, "-c", _HAND_OVER, str(listener.fileno()), str(PIERHEAD), "serve", str(config)]


@contextmanager
def running(command: list[str], env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the block runs."""
    process = subprocess.Popen(command, env=env, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_until_it_listens(port: int) -> None:
    """Wait until a port is listened on, without a connection, which would be taken for a client."""
    wanted = f"0100007F:{port:04X}"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        lines = Path("/proc/net/tcp").read_text().splitlines()
        if any(line.split()[1] == wanted and line.split()[3] == "0A" for line in lines[1:]):
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens on port {port}")
