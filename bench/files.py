"""No registry, but the files of one: what pushes cost where nobody has to be spoken to and every answer is durable."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.client import Answer, Connection, WrongAnswer
from bench.registries import Registry

_PUSH = re.compile(r"/v2/(.+)/(blobs/uploads/|manifests/[^/]+)(?:\?digest=sha256:([0-9a-f]{64}))?")
_MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_ENTRY = 350  # bytes of a tag in index.json


class FilesAlone(Registry):
    """OCI image layouts that the clients write by themselves."""

    def start(self, config: Path) -> None:
        """Start nothing."""

    def __exit__(self, *_: object) -> None:
        """End nothing."""

    def command(self, config: Path) -> list[str]:
        """Give no command: there is no process."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Give no settings."""
        return {}

    def connect(self) -> Connection:
        """Give what writes files where others send requests."""
        return _Writer(self.host, self.port, root=str(self.directory / "data"))

    def _answers(self) -> bool:
        return True


class _Writer(Connection):
    """Take a push's requests, and carry each out by as few steps as a layout needs that survives a power loss.

    Each repository has one writer, so that there is no lock, and an index that was written is not read again.
    """

    def __init__(self, host: str, port: int, *, root: str) -> None:
        super().__init__(host, port)
        self._root = root
        self._blobs: dict[str, str] = {}
        self._tags: dict[str, int] = {}

    def __enter__(self) -> Connection:
        """Open nothing."""
        return self

    def ask(
        self,
        method: str,
        path: str,
        expected: int,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
    ) -> Answer:
        """Write what a PUT brings; find nothing by HEAD, and let a POST begin nothing. WrongAnswer for others."""
        del headers
        push = _PUSH.fullmatch(path)
        if method == "PUT" and push:
            repository = f"{self._root}/{push[1]}"
            if push[3]:
                self._put_blob(repository, push[3], body)
            else:
                self._put_blob(repository, hashlib.sha256(body).hexdigest(), body)
                self._add_tag(repository)
        elif method not in ("HEAD", "POST"):
            raise WrongAnswer(f"{method} {path}: nothing but pushes of small blobs and manifests can be written")
        return Answer(expected, f"HTTP/1.1 {expected}\r\nLocation: {path}\r\n".encode(), b"", 0)

    def _put_blob(self, repository: str, encoded: str, data: bytes | memoryview) -> None:
        """Write a blob, or link one that was written before, and sync its name."""
        directory = f"{repository}/blobs/sha256"
        _make_directory(directory)
        if encoded in self._blobs:
            os.link(self._blobs[encoded], f"{directory}/{encoded}")
        else:
            self._blobs[encoded] = _replace(repository, f"{directory}/{encoded}", data)
        _sync_directory(directory)

    def _add_tag(self, repository: str) -> None:
        """Replace the index by one that has a tag more."""
        if repository not in self._tags:
            _replace(repository, f"{repository}/oci-layout", _MARKER)
        self._tags[repository] = self._tags.get(repository, 0) + 1
        _replace(repository, f"{repository}/index.json", bytes(_ENTRY * self._tags[repository]))
        _sync_directory(repository)


def _replace(repository: str, path: str, data: bytes | memoryview) -> str:
    """Write a file beside its name and sync it before it has that; give the name."""
    temporary = f"{repository}/.tmp-{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(temporary, path)
    return path


def _make_directory(path: str) -> None:
    """Make a directory that is not there, those above it likewise, and sync their names."""
    if not os.path.isdir(path):
        parent = os.path.dirname(path)
        _make_directory(parent)
        os.makedirs(path, exist_ok=True)
        _sync_directory(parent)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)
