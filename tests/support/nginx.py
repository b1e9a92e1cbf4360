"""A real nginx: whatever its http block is to have, run by itself in a directory of its own."""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.clients.support.programs import find

_START_SECONDS = 20
_MODULES = Path("/etc/nginx/modules-enabled")


class Nginx:
    """Run nginx while the context lasts, with `http` in its http block; what it says is in `log`."""

    def __init__(self, directory: Path, http: str, user: str = "root") -> None:
        """Write the configuration; nothing runs yet. Its workers run as `user`, which can have a group behind it."""
        directory = directory.absolute()
        directory.mkdir(exist_ok=True)
        self.log = directory / "error.log"
        self.access_log = directory / "access.log"
        self._configuration = directory / "nginx.conf"
        self._pid = directory / "pid"
        temporary = "".join(
            f"    {kind}_temp_path {directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self._configuration.write_text(
            f"user {user};\ndaemon off;\nworker_processes 2;\npid {self._pid};\nerror_log {self.log};\n"
            f"include {_MODULES}/*.conf;\nevents {{ worker_connections 4096; }}\n"
            f"http {{\n    access_log {self.access_log};\n{temporary}{http}\n}}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start, and wait until it listens; a log of what is wrong is the error otherwise."""
        command = [find("nginx") or "nginx", "-c", str(self._configuration), "-e", str(self.log)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_SECONDS
        while not (self._pid.exists() and self._pid.read_text().strip() == str(self._process.pid)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"nginx does not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it, and its workers, whatever they are at."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.wait(_START_SECONDS)
        self._process = None


def decisions() -> Path:
    """Give a new directory on a tmpfs for what nginx remembers; who takes it removes it."""
    return Path(tempfile.mkdtemp(prefix="pierhead-nginx-", dir="/dev/shm"))


def forget(directory: Path) -> None:
    """Remove such a directory."""
    shutil.rmtree(directory, ignore_errors=True)
