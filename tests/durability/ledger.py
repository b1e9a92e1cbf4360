"""What was acknowledged, and whether a directory tree still has all of it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage import undo
from storage.digest import parse_digest
from storage.errors import StorageError
from storage.image_store import ImageStore
from storage.local import LocalBackend
from storage.manifests import MAX_SIZE

BLOB, MANIFEST, TAG, REFERRER, LOST, DAMAGED = "blob", "manifest", "tag", "referrer", "lost", "damaged"
_MARKER = {"imageLayoutVersion": "1.0.0"}


class Loss(AssertionError):
    """Say what was acknowledged and is not there, or what is there and should not be."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that an answer promised: the name's content, or with None that there is none.

    Names are digests of blobs and of manifests, and tags; the name of a referrer is its subject's digest; what was lost
    is a tag that can be restored; what is damaged is a blob that is to be healed.
    """

    kind: str
    repository: str
    name: str


class Ledger:
    """Remember every promise that holds; threads may share one."""

    def __init__(self) -> None:
        """Begin with none."""
        self._promises: dict[Fact, bytes | None] = {}
        self._lock = threading.Lock()

    def promise(self, kind: str, repository: str, name: str, content: bytes | None) -> None:
        """Remember what an answer acknowledged."""
        with self._lock:
            self._promises[Fact(kind, repository, name)] = content

    def doubt(self, kind: str, repository: str, name: str) -> None:
        """Forget a promise that a request under way is about to change."""
        with self._lock:
            self._promises.pop(Fact(kind, repository, name), None)

    def promises(self) -> dict[Fact, bytes | None]:
        """Return what holds now."""
        with self._lock:
            return dict(self._promises)

    def still(self, promises: dict[Fact, bytes | None]) -> dict[Fact, bytes | None]:
        """Return those promises that nobody has doubted since."""
        now = self.promises()
        return {fact: content for fact, content in promises.items() if fact in now and now[fact] == content}


def check(root: Path, promises: dict[Fact, bytes | None]) -> None:
    """Open the store at `root` anew; raise Loss unless it keeps the promises and shows nothing partial."""
    store = ImageStore(LocalBackend(str(root)))
    for fact, content in promises.items():
        found = _find(store, fact)
        if found != content:
            raise Loss(f"{fact}: {_short(found)} instead of {_short(content)}")
    for directory in _repositories(root):
        _check_layout(directory)
    _check_pool(root)


def _find(store: ImageStore, fact: Fact) -> bytes | None:
    """Return what the store has under a name, or None."""
    try:
        if fact.kind == BLOB:
            stream = store.open_blob(fact.repository, parse_digest(fact.name))
            data = stream.read()  # type: ignore[union-attr]
            stream.close()  # type: ignore[union-attr]
            return data
        if fact.kind == LOST:
            lost = undo.find(store.backend, fact.repository, fact.name)
            return store.backend.read_blob(fact.repository, lost.digest, MAX_SIZE) if lost else None
        if fact.kind == DAMAGED:
            return b"" if (fact.name, fact.repository) in list(store.backend.quarantined()) else None
        if fact.kind == REFERRER:
            referrers = store.referrers(fact.repository, parse_digest(fact.name))
            return b" ".join(sorted(entry["digest"].encode() for entry in referrers)) or None
        tags = store.tags(fact.repository)[0] if fact.kind == TAG else [fact.name]
        return store.get_manifest(fact.repository, fact.name).data if fact.name in tags else None
    except StorageError:
        return None


def _short(content: bytes | None) -> str:
    return "nothing" if content is None else f"{len(content)} bytes {content[:40]!r}"


def _repositories(root: Path) -> Iterator[Path]:
    return (path.parent for path in root.rglob("index.json") if ".pierhead" not in path.parts)


def _check_layout(directory: Path) -> None:
    """Hold that a repository is an image layout of which nothing is missing that its index needs."""
    if not _is_json(directory / "oci-layout", _MARKER):
        raise Loss(f"{directory}: oci-layout is damaged or missing")
    for path in directory.glob("blobs/*/*"):
        _check_content(path)
    entries = json.loads((directory / "index.json").read_bytes())["manifests"]
    todo = [entry["digest"] for entry in entries]
    while todo:
        path = directory / "blobs" / todo.pop().replace(":", "/")
        if not path.exists():
            raise Loss(f"{directory}: index.json needs {path.name}, which is missing")
        if path.read_bytes().startswith(b'{"schemaVersion"'):
            document = json.loads(path.read_bytes())
            parts = [document.get("config"), *document.get("layers", []), *document.get("manifests", [])]
            todo += [part["digest"] for part in parts if part]


def _check_pool(root: Path) -> None:
    for path in root.glob(".pierhead/pool/*/*/*"):
        _check_content(path)


def _check_content(path: Path) -> None:
    algorithm = "sha512" if len(path.name) == 128 else "sha256"
    if hashlib.new(algorithm, path.read_bytes()).hexdigest() != path.name:
        raise Loss(f"{path} is not what its name says")


def _is_json(path: Path, expected: object) -> bool:
    try:
        return bool(json.loads(path.read_bytes()) == expected)
    except (OSError, ValueError):
        return False
