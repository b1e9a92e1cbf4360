"""Engines that a test starts for itself, containerd and dockerd, with all their state below one directory."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clients.support.programs import Client, environment, find, require, require_root

START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0

CONTAINERD_CONFIG = """\
version = 2
root = "{home}/containerd/root"
state = "{home}/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{home}/containerd.sock"
[ttrpc]
  address = "{home}/containerd.sock.ttrpc"
"""


@contextmanager
def containerd(home: Path) -> Iterator[Client]:
    """Run a containerd below `home` and yield a `ctr` that speaks to it."""
    require("containerd", "ctr")
    require_root()
    (home / "containerd.toml").write_text(CONTAINERD_CONFIG.format(home=home))
    ctr = Client(("ctr", "--address", str(home / "containerd.sock"), "--namespace", "pierhead"), home)
    with _daemon(home, "containerd", "--config", str(home / "containerd.toml")) as process:
        _wait_until_up(process, ctr, "containerd")
        yield ctr


@contextmanager
def docker(home: Path) -> Iterator[Client]:
    """Run a dockerd (and the containerd it needs) below `home` and yield a `docker` that speaks to it.

    It has neither a bridge nor packet filter rules, so that it leaves the machine's network alone, and copies
    layers instead of mounting them, so that it runs where overlayfs may not be mounted. Two paths of dockerd's are
    fixed: it makes /etc/docker/key.json and /run/docker/plugins where they are missing.
    """
    require("docker", "dockerd", "runc")
    with containerd(home):
        (home / "daemon.json").write_text(json.dumps(_dockerd_config(home)))
        client = Client(("docker", "--host", f"unix://{home}/docker.sock", "--config", str(home / "docker")), home)
        with _daemon(home, "dockerd", "--config-file", str(home / "daemon.json")) as process:
            _wait_until_up(process, client, "dockerd")
            yield client
        # It has mounted this on itself, and does not know it again where the root directory is another than the disk's.
        subprocess.run(["umount", "--lazy", home / "docker-data"], stderr=subprocess.DEVNULL, check=False)


def _dockerd_config(home: Path) -> dict[str, object]:
    return {
        "data-root": f"{home}/docker-data",
        "exec-root": f"{home}/docker-exec",
        "pidfile": f"{home}/docker.pid",
        "hosts": [f"unix://{home}/docker.sock"],
        "containerd": f"{home}/containerd.sock",
        "storage-driver": "vfs",
        "bridge": "none",
        "iptables": False,
        "ip-masq": False,
    }


@contextmanager
def _daemon(home: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    program = find(command[0]) or command[0]
    with _log(home, command[0]).open("wb") as log:
        process = subprocess.Popen([program, *command[1:]], stdout=log, stderr=log, cwd=home, env=environment(home))
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], client: Client, name: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client("version")
        except AssertionError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{name} did not start:\n{_log(client.home, name).read_text()}")


def _log(home: Path, name: str) -> Path:
    return home / f"{name}.log"
