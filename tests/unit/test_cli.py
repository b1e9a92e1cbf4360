"""The commands: what they print, where, and their exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.server import free_port

BIN = Path(sys.executable).parent
TREE = Path(__file__).parents[2]
COMMANDS = [[str(BIN / "pierhead")], [str(BIN / "flask"), "--app", "wsgi"]]


def run(*command: str, cwd: Path = TREE, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it must end by itself."""
    environment = {**os.environ, "PYTHONPATH": str(TREE), **(env or {})}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def write(path: Path, **sections: object) -> str:
    """Write a configuration and give its name."""
    path.write_text(json.dumps({"distSpecVersion": "1.1.1", **sections}))
    return str(path)


def serving(tmp_path: Path, **http: object) -> str:
    """Write a configuration that serves `tmp_path` at an address."""
    return write(tmp_path / "config.json", storage={"rootDirectory": str(tmp_path / "data")}, http=http)


def test_version() -> None:
    """The version is the package's."""
    done = run(*COMMANDS[0], "--version")
    assert done.returncode == 0
    assert version("pierhead") in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=["pierhead", "flask"])
def test_verify_accepts(command: list[str], tmp_path: Path) -> None:
    """A valid file gives 0."""
    done = run(*command, "verify", serving(tmp_path), env={"PIERHEAD_CONFIG": serving(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS, ids=["pierhead", "flask"])
def test_verify_names_every_problem(command: list[str], tmp_path: Path) -> None:
    """A file with problems gives 1, and a line for each with its path."""
    good = serving(tmp_path)
    bad = write(tmp_path / "bad.json", http={"port": "many"}, storage={"rootDirectory": 7}, nonsense=1)
    done = run(*command, "verify", bad, env={"PIERHEAD_CONFIG": good})
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert {line.split(":")[0] for line in lines} == {"http.port", "storage.rootDirectory", "nonsense"}


@pytest.mark.parametrize("command", ["serve", "verify"])
def test_missing_file(command: str, tmp_path: Path) -> None:
    """A file that is not there is a problem in one line."""
    missing = str(tmp_path / "missing.json")
    done = run(*COMMANDS[0], command, missing)
    assert done.returncode == 1
    assert done.stderr.startswith(missing)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["nonsense"], ["verify"], ["verify", "a", "b"], ["serve", "--nonsense"]])
def test_bad_usage(arguments: list[str]) -> None:
    """Bad usage gives 2."""
    assert run(*COMMANDS[0], *arguments).returncode == 2


@pytest.mark.parametrize("command", COMMANDS, ids=["pierhead", "flask"])
def test_help_lists_the_commands(command: list[str], tmp_path: Path) -> None:
    """The same commands are offered under both names."""
    done = run(*command, "--help", env={"PIERHEAD_CONFIG": serving(tmp_path)})
    assert done.returncode == 0
    assert {"serve", "verify"} <= set(done.stdout.split())


def assert_fails_to_start(config: str, *words: str) -> None:
    """Hold that the server ends with exit code 1 and a single line that has the words."""
    done = run(*COMMANDS[0], "serve", config)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stdout
    for word in words:
        assert word in done.stderr


def test_port_in_use(tmp_path: Path) -> None:
    """A port that another program has is named in one line."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert_fails_to_start(serving(tmp_path, port=port), f"127.0.0.1:{port}", "in use")


@pytest.mark.parametrize("command", COMMANDS, ids=["pierhead", "flask"])
def test_environment_names_the_file(command: list[str], tmp_path: Path) -> None:
    """Without an argument, the file that PIERHEAD_CONFIG names is served."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run(*command, "serve", env={"PIERHEAD_CONFIG": serving(tmp_path, port=port)})
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr


def test_foreign_address(tmp_path: Path) -> None:
    """An address that the machine does not have is named in one line."""
    config = serving(tmp_path, address="203.0.113.1", port=free_port())
    assert_fails_to_start(config, "cannot listen on 203.0.113.1")


def test_unwritable_log(tmp_path: Path) -> None:
    """A log that cannot be written is named in one line."""
    (tmp_path / "log").symlink_to(tmp_path / "log")
    log = {"output": str(tmp_path / "log")}
    config = write(tmp_path / "config.json", storage={"rootDirectory": str(tmp_path / "data")}, log=log)
    assert_fails_to_start(config, str(tmp_path / "log"))


def test_unusable_root(tmp_path: Path) -> None:
    """A root directory that cannot be one is named in one line."""
    (tmp_path / "data").write_text("a file")
    assert_fails_to_start(serving(tmp_path, port=free_port()), str(tmp_path / "data"))
