"""Collections beside pushes, beside each other, and killed: what is tagged pulls whole, and the garbage goes."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage.digest import Digest
from storage.errors import ManifestUnknown, ReferencesUnknown, RepositoryUnknown, StillReferenced
from storage.gc import Collector, Result
from storage.image_store import ImageStore
from storage.local import LocalBackend
from tests.support.oci import OCI_CONFIG, OCI_LAYER, Document, descriptor_of, image

_NAMES = ("app", "app/nested", "other")
_SECONDS = 4.0
#: So short that blobs go between their upload and their manifest, as in the worst of registries.
_DELAY = 0.02

_COLLECT = """
import sys
from storage.gc import Collector, Result
from storage.local import LocalBackend
backend = LocalBackend(sys.argv[1])
print("ready", flush=True)
while True:
    for name in backend.places():
        Collector(backend, delay=0.0, undo=0).collect(name, Result())
"""


def push(store: ImageStore, name: str, number: int, tag: str) -> bool:
    """Push an image as clients do: only what is not there; tell whether it was accepted."""
    parts = [b'{"n":%d}' % number, b"layer %d" % (number % 7), b"layer %d" % number]
    for part in parts:
        store.push_blob(name, Digest.of(part), io.BytesIO(part))
    manifest = image(descriptor_of(parts[0], OCI_CONFIG), [descriptor_of(part, OCI_LAYER) for part in parts[1:]])
    try:
        store.put_manifest(name, tag, manifest.body, content_type=manifest.media_type)
    except ReferencesUnknown:
        return False
    return True


def check_whole(root: Path) -> int:
    """Pull all that is tagged, by a process that knows nothing; return how much that is."""
    store = ImageStore(LocalBackend(str(root)))
    count = 0
    for name in list(store.backend.repositories()):
        for tag in store.tags(name)[0]:
            manifest = store.get_manifest(name, tag)
            document = Document(manifest.data, manifest.media_type).content
            for part in (document["config"], *document["layers"]):
                data = store.backend.read_blob(name, Digest(part["digest"]), part["size"] + 1)
                assert Digest.of(data) == part["digest"]
            count += 1
    return count


def collect_all(root: Path) -> None:
    """Collect until nothing more goes."""
    backend = LocalBackend(str(root))
    for _ in range(3):
        time.sleep(1.1)  # the bin tells seconds
        for name in list(backend.places()):
            result = Result()
            Collector(backend, delay=0.01, undo=0).collect(name, result)
            assert not result.failed


def garbage(root: Path) -> list[Path]:
    """Return the files that no tagged image needs."""
    store = ImageStore(LocalBackend(str(root)))
    needed = set()
    for name in store.backend.repositories():
        for entry in store._snapshot(name).index.entries:
            needed.add(entry["digest"].partition(":")[2])
            document = Document(store.get_manifest(name, entry["digest"]).data, entry["mediaType"]).content
            needed |= {part["digest"].partition(":")[2] for part in (document["config"], *document["layers"])}
    # Directories of the bin may vanish meanwhile, which a glob does not take well.
    files = [Path(directory, name) for directory, _, names in os.walk(root) for name in names]
    return [path for path in files if {"blobs", ".bin"} & set(path.parts) and path.name not in needed] + [
        path for path in files if path.name.startswith(".tmp-")
    ]


def test_collections_beside_pushes_and_each_other(tmp_path: Path) -> None:
    end = time.monotonic() + _SECONDS
    faults: list[BaseException] = []
    accepted: list[int] = []

    def push_and_delete(seed: int) -> None:
        store, chance = ImageStore(LocalBackend(str(tmp_path))), random.Random(seed)
        while time.monotonic() < end:
            name, tag = chance.choice(_NAMES), f"t{chance.randrange(12)}"
            try:
                accepted.append(push(store, name, chance.randrange(1000), tag))
                if chance.random() < 0.5:
                    store.delete_manifest(name, store.get_manifest(name, tag).digest)
            except (ManifestUnknown, RepositoryUnknown, StillReferenced):
                continue  # another one was faster
            except BaseException as fault:
                faults.append(fault)
                raise

    def collect() -> None:
        backend = LocalBackend(str(tmp_path))
        while time.monotonic() < end:
            for name in list(backend.places()):
                result = Result()
                Collector(backend, delay=_DELAY, undo=0).collect(name, result)
                faults.extend(AssertionError(failed) for failed in result.failed)
            for _ in backend.sweep_pool():
                pass

    threads = [threading.Thread(target=push_and_delete, args=(seed,)) for seed in range(3)]
    threads += [threading.Thread(target=collect) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert sum(accepted) > 10
    assert check_whole(tmp_path) > 0
    collect_all(tmp_path)
    assert check_whole(tmp_path) > 0
    assert garbage(tmp_path) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_collection_that_is_killed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    store = ImageStore(LocalBackend(str(tmp_path)))
    for number in range(10):
        assert push(store, "app", number, f"kept{number}")
    for _ in range(3):
        for number in range(200):
            data = b"garbage %d" % chance.randrange(10**9)
            store.push_blob(_NAMES[number % 3], Digest.of(data), io.BytesIO(data))
        with subprocess.Popen(
            [sys.executable, "-c", _COLLECT, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        ) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
        assert check_whole(tmp_path) == 10
    collect_all(tmp_path)
    assert check_whole(tmp_path) == 10
    assert garbage(tmp_path) == []
