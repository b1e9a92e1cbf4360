"""`pierhead du`: its figures are those of du on the same files, and its table is one that people can read."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry.cli import main
from registry.config import load
from registry.stores import build_controller
from storage.digest import Digest
from storage.image_store import ImageStore

SIZES = (0, 1, 5000, 300_000)


class Registry:
    """A registry of two stores, and the command for it."""

    def __init__(self, directory: Path, **storage: Any) -> None:
        self.root = directory / "data"
        self.config = directory / "config.json"
        sub = {"/sub": {"rootDirectory": str(directory / "sub")}}
        self.config.write_text(json.dumps({"storage": {"rootDirectory": str(self.root), "subPaths": sub, **storage}}))

    def store(self, name: str) -> ImageStore:
        return build_controller(load(str(self.config))).store(name)

    def push(self, name: str, data: bytes) -> Digest:
        digest = Digest.of(data)
        self.store(name).push_blob(name, digest, io.BytesIO(data))
        return digest

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["du", *arguments, "--config", str(self.config)])
        assert result.exit_code == code, result.output
        assert not result.exception or isinstance(result.exception, SystemExit), result.exception
        return result

    def figures(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Return the lines by what they are about: a repository, a root directory, a quota."""
        found = {}
        for line in self.run(*arguments, "--json", code=code).stdout.splitlines():
            fields = json.loads(line)
            about = fields.get("total", fields.get("quota", fields))
            found[about.pop("repository", None) or about.pop("rootDirectory", None) or about.pop("name")] = about
        return found

    def tree(self) -> dict[str, bytes | None]:
        return {str(path): path.read_bytes() if path.is_file() else None for path in self.root.rglob("*")}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Give a registry in which repositories share some of their blobs, and the bin and the uploads hold something."""
    registry = Registry(tmp_path)
    for number, size in enumerate(SIZES):
        registry.push("one", bytes([number]) * size)
        registry.push("one/nested", bytes([number]) * size)
    registry.push("two", bytes([3]) * SIZES[3])
    registry.push("two", b"own" * 1000)
    binned = registry.push("two", b"binned" * 1000)
    also_shared = registry.push("one", b"shared with a bin" * 100)
    registry.push("two", b"shared with a bin" * 100)
    backend = registry.store("two").backend
    backend.bin_blobs("two", [binned, also_shared], 0)
    session = backend.begin_upload("two", "sha256")
    backend.append_upload("two", session, io.BytesIO(b"under way"))
    registry.push("sub/far", b"far" * 1000)
    return registry


def real_du(*options: str, root: Path, pattern: str) -> int:
    """Return what du says of some files of a store."""
    files = b"\0".join(os.fsencode(path) for path in root.rglob(pattern) if path.is_file())
    command = ["du", "-c", "-B1", "--files0-from=-", *options]
    done = subprocess.run(command, input=files, capture_output=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def test_the_totals_are_those_of_du(registry: Registry) -> None:
    total = registry.figures()[str(registry.root)]
    logical = real_du("-l", "--apparent-size", root=registry.root, pattern="blobs/sha256/*")
    physical = real_du("--apparent-size", root=registry.root, pattern="blobs/sha256/*")
    assert (total["logical"], total["physical"]) == (logical, physical)
    assert total["saved"] == logical - physical == sum(SIZES) + SIZES[3]
    assert total["allocated"] == real_du(root=registry.root, pattern="*")
    everything = real_du("--apparent-size", root=registry.root, pattern="*")
    parts = ("physical", "uploads", "bin", "poolOnly", "other")
    assert sum(total[part] for part in parts) == everything


def test_each_repository(registry: Registry) -> None:
    figures = registry.figures()
    one, nested, two = (figures[name] for name in ("one", "one/nested", "two"))
    shared = len(b"shared with a bin" * 100)
    assert one == {
        "blobs": 5,
        "logical": sum(SIZES) + shared,
        "share": round(5001 / 2 + SIZES[3] / 3 + shared),
        "own": shared,
        "uploads": 0,
        "bin": 0,
    }
    assert (nested["logical"], nested["own"]) == (sum(SIZES), 0)
    assert (two["logical"], two["own"], two["bin"]) == (SIZES[3] + 3000, 3000, 6000 + shared)
    assert two["uploads"] > len(b"under way"), "with the note on its digest"
    assert figures[str(registry.root)]["bin"] == 6000, "what a repository has in its place is not counted again"
    assert figures["sub/far"]["own"] == figures[str(registry.root.with_name("sub"))]["logical"] == 3000
    assert sum(use["share"] for use in (one, nested, two)) == pytest.approx(
        figures[str(registry.root)]["physical"], abs=3
    )


def test_what_only_the_pool_has(registry: Registry) -> None:
    digest = Digest.of(b"own" * 1000)
    (registry.root / "two/blobs/sha256" / digest.encoded).unlink()
    assert registry.figures()[str(registry.root)]["poolOnly"] == 3000


def test_names_choose_what_lies_in_them(registry: Registry) -> None:
    figures = registry.figures("one")
    assert list(figures) == ["one", "one/nested", str(registry.root), str(registry.root.with_name("sub"))]
    total = figures[str(registry.root)]
    assert total["saved"] == sum(SIZES)
    assert "free" not in total
    assert list(registry.figures("two", "one/nested"))[:2] == ["one/nested", "two"]


def test_the_table(registry: Registry) -> None:
    lines = registry.run().stdout.splitlines()
    assert lines[0].split() == ["REPOSITORY", "BLOBS", "LOGICAL", "SHARE", "OWN", "UPLOADS", "BIN"]
    assert [line.split()[0] for line in lines[1:5]] == ["one", "one/nested", "sub/far", "two"]
    assert lines[2].split() == ["one/nested", "4", "297.9", "KiB", "100.1", "KiB", "0", "B", "0", "B", "0", "B"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert "QUOTA" not in lines


def test_quotas_are_shown_as_the_server_counts_them(registry: Registry) -> None:
    limited = Registry(registry.config.parent, quotas={"one": "1MB", "/": "2GiB"}, maxRepos=4)
    figures = limited.figures()
    distinct = sum(SIZES) + len(b"shared with a bin" * 100)
    assert figures["one"] == {"used": distinct, "limit": 1_000_000}
    assert figures["/"] == {"used": distinct + 3000 + 9 + 3000, "limit": 2 * 1024**3}
    assert figures["maxRepos"] == {"used": 0, "limit": 4}
    table = limited.run().stdout.splitlines()[-4:]
    assert table[0].split() == ["QUOTA", "USED", "LIMIT", "FULL"]
    assert table[2].split() == ["one", "299.5", "KiB", "976.6", "KiB", "30%"]
    assert limited.figures("one").keys() == registry.figures("one").keys()


def test_a_registry_that_has_nothing_yet(tmp_path: Path) -> None:
    registry = Registry(tmp_path, quotas={"/": "1GiB"})
    figures = registry.figures()
    assert figures["/"]["used"] == 0
    assert figures[str(registry.root)]["logical"] == 0
    assert "nothing to save" in registry.run().stdout
    assert not registry.root.exists()


def test_files_of_other_tools_and_links(registry: Registry) -> None:
    (registry.root / "blobs").mkdir()
    (registry.root / "blobs/stray").write_bytes(b"12345")
    (registry.root / "one/blobs/sha256/not-a-digest").write_bytes(b"1234567")
    (registry.root / "loop").symlink_to(registry.root)
    (registry.root / "dangling").symlink_to("nowhere")
    shadowed = registry.root / "sub/shadowed/blobs/sha256"
    shadowed.mkdir(parents=True)
    (shadowed / ("0" * 64)).write_bytes(b"not served")
    before = registry.figures("one")["one"]
    assert before["blobs"] == 5
    assert "sub/shadowed" not in registry.figures()
    assert registry.figures()[str(registry.root)]["other"] >= 5 + 7 + 10


def test_what_cannot_be_read_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("one/blobs/sha256"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = registry.run("two", code=1)
    assert f"not counted: {registry.root}/one/blobs/sha256: Permission denied" in result.stderr
    assert result.stdout.splitlines()[1].startswith("two ")


@pytest.mark.parametrize("arguments", [("Upper",), ("../..",), ("none",), ("one", "on"), ("\udcff",), ("",)])
def test_bad_input_ends_with_2_and_changes_nothing(registry: Registry, arguments: tuple[str, ...]) -> None:
    before = registry.tree()
    result = registry.run(*arguments, code=2)
    assert result.stderr
    assert result.stdout == ""
    assert registry.tree() == before


def test_it_changes_nothing(registry: Registry) -> None:
    before = registry.tree()
    registry.run()
    assert registry.tree() == before
