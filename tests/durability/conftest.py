"""Registries in this process whose disk is a recorder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import pytest

from tests.durability.inprocess import Registry

MakeRegistry = Callable[..., Any]

_MEMORY = Path("/dev/shm")
_PLACE = _MEMORY if os.access(_MEMORY, os.W_OK) else gettempdir()  #: memory is quicker, and no sync is carried out


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> MakeRegistry:
    """Give a context manager that yields a Registry, made with its keywords, while its disk takes fsync's place."""

    @contextmanager
    def make(**options: Any) -> Iterator[Registry]:
        with TemporaryDirectory(dir=_PLACE) as directory, monkeypatch.context() as patch:
            registry = Registry(Path(directory), **options)
            patch.setattr(os, "fsync", registry.disk.fsync)
            try:
                yield registry
            finally:
                registry.disk.close()

    return make


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory in memory, which is quicker where no power is lost."""
    with TemporaryDirectory(dir=_PLACE) as name:
        yield Path(name)
