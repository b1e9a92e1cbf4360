"""A registry in processes of its own, for tests that talk to it from outside."""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import requests

from tests.clients.support.programs import require
from tests.support.nginx import Nginx, decisions, forget

#: With this in the environment every server stands behind nginx: clients come to nginx's port.
THROUGH_NGINX = "PIERHEAD_TESTS_THROUGH_NGINX"
START_SECONDS = 60
STOP_SECONDS = 30
LOG_TAIL = 200
_ATTEMPTS = 5
_PIERHEAD = Path(sys.executable).with_name("pierhead")


class StartFailed(Exception):
    """Carry the log of a server that ended instead of answering."""


def free_port() -> int:
    """Give a port that nobody uses at the moment, and that Linux gives to no outgoing connection by itself."""
    while True:
        port = random.SystemRandom().randrange(10_240, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another."""
    result = dict(base)
    for key, value in extra.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def children(pid: int) -> list[int]:
    """List the live processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name, in parentheses, may hold anything: the fields are what follows its end.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(entry.name))
    return sorted(found)


class Server:
    """Run `pierhead serve` on a free port while the context lasts.

    `root` is where the data lies; the configuration and the log lie beside it. `config` is laid over the
    configuration, `env` over the environment; `limits` are of the module `resource`, such as `RLIMIT_NOFILE`.
    Where `nginx` is true, clients come to an nginx with the configuration that `pierhead nginx-config` writes.
    """

    def __init__(  # noqa: PLR0913
        self,
        root: Path,
        *,
        config: Mapping[str, Any] | None = None,
        workers: int = 1,
        env: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
        nginx: bool | None = None,
        nginx_user: str = "root",
    ) -> None:
        """Remember what to start; nothing runs yet."""
        self.root = root
        self.workers = workers
        self.log = root.with_name(root.name + ".log")
        self.config_file = root.with_name(root.name + ".json")
        self._config = config or {}
        self._limits = limits or {}
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._front = Front(self, nginx_user) if (THROUGH_NGINX in os.environ if nginx is None else nginx) else None
        self.port = 0

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop, by force if need be."""
        self.stop()

    @property
    def host(self) -> str:
        """Give host and port, as image names have them."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Give the address without a final slash."""
        scheme = "https" if "tls" in self._document()["http"] else "http"
        return f"{scheme}://{self.host}"

    @property
    def pid(self) -> int:
        """Give the process id of gunicorn's master."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def worker_pids(self) -> list[int]:
        """List the process ids of the workers."""
        return children(self.pid)

    def start(self) -> None:
        """Start and wait until it answers; another process may snatch the free port, so try a few."""
        for attempt in range(_ATTEMPTS):
            self.port = free_port()
            try:
                self._launch()
                return
            except StartFailed as failure:
                if "cannot listen" not in str(failure) or attempt == _ATTEMPTS - 1:
                    raise

    def restart(self) -> None:
        """Stop and start again on the same port."""
        self.stop()
        self._launch()

    def stop(self, signum: int = signal.SIGTERM, seconds: float = STOP_SECONDS) -> int | None:
        """End it by a signal, by force if that takes too long; give the exit code, None if it was not running."""
        process = self._process
        if process is None:
            return None
        process.send_signal(signum)
        try:
            code = process.wait(seconds)
            self._take_front_away()
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._process = None
        return code

    def kill(self) -> None:
        """End master and workers at once, as a crash would."""
        process = self._process
        if process is None:
            return
        workers = self.worker_pids()
        # The whole group, which `_launch` made, at once: a master left alive would replace its workers.
        with suppress(ProcessLookupError):  # it may have ended by itself, at its start
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None
        _wait_gone(workers)
        self._take_front_away()

    def log_tail(self) -> str:
        """Give the end of what it wrote."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:])

    def _take_front_away(self) -> None:
        if self._front:
            self._front.stop()

    def _launch(self) -> None:
        document = self._front.behind(self._document()) if self._front else self._document()
        self.config_file.write_text(json.dumps(document, indent=2))
        command = [str(_PIERHEAD), "serve", str(self.config_file)]
        # A session of its own: Ctrl-C at pytest is for pytest, which then stops the server in order.
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, start_new_session=True
            )
        for name, value in self._limits.items():
            resource.prlimit(self.pid, getattr(resource, name), (value, value))
        try:
            if self._front:
                self._front.start()
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _document(self) -> dict[str, Any]:
        base = {
            "distSpecVersion": "1.1.1",
            "storage": {"rootDirectory": str(self.root)},
            "http": {"address": "127.0.0.1", "port": self.port},
            "log": {"level": "info", "output": "stdout"},
            "server": {"workers": self.workers},
        }
        return merged(base, self._config)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise StartFailed(f"the server ended with {self._process.returncode}:\n{self.log_tail()}")
            if len(self.worker_pids()) >= self.workers and self._answers():
                return
            time.sleep(0.05)
        raise StartFailed(f"the server did not answer within {START_SECONDS} s:\n{self.log_tail()}")

    def _answers(self) -> bool:
        """Tell whether it serves, be it a refusal: a client whose certificate it wants may not even get that."""
        try:
            with warnings.catch_warnings(action="ignore"):  # the certificate is not what this looks at
                return requests.get(self.url + "/v2/", timeout=5, verify=False).status_code < 500
        except requests.RequestException as error:
            return "certificate required" in str(error).lower()


class Front:
    """The nginx before a server: it has the port that clients know, and the certificate."""

    def __init__(self, server: Server, user: str) -> None:
        self._server = server
        self._user = user
        self._directory = server.root.with_name(server.root.name + ".nginx")
        self._certificate: list[str] = []
        self._nginx: Nginx | None = None
        self._decisions: Path | None = None

    def behind(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration of what stands behind nginx, for one that has the port and the certificate."""
        http, server = document["http"], document.get("server", {})
        tls = http.get("tls")
        self._certificate = ["--certificate", tls["cert"], "--key", tls["key"]] if tls else []
        http = {key: value for key, value in http.items() if key != "tls"} | {"port": free_port()}
        trusted = {"trustedProxies": ["127.0.0.1", *server.get("trustedProxies", [])]}
        return document | {"http": http, "server": server | trusted}

    def start(self) -> None:
        """Start nginx with what `pierhead nginx-config` writes."""
        require("nginx")
        self._decisions = decisions()
        listen = f"127.0.0.1:{self._server.port}{' ssl http2' if self._certificate else ''}"
        options = ["--listen", listen, "--cache", str(self._decisions), *self._certificate]
        command = [str(_PIERHEAD), "nginx-config", str(self._server.config_file), *options]
        site = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        self._nginx = Nginx(self._directory, site, self._user)
        self._nginx.start()

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._nginx:
            self._nginx.stop()
        if self._decisions:
            forget(self._decisions)
        self._nginx = self._decisions = None


def _wait_gone(pids: list[int]) -> None:
    """Wait until orphans, which are not ours to wait for, have ended."""
    deadline = time.monotonic() + STOP_SECONDS
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
