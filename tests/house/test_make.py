"""The Makefile: what it offers, and what it says where something of the system is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("Makefile", "setup.cfg", "setup.py")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a copy of what the targets that set up depend on, without an environment yet."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    return copy


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make without the variables of a make that runs the tests."""
    ours = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "CONFIG", "JOBS", "ARGS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = ("make", *arguments)
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=60, check=False)


def python_without(word: str, path: Path) -> str:
    """Write a Python that fails at every command in which `word` occurs."""
    path.write_text(f'#!/bin/sh\ncase "$*" in *{word}*) exit 1 ;; esac\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_help_lists_every_target(tree: Path) -> None:
    """Help is what make does by itself, and names all that can be asked for."""
    targets = re.findall(r"^([a-z]+):", (tree / "Makefile").read_text(), re.MULTILINE)
    assert {"help", "run", "test", "lint", "bench", "clean"} <= set(targets)
    for done in (make(tree), make(tree, "help")):
        assert done.returncode == 0
        assert re.findall(r"^make ([a-z]+) +\S", done.stdout, re.MULTILINE) == targets


@pytest.mark.parametrize(
    ("lacking", "packages"),
    [("venv", "python3-venv"), ("version_info", "python3 python3-venv"), ("", "python3 python3-venv")],
)
def test_run_says_which_package_is_missing(tree: Path, tmp_path: Path, lacking: str, packages: str) -> None:
    """Without venv, with too old a Python, or with none that works, it names the command that helps, and stops."""
    done = make(tree, "run", f"PYTHON={python_without(lacking, tmp_path / 'python')}")
    assert done.returncode != 0
    assert f"sudo apt-get install {packages}" in done.stderr
    assert not (tree / ".venv").exists()
