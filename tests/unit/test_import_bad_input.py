"""`pierhead import` of bad input: a line says why, and nothing is changed; or it is named, and the rest goes on."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_layout import HandWrittenLayout, named
from tests.clients.support.images import rootfs
from tests.support.oci import OCI_IMAGE, OCI_INDEX, descriptor_of, document, image, index, random_bytes
from tests.support.sources import DistributionTree, DockerArchive, files_of, member, write_tar
from tests.unit.test_import import Importing, tree_image


@pytest.fixture
def registry(tmp_path: Path) -> Importing:
    made = Importing(tmp_path)
    made.image("here", "1")
    return made


def refused(registry: Importing, *arguments: object, said: str) -> None:
    """Hold that it ends with 2, a line that says why, and nothing changed."""
    before = registry.tree()
    for option in ((), ("--dry-run",)):
        result = registry.run("import", *map(str, arguments), *option, code=2)
        assert said in result.stderr, result.stderr
        assert len([line for line in result.stderr.splitlines() if "bytes read" not in line]) == 1, result.stderr
        assert registry.tree() == before


def saved(registry: Importing) -> bytes:
    archive = DockerArchive()
    archive.image("app:1")
    return archive.write(registry.directory / "whole.tar").read_bytes()


# the source as a whole


def test_what_is_no_source(registry: Importing) -> None:
    place = registry.directory
    (place / "empty").mkdir()
    (place / "empty-file").touch()
    (place / "text").write_text("no archive\n" * 1000)
    (place / "random").write_bytes(random_bytes(100_000))
    (place / "random.gz").write_bytes(gzip.compress(random_bytes(100_000)))
    (place / "dir").mkdir()
    (place / "dir/manifest.json").write_text('{"schemaVersion": 2}')
    os.mkfifo(place / "pipe")
    refused(registry, place / "none", said="No such file or directory")
    refused(registry, place / "empty", said="is no source of images")
    refused(registry, place / "dir", said="is no source of images")
    refused(registry, place / "pipe", said="neither a file nor a directory")
    refused(registry, "/dev/null", said="neither a file nor a directory")
    for name in ("empty-file", "text", "random", "random.gz"):
        refused(registry, place / name, said="is no tar archive")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_an_archive_that_is_cut_off(registry: Importing, compress: bool, part: float) -> None:
    data = saved(registry)
    data = gzip.compress(data) if compress else data[:-8192]
    path = registry.directory / "cut.tar"
    path.write_bytes(data[: int(len(data) * part)])
    refused(registry, path, said="cut off")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (member("../../etc/passwd", b"x"), "leads out of the archive"),
        (member("a/../../x", b"x"), "leads out of the archive"),
        (member("/etc/passwd", b"x"), "leads out of the archive"),
        (member("link", kind=tarfile.SYMTYPE, link="../../etc/passwd"), "leads out of the archive"),
        (member("link", kind=tarfile.SYMTYPE, link="/etc/passwd"), "leads out of the archive"),
        (member("link", kind=tarfile.LNKTYPE, link="../x"), "leads out of the archive"),
        (member("null", kind=tarfile.CHRTYPE), "no file, directory or link"),
        (member("disk", kind=tarfile.BLKTYPE), "no file, directory or link"),
        (member("pipe", kind=tarfile.FIFOTYPE), "no file, directory or link"),
    ],
)
def test_members_that_no_archive_of_images_has(
    registry: Importing, bad: tuple[tarfile.TarInfo, bytes], said: str
) -> None:
    archive = DockerArchive()
    archive.image("app:1")
    archive.members.append(bad)
    refused(registry, archive.write(registry.directory / "bad.tar"), said=said)


@pytest.mark.parametrize("layers", [["a"], ["loop"], ["gone"], ["../x"], ["/etc/hostname"], [""], ["\u0000"]])
def test_links_and_names_that_lead_nowhere(registry: Importing, layers: list[str]) -> None:
    archive = DockerArchive()
    archive.image("app:1")
    archive.images[0]["Layers"] = layers
    archive.members += [
        member("a", kind=tarfile.SYMTYPE, link="b"),
        member("b", kind=tarfile.LNKTYPE, link="a"),
        member("loop", kind=tarfile.SYMTYPE, link="loop"),
        member("gone", kind=tarfile.SYMTYPE, link="nowhere"),
    ]
    refused(registry, archive.write(registry.directory / "bad.tar"), said="not imported: app:1: ")


def test_headers_that_are_bombs(registry: Importing) -> None:
    """A header that says it is huge, or smaller than nothing, is not read."""
    path = registry.directory / "bad.tar"
    whole = bytearray(saved(registry))
    for kind in (b"x", b"g", b"L", b"K"):
        with path.open("wb") as file:
            file.write(_header(kind, 3 << 30))
            file.truncate(4 << 30)
        refused(registry, path, said="header is too large")
    for size in (-512, -1024, -(1 << 40)):
        path.write_bytes(_header(b"0", size) + whole)
        refused(registry, path, said="bad.tar")
        path.write_bytes(whole[:1024] + _header(b"x", size) + whole[1024:])
        refused(registry, path, said="bad.tar")


def _header(kind: bytes, size: int) -> bytes:
    """Return a header with a size as GNU tar writes large ones, which can be negative."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + struct.pack(">q", size).rjust(
        11, b"\xff" if size < 0 else b"\0"
    )
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


