"""A registry in this process whose disk may lose its power, and clients of it that remember what was promised."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urljoin

import requests
from flask import Flask
from requests.structures import CaseInsensitiveDict

from registry import create_app
from registry.config import Config, StorageConfig
from tests.durability.disk import Disk
from tests.durability.ledger import BLOB, MANIFEST, REFERRER, TAG, Ledger, check
from tests.support.oci import (
    OCI_LAYER,
    Document,
    Json,
    Remote,
    descriptor_of,
    digest_of,
    expect_status,
)


class Registry:
    """A store on a disk of its own, served by any number of apps, each as independent as a process.

    With `every_step`, power is lost before and after each fsync too, not only at each acknowledgement.
    """

    def __init__(self, directory: Path, *, dedupe: bool = True, every_step: bool = False) -> None:
        """Make the disk; the store's root and the directory above it do not exist yet."""
        self.disk = Disk(directory / "disk")
        self.root = self.disk.anchor / "srv" / "root"
        self.ledger = Ledger()
        self.retrying = False  #: whether a deletion may find that it has happened already
        self._dedupe = dedupe
        if every_step:
            self.disk.on_step = self.lose_power

    @cached_property
    def _first(self) -> Flask:
        return self.process()

    def process(self) -> Flask:
        """Start one more app on the same root."""
        return create_app(Config(storage=StorageConfig(str(self.root), dedupe=self._dedupe)))

    def client(self, repository: str, app: Flask | None = None) -> Client:
        """Return a client of a repository."""
        return Client(self, app or self._first, repository)

    def lose_power(self) -> None:
        """Hold that all promises are kept by each of the trees that a power loss now may leave."""
        promises = self.ledger.promises()
        with TemporaryDirectory(dir=self.disk.anchor.parent) as directory:
            for all_names in (False, True):
                target = Path(directory) / str(all_names)
                self.disk.after_power_loss(target, all_names=all_names)
                check(target / self.root.relative_to(self.disk.anchor), self.ledger.still(promises))

    def reopen(self) -> None:
        """Hold that all promises are kept for a process that starts now, and that no temporary file is left."""
        check(self.root, self.ledger.promises())
        assert not list(self.root.rglob(".tmp-*"))


class Client(Remote):
    """Talk to one repository by calling the app; each acknowledgement becomes a promise and loses the power."""

    def __init__(self, registry: Registry, app: Flask, name: str) -> None:
        """Take the app to call."""
        super().__init__("http://registry.test", name)
        self._registry = registry
        self._ledger = registry.ledger
        self._http = app.test_client()

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send one request and return the answer."""
        url = urljoin(f"{self.url}/v2/{self.name}/", path)
        prepared = requests.Request(method, url, **options).prepare()
        parts: Any = prepared.body or b""
        body = io.BytesIO(parts if isinstance(parts, bytes) else b"".join(parts))
        headers = list(prepared.headers.items())
        answer = self._http.open(prepared.path_url, method=method, headers=headers, input_stream=body)
        response = requests.Response()
        response.status_code = answer.status_code
        response.headers = CaseInsensitiveDict(answer.headers)
        response._content = answer.get_data()
        return response

    def promised(self, kind: str, name: str, content: bytes | None) -> None:
        """Remember an acknowledgement, and lose the power right after it."""
        self._ledger.promise(kind, self.name, name, content)
        self._registry.lose_power()

    def acknowledge_blob(self, answer: requests.Response, data: bytes, media_type: str = OCI_LAYER) -> Json:
        """Expect that a blob was stored; return its descriptor."""
        expect_status(answer, 201)
        digest = answer.headers["Docker-Content-Digest"]
        self.promised(BLOB, digest, data)
        return descriptor_of(data, media_type, digest.partition(":")[0])

    def push_blob(self, data: bytes, media_type: str = OCI_LAYER, algorithm: str = "sha256") -> Json:
        """Push a blob by POST and PUT."""
        answer = self.finish_upload(self.start_upload(), digest_of(data, algorithm), data=data)
        return self.acknowledge_blob(answer, data, media_type)

    def push(self, manifest: Document, reference: str | None = None, **options: Any) -> Document:
        """Push a manifest to a tag or by its digest, and to the tags of the query `params`."""
        tags = [tag for key, tag in options.get("params", []) if key == "tag"]
        if reference and ":" not in reference:
            tags.append(reference)
        for tag in tags:
            self._ledger.doubt(TAG, self.name, tag)
        expect_status(self.put_manifest(manifest, reference, **options), 201)
        for tag in tags:
            self._ledger.promise(TAG, self.name, tag, manifest.body)
        algorithm = reference.partition(":")[0] if reference and ":" in reference else "sha256"
        self.promised(MANIFEST, digest_of(manifest.body, algorithm), manifest.body)
        return manifest

    def promise_referrers(self, subject: Document, referrers: Sequence[Document]) -> None:
        """Remember what must be found by its subject."""
        self.promised(REFERRER, subject.digest, b" ".join(sorted(one.digest.encode() for one in referrers)))

    def remove(self, kind: str, name: str, *, tags: Sequence[str] = ()) -> None:
        """Delete a tag, a manifest with its tags, or a blob."""
        gone = [(kind, name), *((TAG, tag) for tag in tags)]
        for what in gone:
            self._ledger.doubt(what[0], self.name, what[1])
        path = f"blobs/{name}" if kind == BLOB else f"manifests/{name}"
        answer = self.delete(path)
        expect_status(answer, 202, *([404] if self._registry.retrying else []))
        for what in gone if answer.status_code == 202 else ():
            self.promised(*what, None)
