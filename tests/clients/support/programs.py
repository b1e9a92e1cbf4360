"""Running other people's programs: finding them, giving them a home of their own, reading what they say."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Where `tests/clients/go.sh` puts what it builds.
BUILT = Path(sys.executable).parent
# Debian's own directories come first: /usr/local may hold a docker command of another age than the daemon's.
SEARCH_PATH = os.pathsep.join(["/usr/bin", "/usr/sbin", os.environ.get("PATH", os.defpath)])
TIMEOUT = 120.0
#: How the one reason begins for which CI may skip a test: no network to build its client from.
NOT_BUILT = "not built"


def require(*programs: str) -> None:
    """Skip the test, or fail it under CI, unless every program is installed."""
    missing = [program for program in programs if find(program) is None]
    if missing:
        _unavailable(f"not installed: {', '.join(missing)} (see tests/clients/install.sh)")


def require_built(program: str) -> Path:
    """Return the path of a program that `tests/clients/go.sh` builds; skip the test, under CI too, where it did not.

    That script fails by itself where it can reach what it builds from.
    """
    path = BUILT / program
    if not path.exists():
        pytest.skip(f"{NOT_BUILT}: {program} (see tests/clients/go.sh)")
    return path


def require_root() -> None:
    """Skip the test, or fail it under CI, unless it runs as root, as dockerd and containerd ask."""
    if os.geteuid() != 0:
        _unavailable("needs root")


def find(program: str) -> str | None:
    """Return the path of a program, or None where it is not installed."""
    return shutil.which(program, path=SEARCH_PATH)


def _unavailable(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a client whose state, credentials and sockets all lie below `home`.

    Nothing else is inherited: no proxy and no one's saved credentials take part in a test.
    """
    runtime = home / "run"
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {
        "PATH": SEARCH_PATH,
        "HOME": str(home),
        "TMPDIR": str(runtime),
        "XDG_RUNTIME_DIR": str(runtime),
    }


@dataclass(frozen=True)
class Client:
    """A command with the options that every call of it carries."""

    command: tuple[str, ...]
    home: Path

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """Run the command and return its standard output; raise AssertionError with all it said if it fails."""
        done = self._run(arguments, stdin)
        if done.returncode != 0:
            raise AssertionError(_story(done))
        return done.stdout.decode()

    def refused(self, *arguments: str | Path) -> str:
        """Run the command, which must fail, and return what it said."""
        done = self._run(arguments, b"")
        if done.returncode == 0:
            raise AssertionError(f"did not fail\n{_story(done)}")
        return done.stdout.decode() + done.stderr.decode()

    def _run(self, arguments: tuple[str | Path, ...], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        # subprocess looks a bare name up in the parent's PATH, not in the one given to the child.
        return subprocess.run(
            [find(self.command[0]) or self.command[0], *self.command[1:], *map(str, arguments)],
            input=stdin,
            capture_output=True,
            check=False,
            cwd=self.home,
            env=environment(self.home),
            timeout=TIMEOUT,
        )


def _story(done: subprocess.CompletedProcess[bytes]) -> str:
    command = " ".join(done.args)
    return f"$ {command}\n{done.stdout.decode()}{done.stderr.decode()}[exit code {done.returncode}]"


class Skopeo(Client):
    """skopeo, over plain HTTP and with no signature policy."""

    def copy(self, source: str, destination: str, *options: str) -> str:
        """Copy an image and return what skopeo said."""
        return self("copy", *_INSECURE_COPY, *options, source, destination)

    def copy_refused(self, source: str, destination: str) -> str:
        """Copy an image, which must fail, and return what skopeo said."""
        return self.refused("copy", *_INSECURE_COPY, source, destination)

    def raw(self, image: str) -> bytes:
        """Return an image's manifest, byte for byte."""
        return self("inspect", "--tls-verify=false", "--raw", image).encode()


_INSECURE_COPY = ("--src-tls-verify=false", "--dest-tls-verify=false")


def skopeo(home: Path) -> Skopeo:
    """Return skopeo with its state below `home`.

    As root it keeps a cache of where it saw which blob under /var/lib/containers/cache, which no option moves.
    """
    require("skopeo")
    return Skopeo(("skopeo", "--insecure-policy"), home)


def podman(home: Path) -> Client:
    """Return podman with storage of its own, in the settings that need no overlayfs, systemd or cgroup."""
    require("podman")
    settings = ("--cgroup-manager", "cgroupfs", "--events-backend", "none", "--tmpdir", str(home / "podman-tmp"))
    return Client(("podman", *_storage(home), *settings), home)


def buildah(home: Path) -> Client:
    """Return buildah with storage of its own, in the settings that need no overlayfs."""
    require("buildah")
    return Client(("buildah", *_storage(home)), home)


def _storage(home: Path) -> tuple[str, ...]:
    return ("--root", str(home / "storage"), "--runroot", str(home / "storage-run"), "--storage-driver", "vfs")


def umoci(home: Path) -> Client:
    """Return umoci."""
    require("umoci")
    return Client(("umoci",), home)


def curl(home: Path) -> Client:
    """Return curl, which fails on an HTTP error but shows its body."""
    require("curl")
    return Client(("curl", "--silent", "--show-error", "--fail-with-body"), home)


def crane(home: Path) -> Client:
    """Return crane, over plain HTTP."""
    return Client((str(require_built("crane")), "--insecure"), home)


def helm(home: Path) -> Client:
    """Return helm."""
    return Client((str(require_built("helm")),), home)


def oras_cli(home: Path) -> Client:
    """Return oras, the command; `oras` alone is the Python library in this suite."""
    return Client((str(require_built("oras")),), home)
