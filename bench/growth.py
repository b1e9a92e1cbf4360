"""How cost grows with what there is: python -m bench.growth draws it, in docs/growth.

The disk is filled directly, as any tool that writes OCI image layouts could; what is measured are requests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.client import Connection
from bench.content import Blob, new_blob, new_image, new_manifest, push_blob, push_image, push_manifest
from bench.load import together
from bench.registries import WORKERS, Pierhead
from bench.workloads import SMALL_LAYER

_ASKED = 100  #: requests of each kind, of which the median counts
_WRITTEN = 30
_BUSY_SECONDS = 4
_IMAGES = 15  #: for each client
_CLIENTS = 8
_SETTLING = 6.0

#: What was measured at one size: milliseconds, or a rate, by what was done; and megabytes.
Point = tuple[dict[str, float], float]


@dataclass(frozen=True, slots=True)
class Curve:
    """What grows, to which sizes, and what is measured of each."""

    name: str
    label: str
    sizes: Sequence[int]
    measure: Callable[[int, Path], Point]
    unit: str = "milliseconds (median)"


class Sized(Pierhead):
    """This registry with so many workers."""

    workers = WORKERS

    def config(self) -> dict[str, Any]:
        """Say how many workers."""
        config = super().config()
        config["server"]["workers"] = self.workers
        return config


@contextmanager
def _registry(directory: Path, workers: int = WORKERS) -> Iterator[Sized]:
    registry = Sized("pierhead", directory)
    registry.workers = workers
    with registry:
        yield registry


def _latency(act: Callable[[int], object], times: int = _ASKED) -> float:
    """Give the median of how many milliseconds an action takes; the first is not counted."""
    act(0)
    taken = []
    for number in range(1, times + 1):
        begin = time.perf_counter()
        act(number)
        taken.append(time.perf_counter() - begin)
    return median(taken) * 1000


def _asking(connection: Connection, method: str, path: str) -> Callable[[int], object]:
    return lambda _: connection.ask(method, path, 200)


def _seed(registry: Sized, repository: str) -> tuple[Blob, Blob]:
    """Push a small image; return its only blob and its manifest."""
    blob = new_blob(SMALL_LAYER)
    manifest = new_manifest(blob, blob)
    with registry.connect() as connection:
        push_blob(connection, repository, blob.digest, blob.data)
        push_manifest(connection, repository, "first", manifest)
    return blob, manifest


def tags(size: int, directory: Path) -> Point:
    """Fill a repository's index with tags on one manifest, and look at one of them, at the list, and at a new one."""
    with _registry(directory) as registry:
        blob, _ = _seed(registry, "app")
        path = registry.directory / "data" / "app" / "index.json"
        index = json.loads(path.read_bytes())
        (entry,) = index["manifests"]
        names = [f"t{number:06}" for number in range(size)]
        index["manifests"] = [{**entry, "annotations": {"org.opencontainers.image.ref.name": name}} for name in names]
        _replace(path, json.dumps(index).encode())
        with registry.connect() as connection:
            found = {
                "manifest GET by tag": _latency(_asking(connection, "GET", f"/v2/app/manifests/{names[size // 2]}")),
                "tags/list?n=100": _latency(_asking(connection, "GET", "/v2/app/tags/list?n=100")),
                "push of a new tag": _latency(lambda n: _push_tag(blob, f"new{n}", connection), _WRITTEN),
            }
        work = [[partial(_push_tag, blob, f"c{client}n{n}") for n in range(_IMAGES)] for client in range(_CLIENTS)]
        found[f"push of a new tag, {_CLIENTS} clients"] = 1000 / together(registry, work).rate
        return found, _settled(registry)


def _push_tag(blob: Blob, tag: str, connection: Connection) -> None:
    push_manifest(connection, "app", tag, new_manifest(blob, blob))


def repositories(size: int, directory: Path) -> Point:
    """Fill the disk with repositories, and look at one of them, at the catalog, and at a new one."""
    with _registry(directory) as registry:
        blob, manifest = _seed(registry, "seed")
        data = registry.directory / "data"
        for number in range(size):
            _copy_layout(data / "seed", data / "many" / f"r{number:06}")
        time.sleep(_SETTLING)  # a directory that has just changed is read again each time
        numbers = count()

        def push(_: int) -> None:
            name = f"new/{next(numbers)}"
            push_blob(connection, name, blob.digest, blob.data)
            push_manifest(connection, name, "latest", manifest)

        with registry.connect() as connection:
            found = {
                "manifest GET by tag": _latency(
                    lambda number: connection.ask("GET", f"/v2/many/r{number % size:06}/manifests/first", 200)
                ),
                "_catalog?n=100": _latency(_asking(connection, "GET", "/v2/_catalog?n=100")),
                "_catalog?n=100 from the middle": _latency(
                    _asking(connection, "GET", f"/v2/_catalog?n=100&last=many/r{size // 2:06}")
                ),
                "push to a new repository": _latency(push, _WRITTEN),
            }
        return found, _settled(registry)


