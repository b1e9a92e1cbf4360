"""What a garbage collection costs: the memory and the time for one large repository, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from storage.gc import Collector, Result
from storage.local import LocalBackend

NAME = "gc-memory"
_LAYERS = 18  #: of each image; with config and manifest it has 20 blobs
_OLD = (1.0, 1.0)
_IMAGE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_TAG = "org.opencontainers.image.ref.name"


def measure_collection(directory: Path, blobs: int) -> str:
    """Collect a repository of which half is garbage; say what that took."""
    command = [sys.executable, "-m", "bench.collection", str(directory), str(blobs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    figures = json.loads(done.stdout)
    return (
        f"a collection of {figures['blobs']} blobs in one repository, half of them garbage, takes "
        f"{figures['bytes'] / figures['blobs']:.0f} bytes of memory for each blob, and {figures['seconds']:.1f} s"
    )


def _fill(repository: Path, blobs: int) -> None:
    """Write tagged images, and as many blobs again that nothing references; all of them are old."""
    directory = repository / "blobs/sha256"
    directory.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        encoded = hashlib.sha256(data).hexdigest()
        path = directory / encoded
        path.write_bytes(data)
        os.utime(path, _OLD)
        return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(data)}

    entries = []
    for number in range(blobs // 2 // (_LAYERS + 2)):
        layers = [put(b"layer %d of %d" % (layer, number), _LAYER) for layer in range(_LAYERS)]
        image = {"schemaVersion": 2, "mediaType": _IMAGE, "config": put(b"%d" % number, _CONFIG), "layers": layers}
        entries.append(put(json.dumps(image).encode(), _IMAGE) | {"annotations": {_TAG: f"t{number}"}})
    for number in range(blobs // 2):
        put(b"garbage %d" % number, _LAYER)
    (repository / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))


def _memory(field: str) -> int:
    """Return a figure of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def _main(directory: str, blobs: int) -> None:
    process = os.fork()
    if process == 0:  # what making it needs is not what is measured
        _fill(Path(directory) / "large", blobs)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        raise SystemExit(1)
    result, started, before = Result(), time.monotonic(), _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    Collector(LocalBackend(directory), delay=1.0, undo=0).collect("large", result)
    if result.binned != blobs // 2 or result.failed:
        raise SystemExit(f"the collection went wrong: {result}")
    seconds = time.monotonic() - started
    print(json.dumps({"blobs": blobs, "bytes": _memory("VmHWM") - before, "seconds": seconds}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
