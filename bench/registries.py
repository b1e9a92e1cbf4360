"""The registries under test: how each is configured, started, measured and ended."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import yaml

from bench.client import Connection, WrongAnswer
from tests.support.nginx import Nginx, decisions, forget

START_TIMEOUT = 30.0  # seconds until a started registry must answer
STOP_TIMEOUT = 20.0  # seconds a registry has to end by itself
WORKERS = 2


class CannotStart(Exception):
    """Raised when a registry is not installed, or ends or stays silent instead of serving."""


class Registry(ABC):
    """A registry process serving a directory of its own on a free port of 127.0.0.1."""

    def __init__(self, name: str, directory: Path) -> None:
        """Prepare a registry; entering the context starts it. All requests to it carry its headers."""
        self.name = name
        self.directory = directory
        self.headers: dict[str, str] = {}
        self.host = "127.0.0.1"
        self.port = _free_port()

    def __enter__(self) -> Registry:
        """Start the process and wait until it answers."""
        self.directory.mkdir(parents=True)
        config = self.directory / "config.yml"
        config.write_text(yaml.safe_dump(self.config()), encoding="utf-8")
        self.log = self.directory / "log"
        try:
            self.start(config)
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, config: Path) -> None:
        """Start the process."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self.command(config), stdout=log, stderr=subprocess.STDOUT)

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @abstractmethod
    def command(self, config: Path) -> list[str]:
        """Give the command that serves what the config file says."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Give the contents of the config file."""

    def connect(self) -> Connection:
        """Give a new connection, opened on first use."""
        return Connection(self.host, self.port, self.headers)

    def token(self) -> dict[str, str]:
        """Give a header to send instead of the one with a password: none where neither is asked for."""
        return {}

    def memory(self) -> float:
        """Give the proportional set size of all the registry's processes together, in MB."""
        return sum(_pss(pid) for pid in _family(self._process.pid)) / 1e6

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise CannotStart(f"{self.name} does not serve; its log ends with:\n{tail}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with self.connect() as connection:
                connection.ask("GET", "/v2/", 200)
        except (OSError, WrongAnswer):
            return False
        return True


class Pierhead(Registry):
    """This registry, with its defaults but for two workers and a log that names only errors."""

    def command(self, config: Path) -> list[str]:
        """Use the command that is installed beside the running Python."""
        return [_found("pierhead", str(Path(sys.executable).parent)), "serve", str(config)]

    def config(self) -> dict[str, Any]:
        """Leave storage.commit at its default: what is answered 201 lies safe on the disk."""
        return {
            "distSpecVersion": "1.1.0",
            "storage": {"rootDirectory": str(self.directory / "data")},
            "http": {"address": self.host, "port": str(self.port)},
            "log": {"level": "error"},
            "server": {"workers": WORKERS},
        }


class DockerRegistry(Registry):
    """Debian's docker-registry, with the settings of its package but for access log, purging and health checks."""

    def command(self, config: Path) -> list[str]:
        """Use the command on the PATH."""
        return [_found("docker-registry"), "serve", str(config)]

    def config(self) -> dict[str, Any]:
        """Write files, cache descriptors in memory, allow deleting, and do nothing else in the background."""
        return {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "data")},
                "cache": {"blobdescriptor": "inmemory"},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": f"{self.host}:{self.port}", "secret": "bench"},
        }


class BehindNginx(Pierhead):
    """This registry behind nginx, with the configuration that it writes for that; nginx logs what is asked."""

    _nginx: Nginx | None = None

    def config(self) -> dict[str, Any]:
        """Let it listen on a port of its own, for nginx."""
        config = super().config()
        config["http"]["port"] = str(_free_port())
        config["server"]["trustedProxies"] = [self.host]
        return config

    def start(self, config: Path) -> None:
        """Start nginx too."""
        super().start(config)
        self._decisions = decisions()
        nginx = Nginx(self.directory / "nginx", self.site(config))
        nginx.start()
        self._nginx = nginx

    def site(self, config: Path) -> str:
        """Give nginx's configuration, by which each of its workers gets a share of the clients, few as they are."""
        command = self.command(config)[0]
        options = ["--listen", f"{self.host}:{self.port} reuseport", "--cache", str(self._decisions)]
        return subprocess.run(
            [command, "nginx-config", config, *options], check=True, capture_output=True, text=True
        ).stdout

    def __exit__(self, *_: object) -> None:
        """End both."""
        if self._nginx:
            self._nginx.stop()
        forget(self._decisions)
        super().__exit__()


class BareNginx(BehindNginx):
    """nginx that serves a registry's blobs to everybody: what a file costs of which nobody asks whose it is."""

    def site(self, config: Path) -> str:
        """Leave out who may."""
        return "".join(line for line in super().site(config).splitlines(keepends=True) if "auth_request /" not in line)


def _found(command: str, path: str | None = None) -> str:
    found = shutil.which(command, path=path)
    if found is None:
        raise CannotStart(f"{command} is not installed{f' in {path}' if path else ''}")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _family(pid: int) -> list[int]:
    """List a process and its descendants."""
    children = [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
    return [pid, *(member for child in children for member in _family(int(child)))]


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel tells no Pss of process {pid}")