# documents


@pytest.mark.parametrize(
    ("document_", "said"),
    [
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b"{}", "is damaged"),
        (b'{"manifests": 1}', "is damaged"),
        (b'{"manifests": []}', "there is no image in it"),
        (b'{"manifests": [1]}', "no descriptor"),
        (b'{"manifests": [{"mediaType": "a", "digest": "b", "size": 1}]}', "a digest is"),
        (b"[" * 100_000, "is damaged"),
        (b"\xff\xfe", "is damaged"),
    ],
)
def test_index_json(registry: Importing, document_: bytes, said: str) -> None:
    layout = registry.layout()
    (layout.directory / "index.json").write_bytes(document_)
    refused(registry, layout.directory, "app", said=said)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "there is no image in it"),
        ([1], "no list of images"),
        ([{}], "names no config"),
        ([{"Config": 1}], "names no config"),
        ([{"Config": "../x", "Layers": []}], "has no file ../x"),
        ([{"Config": "/etc/passwd", "Layers": []}], "has no file"),
        ([{"Config": "text", "Layers": []}], "text is damaged"),
        ([{"Config": "empty", "Layers": ["empty"]}], "names 1 layers, and empty has 0"),
        ([{"Config": "empty", "Layers": "x"}], "Layers is no list of strings"),
        ([{"Config": "bad", "Layers": ["empty"]}], "a diff_id that is no digest"),
        ([{"Config": "empty", "RepoTags": [1], "Layers": []}], "RepoTags is no list of strings"),
        ([{"Config": "empty", "RepoTags": ["UP:1"], "Layers": []}], "is no name of an image"),
        ([{"Config": "empty", "RepoTags": ["a:b:c"], "Layers": []}], "is no name of an image"),
        ([{"Config": "empty", "RepoTags": ["app:\u00e9"], "Layers": []}], "can be no tag"),
        ([{"Config": "empty", "RepoTags": ["../app:1"], "Layers": []}], "is no name of an image"),
        ([{"Config": "empty", "RepoTags": ["x/index.json:1"], "Layers": []}], "the image layout on disk needs it"),
    ],
)
def test_manifest_json(registry: Importing, images: Any, said: str) -> None:
    archive = DockerArchive()
    archive.images = images
    bad = {"rootfs": {"diff_ids": ["x"]}}
    archive.members = [member("text", b"x"), member("empty", b"{}"), member("bad", json.dumps(bad).encode())]
    refused(registry, archive.write(registry.directory / "bad.tar"), said=said)


