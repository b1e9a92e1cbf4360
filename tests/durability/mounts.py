"""Small file systems of their own, which only root can mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(directory: Path, megabytes: int = 16) -> Iterator[Path]:
    """Mount a file system of that size in memory; skip the test where that is not possible."""
    directory.mkdir(parents=True, exist_ok=True)
    done = _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory))
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        _must("umount", "--lazy", str(directory))


def resize(disk: Path, megabytes: int) -> None:
    """Give a small disk another size."""
    _must("mount", "-o", f"remount,size={megabytes}m", str(disk))


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Let nobody who goes by the directory's name change anything in it, though files may be open for writing."""
    _must("mount", "--bind", str(directory), str(directory))
    try:
        _must("mount", "-o", "remount,bind,ro", str(directory))
        yield
    finally:
        _must("umount", "--lazy", str(directory))


def fill(disk: Path, leave: int = 0) -> Path:
    """Write a file that takes all the room but `leave` bytes; return it."""
    path = disk / "filler"
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return path


def _must(*command: str) -> None:
    done = _run(*command)
    assert not done.returncode, done.stderr


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, os.EX_UNAVAILABLE, "", str(error))