def blobs(size: int, directory: Path) -> Point:
    """Fill a repository with blobs, and look at one of them, and at a new one."""
    with _registry(directory) as registry:
        _seed(registry, "app")
        place = registry.directory / "data" / "app" / "blobs" / "sha256"
        many = [new_blob(64) for _ in range(size)]
        for blob in many:
            (place / blob.digest.partition(":")[2]).write_bytes(blob.data)

        def push(_: int) -> None:
            blob = new_blob(SMALL_LAYER)
            push_blob(connection, "app", blob.digest, blob.data)

        with registry.connect() as connection:
            found = {
                "blob GET": _latency(
                    lambda number: connection.ask("GET", f"/v2/app/blobs/{many[number % size].digest}", 200)
                ),
                "blob HEAD": _latency(
                    lambda number: connection.ask("HEAD", f"/v2/app/blobs/{many[-number % size].digest}", 200)
                ),
                "push of a blob": _latency(push, _WRITTEN),
            }
        return found, _settled(registry)


def clients(size: int, directory: Path) -> Point:
    """Let so many clients ask for a manifest as often as they can."""
    with _registry(directory) as registry:
        _seed(registry, "app")
        command = ["wrk", "-t1", f"-c{size}", f"-d{_BUSY_SECONDS}s", "--latency"]
        url = f"http://{registry.host}:{registry.port}/v2/app/manifests/first"
        output = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
        if "Non-2xx" in output or "Socket errors" in output:
            raise click.ClickException(output)
        return {"manifest GET, median": _wrk(output, 50), "manifest GET, 99%": _wrk(output, 99)}, _settled(registry)


def workers(size: int, directory: Path) -> Point:
    """Serve with so many workers."""
    with _registry(directory, size) as registry:
        _seed(registry, "app")
        url = f"http://{registry.host}:{registry.port}/v2/app/manifests/first"
        command = ["wrk", "-t1", f"-c{_CLIENTS}", f"-d{_BUSY_SECONDS}s", url]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        asked = re.search(r"Requests/sec:\s+([0-9.]+)", output)
        images = [
            [partial(push_image, repository=f"new/{client}", tag=f"v{number}", image=new_image(SMALL_LAYER))
             for number in range(_IMAGES)]
            for client in range(_CLIENTS)
        ]  # fmt: skip
        pushed = together(registry, images).rate
        return {"manifest GET": float(asked[1]) if asked else 0.0, "small images pushed": pushed}, _settled(registry)


def _settled(registry: Sized) -> float:
    """Give the megabytes that it keeps: what its threads have freed is given back every few seconds."""
    time.sleep(_SETTLING)
    with registry.connect() as connection:
        for _ in range(registry.workers * 4):
            connection.ask("GET", "/v2/", 200)
    time.sleep(_SETTLING)
    return registry.memory()


def _wrk(output: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([0-9.]+)(us|ms|s)$", output, re.MULTILINE)
    if found is None:
        raise click.ClickException(output)
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(".tmp-growth")
    new.write_bytes(data)
    new.rename(path)


def _copy_layout(source: Path, target: Path) -> None:
    """Make another repository of the same content."""
    (target / "blobs" / "sha256").mkdir(parents=True)
    for path in (source / "blobs" / "sha256").iterdir():
        os.link(path, target / "blobs" / "sha256" / path.name)
    for name in ("index.json", "oci-layout"):
        os.link(source / name, target / name)


CURVES = (
    Curve("tags", "tags in the repository", (10, 100, 1000, 5000, 20_000, 50_000), tags),
    Curve("repositories", "repositories", (10, 100, 1000, 5000, 20_000), repositories),
    Curve("blobs", "blobs in the repository", (10, 100, 1000, 10_000, 100_000), blobs),
    Curve("clients", "clients at once", (1, 8, 32, 100, 250, 500), clients, "milliseconds"),
    Curve("workers", "workers", (1, 2, 4, 8), workers, "requests per second"),
)


def draw(curve: Curve, points: Sequence[Point], target: Path) -> None:
    """Draw what was measured: what is done above, memory below."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # only who draws needs it

    figure = Figure(figsize=(7.5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    for line in points[0][0]:
        above.plot(curve.sizes, [found[line] for found, _ in points], marker="o", label=line)
    below.plot(curve.sizes, [memory for _, memory in points], marker="o", color="grey")
    above.set(xscale="log", yscale="log", ylabel=curve.unit)
    below.set(xlabel=curve.label, ylabel="memory, MB (PSS)", ylim=(0, None))
    below.set_xticks(curve.sizes, [f"{size:,}" for size in curve.sizes])
    below.minorticks_off()
    above.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=90)


@click.command()
@click.option("--only", multiple=True, type=click.Choice([curve.name for curve in CURVES]), help="Draw only these.")
@click.option("--quick", is_flag=True, help="Only the two smallest sizes: shows that it works.")
@click.option("--dir", "parent", type=click.Path(file_okay=False, path_type=Path), default=Path("build"))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("docs/growth"), show_default=True)
def main(only: tuple[str, ...], quick: bool, parent: Path, out: Path) -> None:
    """Measure how cost grows with what there is; draw a graph of each, and print the figures."""
    parent.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    for curve in CURVES:
        if only and curve.name not in only:
            continue
        sizes = curve.sizes[:2] if quick else curve.sizes
        points = []
        for size in sizes:
            with tempfile.TemporaryDirectory(prefix="growth-", dir=parent) as directory:
                points.append(curve.measure(size, Path(directory, "registry")))
            found, memory = points[-1]
            figures = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
            click.echo(f"{curve.name} {size}: {figures}; {memory:.1f} MB")
        draw(Curve(curve.name, curve.label, sizes, curve.measure, curve.unit), points, out / f"{curve.name}.png")


if __name__ == "__main__":
    main(prog_name="python -m bench.growth")