def test_documents_that_are_bombs(registry: Importing) -> None:
    layout = registry.layout()
    with (layout.directory / "index.json").open("wb") as file:
        file.truncate(1 << 40)
    refused(registry, layout.directory, "app", said="more than the 67108864 that it may have")
    manifest = document({"schemaVersion": 2, "x": "x" * 5_000_000}, OCI_IMAGE)
    layout.manifest(manifest)
    layout.index([named(manifest, "1")])
    refused(registry, layout.directory, "app", said="more than the 4259840 that it may have")


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (document([], OCI_IMAGE), "not a JSON object"),
        (document({"schemaVersion": 2}, OCI_IMAGE), "config must be a descriptor"),
        (document({"schemaVersion": 1}, OCI_IMAGE), "schema 1"),
        (document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}, OCI_IMAGE), "contradict"),
        (document({"schemaVersion": 2, "manifests": []}, "text/plain"), "not a manifest media type"),
        (image(descriptor_of(b"1", "a") | {"digest": "x"}), "config.digest must be"),
        (image(descriptor_of(b"1", "a") | {"digest": "blake3:x"}), "not supported"),
        (index([descriptor_of(b"1", OCI_IMAGE)]), "neither the source nor the repository has"),
    ],
)
def test_manifests(registry: Importing, manifest: Any, said: str) -> None:
    layout = registry.layout()
    layout.manifest(manifest)
    layout.index([named(manifest, "1")])
    before = registry.tree()
    result = registry.run("import", str(layout.directory), "app", code=2)
    assert said in result.stderr
    assert "app: not imported: 1 (" in result.stderr
    assert registry.tree().keys() - before.keys() <= {str(registry.root / "app"), *_scaffold(registry)}


def _scaffold(registry: Importing) -> set[str]:
    return {path for path in registry.tree() if "/app/blobs" in path or "/locks/" in path}


# names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Upper", "a repository name is"),
        ("a//b", "a repository name is"),
        ("../x", "a repository name is"),
        ("blobs", "the image layout on disk needs it"),
        (":1", "names no repository"),
        ("app:", "a tag is"),
        ("app:a b", "a tag is"),
        ("app@sha256:" + 64 * "0", "a repository name is"),
        ("a" * 256, "at most 255"),
        ("app:1", "there are 2 images in it"),
    ],
)
def test_names_that_are_no_good(registry: Importing, name: str, said: str) -> None:
    layout = registry.layout()
    layout.index([named(layout.image(), "1"), named(layout.image(), "2")])
    refused(registry, layout.directory, name, said=said)


def test_names_that_are_missing_or_too_many(registry: Importing) -> None:
    layout = registry.layout()
    layout.index([named(layout.image(), "1")])
    refused(registry, layout.directory, said="give a NAME")
    layout.index([named(layout.image(), "a:1"), named(layout.image(), "b:1")])
    refused(registry, layout.directory, "app", said="several repositories (a, b): leave NAME out")
    layout.index([named(layout.image(), "docker.io/library/a:1"), named(layout.image(), "a:1")])
    refused(registry, layout.directory, said="two images are tagged 1")
    tree = registry.directory / "tree"
    other = HandWrittenLayout(tree / "app")
    other.index([named(other.image(), "1")])
    refused(registry, tree, "mirror:1", said="without a tag")


def test_the_store_itself_is_no_source(registry: Importing) -> None:
    for path in (registry.root, registry.root / "team/app", registry.directory):
        refused(registry, path, "app", said="lie in each other")
    link = registry.directory.parent / f"{registry.directory.name}-link"
    link.symlink_to(registry.root)
    refused(registry, link, said="lie in each other")


# one bad image among others


def lose(path: Path) -> Path:
    path.unlink()
    return path


SPOILED: dict[str, Callable[[Path], object]] = {
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "missing": lose,
    "directory": lambda path: os.mkdir(lose(path)),
    "pipe": lambda path: os.mkfifo(lose(path)),
    "device": lambda path: os.symlink("/dev/zero", lose(path)),
    "loop": lambda path: os.symlink(path, lose(path)),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=list(SPOILED))
