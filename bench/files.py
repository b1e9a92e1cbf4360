"""No registry, but the files of one: what pushes cost where nobody has to be spoken to and every answer is durable."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Any

from bench.client import Answer, Connection
from bench.registries import Registry
from storage.durable import Durable, write_all

_REQUEST = re.compile(
    rb"(HEAD|POST|PUT) (/v2/(.+)/(?:blobs|manifests)/(?:uploads/)?[^/?]*)(?:\?digest=sha256:([0-9a-f]{64}))? HTTP"
)
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
        return _Writer(self.host, self.port, root=str(self.directory.absolute() / "data"))

    def _answers(self) -> bool:
        return True


class _Writer(Connection):
    """Take a push's requests, and carry each out by as few steps as a layout needs that survives a power loss.

    Each repository has one writer, so that there is no lock, and an index that was written is not read again.
    """

    def __init__(self, host: str, port: int, *, root: str) -> None:
        super().__init__(host, port)
        self._root = root
        self._durable = Durable(root)
        self._blobs: dict[str, str] = {}
        self._tags: dict[str, int] = {}
        self._answer = Answer(0, b"", b"", 0)

    def __enter__(self) -> Connection:
        """Open nothing."""
        return self

    def send(self, head: bytes, body: bytes | memoryview = b"") -> None:
        """Carry a request out: find nothing by HEAD, let a POST begin nothing, write what a PUT brings; else 404."""
        status, location = 404, b""
        if request := _REQUEST.match(head):
            method, location, name, digest = request.groups()
            status = {b"HEAD": 404, b"POST": 202, b"PUT": 201}[method]
            if method == b"PUT":
                self._put(f"{self._root}/{name.decode()}", digest.decode() if digest else None, body)
        self._answer = Answer(status, b"HTTP/1.1 %d\r\nLocation: %s\r\n" % (status, location), b"", 0)

    def receive(self, *, headless: bool = False, discard: bool = False) -> Answer:
        """Give the answer to what was sent."""
        return self._answer

    def _put(self, repository: str, encoded: str | None, data: bytes | memoryview) -> None:
        """Write a blob; without a digest a manifest, under one more tag."""
        directory = f"{repository}/blobs/sha256"
        self._durable.make_directory(directory)
        self._put_blob(repository, f"{directory}/{encoded or hashlib.sha256(data).hexdigest()}", data)
        self._durable.sync_directory(directory)
        if encoded is None:
            if repository not in self._tags:
                self._replace(repository, f"{repository}/oci-layout", _MARKER)
            self._tags[repository] = self._tags.get(repository, 0) + 1
            self._replace(repository, f"{repository}/index.json", bytes(_ENTRY * self._tags[repository]))
            self._durable.sync_directory(repository)

    def _put_blob(self, repository: str, path: str, data: bytes | memoryview) -> None:
        """Write a blob, or link one that was written before."""
        known = self._blobs.setdefault(os.path.basename(path), path)
        if known == path:
            self._replace(repository, path, data)
        else:
            self._durable.link(known, path)

    def _replace(self, repository: str, path: str, data: bytes | memoryview) -> None:
        """Write a file beside its name, and sync it before it has that."""
        temporary = f"{repository}/.tmp-{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        write_all(descriptor, data)
        self._durable.sync_file(descriptor)
        os.close(descriptor)
        self._durable.rename(temporary, path)
