"""The benchmark runs: both registries start, answer its load rightly, and a table and JSON come of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = ["manifest-head", "images", "memory-idle", "memory-after"]


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


@pytest.mark.usefixtures("docker_registry")
def test_a_quick_run_compares_the_two_registries(tmp_path: Path) -> None:
    """Run two workloads small and look at every figure."""
    target = tmp_path / "results.json"
    done = bench("--quick", "--only", "manifest-head", "--only", "images", "--dir", tmp_path, "--json", target)
    assert done.returncode == 0, done.stderr
    document = json.loads(target.read_text(encoding="utf-8"))
    assert document["registries"] == ["pierhead", "docker-registry"]
    rows = {row["name"]: row for row in document["results"]}
    assert list(rows) == ROWS
    for row in rows.values():
        assert all(figure > 0 for pair in row["rounds"] for figure in pair)
        assert f"| {row['title']} " in done.stdout
    assert not list(tmp_path.glob("bench-*")), "the data of the run was left behind"


def test_an_unknown_workload_is_refused() -> None:
    """Name where the right names are to be found."""
    done = bench("--only", "nonsense")
    assert done.returncode != 0
    assert "--list" in done.stderr