@pytest.mark.parametrize("copy", [False, True])
def test_a_damaged_image_is_named_and_the_others_go_on(
    registry: Importing, spoil: Callable[[Path], object], copy: bool
) -> None:
    layout = registry.layout()
    good, bad, manifest = layout.image(), layout.image(), layout.image()
    twice = layout.manifest(image(good.content["config"], bad.content["layers"]))
    layer = bad.content["layers"][0]["digest"]
    entries = [named(bad, "bad"), named(twice, "twice"), named(good, "good"), named(manifest, "cut")]
    layout.index(entries)
    for digest in (layer, manifest.digest):
        spoil(layout.directory / "blobs" / digest.replace(":", "/"))
    outcomes, summary = registry.bring(layout.directory, "app", *(["--copy"] if copy else []), code=1)
    assert [outcome["action"] for outcome in outcomes] == ["failed", "failed", "imported", "failed"]
    for outcome, digest in ((outcomes[0], layer), (outcomes[1], layer), (outcomes[3], manifest.digest)):
        assert digest.partition(":")[2] in outcome["reason"]
    assert registry.store.tags("app")[0] == ["good"]
    assert summary["failed"] == 3
    for path in (registry.root / "app").glob("blobs/*/*"):
        assert path.name not in (layer[7:], manifest.digest[7:])
    assert not list(registry.root.rglob(".tmp-*"))
    assert not list((registry.root / "app").glob(".uploads/*"))


def test_a_damaged_image_in_a_docker_archive(registry: Importing) -> None:
    archive = DockerArchive()
    for number in range(3):
        archive.image(f"app:{number}")
    archive.image("app:gzip", compress=True)
    archive.image("app:cut", compress=True)
    archive.image("app:lying", compress=True)
    for number, data in (
        (3, rootfs(b"another")),
        (9, archive.members[9][1][:-9]),
        (11, gzip.compress(rootfs(b"another"))),
    ):
        name = archive.members[number][0].name
        archive.members[number] = member(name, data)
    outcomes, _ = registry.bring(archive.write(registry.directory / "saved.tar"), code=1)
    failed = {outcome["digest"] if not outcome["tags"] else outcome["tags"][0] for outcome in outcomes[:]}
    assert {outcome["action"] for outcome in outcomes} == {"imported", "failed"}
    assert registry.store.tags("app")[0] == ["0", "2", "gzip"]
    assert {"1", "app:cut", "app:lying"} <= failed


def test_a_damaged_blob_of_an_archive(registry: Importing) -> None:
    layout = registry.layout()
    good, bad = layout.image(), layout.image()
    layout.index([named(bad, "bad"), named(good, "good")])
    path = layout.directory / "blobs" / bad.content["layers"][0]["digest"].replace(":", "/")
    path.write_bytes(bytes(path.stat().st_size))
    archive = write_tar(registry.directory / "a.tar", files_of(layout.directory))
    result = registry.run("import", str(archive), "app", code=1)
    assert f"{bad.content['layers'][0]['digest'][7:]} is damaged" in result.stderr
    assert registry.store.tags("app")[0] == ["good"]


def test_a_damaged_blob_of_distribution(registry: Importing) -> None:
    tree = DistributionTree(registry.directory / "old")
    good, bad = tree_image(tree), tree_image(tree)
    for name in ("a", "b"):
        tree.manifest(name, good, "good")
        tree.manifest(name, bad, "bad")
    tree.data(bad.content["config"]["digest"]).write_bytes(b"x")
    outcomes, _ = registry.bring(tree.root, code=1)
    assert sorted(outcome["action"] for outcome in outcomes) == ["failed", "failed", "imported", "imported"]


def test_a_damaged_index_here_is_told(registry: Importing) -> None:
    layout = registry.layout()
    layout.index([named(layout.image(), "1")])
    (registry.root / "team/app/index.json").write_text("{")
    result = registry.run("import", str(layout.directory), "team/app", code=1)
    assert "index.json of repository team/app is damaged" in result.stderr


def test_what_may_not_be_read(registry: Importing) -> None:
    path = registry.directory / "secret.tar"
    path.write_bytes(saved(registry))
    path.chmod(0)
    command = [sys.executable, "-c", "from registry.cli import main; main()"]
    if os.geteuid() == 0:  # who may read everything, unless that is taken away
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    command += ["import", str(path), "--config", str(registry.config)]
    before = registry.tree()
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "secret.tar' is not readable" in done.stderr
    assert registry.tree() == before


def test_a_store_that_cannot_be_written_stops_it(registry: Importing) -> None:
    """Not one line for each image, but one for the store."""
    layout = registry.layout()
    layout.index([named(layout.image(), str(number)) for number in range(3)])
    (registry.root / "app").write_text("a file where the repository has to be")
    result = registry.run("import", str(layout.directory), "app", code=1)
    assert "the import stopped" in result.stderr
    assert len(result.stderr.splitlines()) == 1
