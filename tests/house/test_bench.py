"""The benchmark runs: the registries start, answer its load rightly, and tables and JSON come of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.client import Connection
from bench.content import new_image, push_image
from bench.files import FilesAlone
from bench.growth import CURVES
from bench.guarded import GuardedDockerRegistry, GuardedPierhead
from bench.registries import Registry
from tests.clients.support.programs import require

ROOT = Path(__file__).parents[2]


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the benchmark and give what it said."""
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def docker_registry() -> None:
    """Skip, or under CI fail, where there is nothing to compare with."""
    if shutil.which("docker-registry") is None:
        message = "docker-registry is not installed: apt-get install docker-registry"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


def results(target: Path, done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Read the figures of a run that went well, by row; each is in the table too."""
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(target.read_text(encoding="utf-8"))["results"]}
    for row in rows.values():
        assert all(figure > 0 for pair in row["rounds"] for figure in pair)
        assert f"| {row['title']}" in done.stdout
    return rows


@pytest.mark.usefixtures("docker_registry")
def test_a_quick_run_compares_the_two_registries(tmp_path: Path) -> None:
    """Run two workloads small and look at every figure."""
    target = tmp_path / "results.json"
    done = bench("--quick", "--only", "manifest-head", "--only", "images", "--dir", tmp_path, "--json", target)
    rows = results(target, done)
    assert list(rows) == ["manifest-head", "images", "memory-idle", "memory-after"]
    assert all(row["registries"] == ["pierhead", "docker-registry"] for row in rows.values())
    assert not list(tmp_path.glob("bench-*")), "the data of the run was left behind"


def test_a_quick_run_shows_what_the_disk_gives(tmp_path: Path) -> None:
    """Compare the registry to those who write its files themselves, which are all there and synced."""
    target = tmp_path / "results.json"
    rows = results(target, bench("--quick", "--only", "disk", "--dir", tmp_path, "--json", target))
    assert {name: row["registries"] for name, row in rows.items()} == {
        "disk-images": ["pierhead", "files alone"],
        "disk-repositories": ["pierhead", "files alone"],
    }


def test_files_alone_are_those_of_a_layout_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync what each answer of a registry would promise: else the figure would be of something else."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    image = new_image(100)
    with FilesAlone("files", tmp_path / "alone") as registry, registry.connect() as connection:
        push_image(connection, "team/app", "1", image)
    repository = tmp_path / "alone/data/team/app"
    blobs = {path.name: path.read_bytes() for path in (repository / "blobs/sha256").iterdir()}
    assert blobs == {blob.digest[7:]: blob.data for blob in (image.config, image.layer, image.manifest)}
    assert {path.name for path in repository.iterdir()} == {"blobs", "index.json", "oci-layout"}
    files = [path for path in synced if "/.tmp-" in path]
    names = [path for path in synced if "/.tmp-" not in path]
    assert len(files) == len(blobs) + 2
    assert names.count(str(repository / "blobs/sha256")) == len(blobs)
    assert {str(path) for path in (tmp_path / "alone/data", repository, repository.parent)} <= set(names)


@pytest.mark.usefixtures("docker_registry")
def test_a_quick_run_shows_what_a_login_costs(tmp_path: Path) -> None:
    """Compare the registry with users to itself without, and to docker-registry with users."""
    target = tmp_path / "results.json"
    done = bench("--quick", "--only", "auth", "--dir", tmp_path, "--json", target)
    rows = results(target, done)
    assert {name: row["registries"] for name, row in rows.items()} == {
        "auth-basic": ["pierhead, users", "pierhead, open"],
        "auth-token": ["pierhead, users", "pierhead, open"],
        "auth-docker": ["pierhead, users", "docker-registry, users"],
    }
    assert rows["auth-basic"]["goal"] == rows["auth-token"]["goal"] == 1.2
    assert done.stdout.count("≤ 1.2x") == 2, "the goal does not say that it is the most that it may cost"


@pytest.mark.parametrize("kind", [GuardedPierhead, GuardedDockerRegistry])
def test_where_the_load_logs_in_nobody_else_may_read(
    kind: type[Registry], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Refuse who has no credentials: a figure of a login that is not needed would be worth nothing."""
    if kind is GuardedDockerRegistry:
        request.getfixturevalue("docker_registry")
    with kind("guarded", tmp_path / "registry") as registry:
        path = "/v2/bench/image/manifests/latest"
        for headers, status in (({}, 401), (registry.headers, 404), (registry.headers | registry.token(), 404)):
            with Connection(registry.host, registry.port) as connection:
                connection.ask("GET", path, status, headers=headers)


def test_a_quick_run_measures_a_collection(tmp_path: Path) -> None:
    """Collect a small repository; the figure stands in the JSON, too."""
    target = tmp_path / "results.json"
    done = bench("--quick", "--only", "gc-memory", "--dir", tmp_path, "--json", target)
    assert done.returncode == 0, done.stderr
    figure = json.loads(target.read_text(encoding="utf-8"))["machine"]["gc-memory"]
    assert "4000 blobs in one repository" in figure
    assert "bytes of memory for each blob" in figure
    assert figure in done.stdout


def test_the_list_names_every_row() -> None:
    """List the rows of all comparisons."""
    listed = [line.split()[0] for line in bench("--list").stdout.splitlines()]
    assert len(set(listed)) == len(listed)
    assert {"manifest-get-tag", "catalog", "auth-basic", "auth-token", "auth-docker", "gc-memory"} <= set(listed)


def test_an_unknown_workload_is_refused() -> None:
    """Name where the right names are to be found."""
    done = bench("--only", "nonsense")
    assert done.returncode != 0
    assert "--list" in done.stderr


@pytest.mark.usefixtures("docker_registry")
def test_a_quick_run_shows_what_nginx_does(tmp_path: Path) -> None:
    """Compare the registry behind nginx with docker-registry, and both ways with nginx that asks nobody."""
    require("nginx")
    target = tmp_path / "results.json"
    chosen = ["nginx-blob-head", "nginx-images", "file-pull-1", "nginx-file-pull-1"]
    options = [word for name in chosen for word in ("--only", name)]
    rows = results(target, bench("--quick", *options, "--dir", tmp_path, "--json", target))
    assert {name: row["registries"] for name, row in rows.items()} == {
        "nginx-blob-head": ["pierhead, nginx", "docker-registry"],
        "nginx-images": ["pierhead, nginx", "docker-registry"],
        "file-pull-1": ["pierhead", "nginx alone"],
        "nginx-file-pull-1": ["pierhead, nginx", "nginx alone"],
    }
    assert rows["nginx-blob-head"]["goal"] == 18


def test_how_cost_grows_is_drawn(tmp_path: Path) -> None:
    options = ["--quick", "--only", "blobs", "--dir", str(tmp_path), "--out", str(tmp_path)]
    command = [sys.executable, "-m", "bench.growth", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["blobs 10", "blobs 100"]
    assert (tmp_path / "blobs.png").read_bytes().startswith(b"\x89PNG")


def test_every_graph_is_shown() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for curve in CURVES:
        assert f"(growth/{curve.name}.png)" in page
        assert (ROOT / "docs" / "growth" / f"{curve.name}.png").is_file()
