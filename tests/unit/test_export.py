"""`pierhead export`: one archive for OCI tools and for docker, the same each time, or none."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registry.cli import main
from storage.digest import Digest
from tests.support.oci import (
    DOCKER_CONFIG,
    DOCKER_IMAGE,
    DOCKER_LAYER,
    OCI_CONFIG,
    OCI_IMAGE,
    OCI_LAYER,
    REF_NAME,
    Document,
    Json,
    descriptor_of,
    image,
    index,
    random_bytes,
)
from tests.unit.test_import import Importing

NAME = "team/app"


class Exporting(Importing):
    """A store to export from."""

    def blob(self, data: bytes, media_type: str, name: str = NAME) -> Json:
        self.push_blob(data, name)
        return descriptor_of(data, media_type)

    def platform(self, architecture: str, media_type: str = OCI_IMAGE, **fields: Any) -> Document:
        """Push an image for a platform."""
        docker = media_type == DOCKER_IMAGE
        config = {"os": "linux", "architecture": architecture, "n": random_bytes().hex()}
        parts = [self.blob(json.dumps(config).encode(), DOCKER_CONFIG if docker else OCI_CONFIG)]
        parts += [self.blob(random_bytes(), DOCKER_LAYER if docker else OCI_LAYER) for _ in range(2)]
        return self.push(image(parts[0], parts[1:], media_type, **fields))

    def multi(self, tag: str, *architectures: str) -> tuple[Document, list[Document]]:
        images = [self.platform(architecture) for architecture in architectures]
        children = [
            child.descriptor(platform={"os": "linux", "architecture": architecture})
            for child, architecture in zip(images, architectures, strict=True)
        ]
        return self.push(index(children), tag), images

    def export(self, what: str, *arguments: str, code: int = 0) -> Archive:
        path = self.directory / "exported.tar"
        path.unlink(missing_ok=True)
        before = set(self.directory.iterdir())
        result = self.run("export", what, "-o", str(path), *arguments, code=code)
        if code:
            assert result.stderr
            assert "Traceback" not in result.output
            assert set(self.directory.iterdir()) == before, "no file is left"
            return Archive(b"", result.stderr)
        return Archive(path.read_bytes(), result.stderr)


class Archive:
    """What was exported, and what was said."""

    def __init__(self, data: bytes, said: str) -> None:
        self.data = data
        self.said = said
        self.files: dict[str, bytes] = {}
        if data:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for member in archive:
                    assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)
                    self.files[member.name] = archive.extractfile(member).read()  # type: ignore[union-attr]

    @property
    def entries(self) -> list[Json]:
        entries: list[Json] = json.loads(self.files["index.json"])["manifests"]
        return entries

    @property
    def tags(self) -> dict[str, str]:
        return {entry["annotations"][REF_NAME]: entry["digest"] for entry in self.entries if "annotations" in entry}

    @property
    def images(self) -> list[Json]:
        """What docker would load: every file that is named is there."""
        images: list[Json] = json.loads(self.files["manifest.json"])
        for one in images:
            assert {one["Config"], *one["Layers"]} <= self.files.keys()
        return images

    @property
    def digests(self) -> set[str]:
        """All content, which is what its name says."""
        found = {name.removeprefix("blobs/").replace("/", ":") for name in self.files if name.startswith("blobs/")}
        for digest in found:
            algorithm, _, encoded = digest.partition(":")
            data = self.files[f"blobs/{algorithm}/{encoded}"]
            assert hashlib.new(algorithm, data).hexdigest() == encoded
        return found


@pytest.fixture
def registry(tmp_path: Path) -> Exporting:
    return Exporting(tmp_path)


def parts(manifest: Document) -> set[str]:
    content = manifest.content
    return {manifest.digest, content["config"]["digest"], *(layer["digest"] for layer in content["layers"])}


def test_one_image(registry: Exporting) -> None:
    manifest = registry.platform("amd64")
    registry.push(manifest, "1")
    registry.push(registry.platform("amd64"), "2")
    archive = registry.export(f"{NAME}:1")
    assert archive.files["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    assert list(archive.files)[:3] == ["oci-layout", "index.json", "manifest.json"]
    [entry] = archive.entries
    names = {"io.containerd.image.name": f"docker.io/{NAME}:1", REF_NAME: "1"}
    assert entry == manifest.descriptor(annotations=names)
    assert archive.digests == parts(manifest)
    [loaded] = archive.images
    config, *layers = (manifest.content[key] for key in ("config", "layers"))
    assert loaded["RepoTags"] == [f"{NAME}:1"]
    assert loaded["Config"] == f"blobs/{config['digest'].replace(':', '/')}"
    assert loaded["Layers"] == [f"blobs/{layer['digest'].replace(':', '/')}" for layer in layers[0]]


def test_a_digest(registry: Exporting) -> None:
    listed, [child, _] = registry.multi("1", "amd64", "arm64")
    archive = registry.export(f"{NAME}@{child.digest}")
    assert (archive.entries, archive.digests) == ([child.descriptor()], parts(child))
    assert [loaded["RepoTags"] for loaded in archive.images] == [None]
    assert registry.export(f"{NAME}@{listed.digest}").entries == [listed.descriptor()]


def test_a_whole_repository_moves(registry: Exporting) -> None:
    """Tags, manifests without one, indexes, Docker images, referrers of referrers; and it comes back as it was."""
    listed, children = registry.multi("multi", "arm64", "amd64")
    docker = registry.platform("amd64", DOCKER_IMAGE)
    registry.push(docker, "docker")
    registry.push(docker, "again")
    untagged = registry.platform("s390x")
    signature = registry.platform("none", subject=children[0].descriptor())
    registry.platform("none", subject=signature.descriptor())
    archive = registry.export(NAME)
    assert archive.tags == {"multi": listed.digest, "docker": docker.digest, "again": docker.digest}
    assert {untagged.digest, signature.digest} <= {entry["digest"] for entry in archive.entries}
    tags = {tag: loaded["Config"] for loaded in archive.images for tag in loaded["RepoTags"] or ()}
    assert tags.keys() == {f"{NAME}:multi", f"{NAME}:docker", f"{NAME}:again"}
    assert tags[f"{NAME}:multi"].endswith(children[1].content["config"]["digest"][7:]), "linux/amd64, for docker"
    registry.bring(registry.directory / "exported.tar", "moved")
    moved, stayed = (json.loads(registry.store.backend.read_index(name)[0])["manifests"] for name in ("moved", NAME))
    for entry in (*moved, *stayed):
        del entry["pushed"]
    assert sorted(map(json.dumps, moved)) == sorted(map(json.dumps, stayed))
    registry.is_whole("moved")


def test_a_single_component_comes_back(registry: Exporting) -> None:
    manifest = image(registry.blob(b"{}", OCI_CONFIG, "app"), [registry.blob(b"x", OCI_LAYER, "app")])
    registry.push(manifest, "1", "app")
    archive = registry.export("app:1")
    assert archive.entries[0]["annotations"]["io.containerd.image.name"] == "docker.io/library/app:1"
    assert archive.images[0]["RepoTags"] == ["app:1"]
    [outcome], _ = registry.bring(registry.directory / "exported.tar")
    assert (outcome["repository"], outcome["action"]) == ("app", "unchanged")


def test_signatures_come_with_the_image_they_are_of(registry: Exporting) -> None:
    listed, children = registry.multi("1", "amd64")
    signatures = [registry.platform("none", subject=one.descriptor()) for one in (listed, children[0])]
    registry.push(registry.platform("amd64"), "2")
    archive = registry.export(f"{NAME}:1")
    assert {entry["digest"] for entry in archive.entries} == {listed.digest, *(one.digest for one in signatures)}
    assert archive.digests == {listed.digest}.union(*map(parts, (*children, *signatures)))


def test_the_same_content_gives_the_same_bytes(registry: Exporting) -> None:
    listed, children = registry.multi("1", "amd64", "arm64")
    registry.push(children[0], "2")
    first = registry.export(NAME).data
    assert registry.export(NAME).data == first
    (registry.directory / "other").mkdir()
    other = Exporting(registry.directory / "other")
    for path in sorted(registry.root.glob(f"{NAME}/blobs/*/*"), reverse=True):
        other.push_blob(path.read_bytes())
    for child in reversed(children):
        other.push(child)
    other.push(children[0], "2")
    other.push(listed, "1")
    assert other.export(NAME).data == first


def test_standard_output(registry: Exporting) -> None:
    registry.push(registry.platform("amd64"), "1")
    data = registry.export(f"{NAME}:1").data
    result = CliRunner().invoke(main, ["export", f"{NAME}:1", "--config", str(registry.config)])
    assert (result.exit_code, result.stdout_bytes) == (0, data)


@pytest.mark.parametrize("platform", ["linux/arm64", "linux/arm64/v8"])
def test_one_platform_of_an_index(registry: Exporting, platform: str) -> None:
    amd64, arm64 = registry.platform("amd64"), registry.platform("arm64")
    described = [
        amd64.descriptor(platform={"os": "linux", "architecture": "amd64"}),
        arm64.descriptor(platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
    ]
    registry.push(index(described), "1")
    archive = registry.export(f"{NAME}:1", "--platform", platform)
    assert (archive.tags, archive.digests) == ({"1": arm64.digest}, parts(arm64))
    assert [loaded["RepoTags"] for loaded in archive.images] == [[f"{NAME}:1"]]


def test_a_platform_of_a_single_image(registry: Exporting) -> None:
    manifest = registry.push(registry.platform("arm64"), "1")
    assert registry.export(f"{NAME}:1", "--platform", "linux/arm64").tags == {"1": manifest.digest}
    assert "there is linux/arm64" in registry.export(f"{NAME}:1", "--platform", "linux/amd64", code=2).said


def test_what_is_no_image_is_not_for_docker(registry: Exporting) -> None:
    chart = image(
        registry.blob(b"{}", "application/vnd.cncf.helm.config.v1+json"),
        [registry.blob(b"x", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
    )
    attestation = image(registry.blob(b"{ }", OCI_CONFIG), [registry.blob(b"y", "application/vnd.in-toto+json")])
    registry.push(chart, "chart")
    registry.push(index([registry.push(attestation).descriptor()]), "attestation")
    archive = registry.export(NAME)
    assert (archive.images, len(archive.tags)) == ([], 2)


def test_a_foreign_layer_need_not_be_there(registry: Exporting) -> None:
    foreign = descriptor_of(b"elsewhere", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    manifest = registry.push(image(registry.blob(b"{}", DOCKER_CONFIG), [foreign], DOCKER_IMAGE), "1")
    archive = registry.export(NAME)
    assert archive.tags == {"1": manifest.digest}
    assert archive.images == [], "docker could not load it"


@pytest.mark.parametrize("damage", ["zeros", "longer", "shorter", "missing"])
@pytest.mark.parametrize("which", ["config", "layer", "manifest", "child"])
def test_damaged_content_is_named_and_no_file_is_left(registry: Exporting, damage: str, which: str) -> None:
    listed, [child, _] = registry.multi("1", "amd64", "arm64")
    content = child.content
    digests = {"config": content["config"]["digest"], "layer": content["layers"][1]["digest"]}
    digest = {**digests, "manifest": listed.digest, "child": child.digest}[which]
    path = registry.root / NAME / "blobs" / digest.replace(":", "/")
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"zeros": bytes(len(data)), "longer": data + b"more", "shorter": data[:-1]}[damage])
    assert digest in registry.export(f"{NAME}:1", code=1).said
    assert digest in registry.export(NAME, code=1).said


def test_a_damaged_index_is_told(registry: Exporting) -> None:
    registry.push(registry.platform("amd64"), "1")
    (registry.root / NAME / "index.json").write_text("{")
    assert "index.json of team/app is damaged" in registry.export(NAME, code=1).said


def test_indexes_may_be_sparse_where_that_is_allowed(registry: Exporting) -> None:
    listed, [child, _] = registry.multi("1", "amd64", "arm64")
    (registry.root / NAME / "blobs" / child.digest.replace(":", "/")).unlink()
    config = json.loads(registry.config.read_text())
    registry.config.write_text(json.dumps(config | {"server": {"sparseIndexes": True}}))
    archive = registry.export(f"{NAME}:1")
    assert listed.digest in archive.digests
    assert child.digest not in archive.digests


def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(registry: Exporting) -> None:
    manifest = registry.push(registry.platform("amd64"), "1")
    path = registry.directory / "there.tar"
    path.write_text("old")
    layer = registry.root / NAME / "blobs" / manifest.content["layers"][0]["digest"].replace(":", "/")
    data = layer.read_bytes()
    layer.write_bytes(b"damaged")
    registry.run("export", NAME, "-o", str(path), code=1)
    assert path.read_text() == "old"
    layer.write_bytes(data)
    registry.run("export", NAME, "-o", str(path))
    assert tarfile.is_tarfile(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("Upper",),
        ("../x",),
        ("none",),
        ("none:1",),
        (f"{NAME}:2",),
        (f"{NAME}:",),
        (f"{NAME}:a b",),
        (f"{NAME}@1",),
        (f"{NAME}@sha256:{'0' * 64}",),
        (f"{NAME}:1@sha256:{'0' * 64}",),
        (NAME, "--platform", "linux/amd64"),
        (f"{NAME}:1", "--platform", "linux"),
        (f"{NAME}:1", "--platform", "a/b/c/d"),
        (f"{NAME}:1", "--platform", "/"),
        (f"{NAME}:1", "--platform", "linux/s390x"),
        (f"{NAME}:chart", "--platform", "linux/amd64"),
    ],
)
def test_bad_input_ends_with_2_and_changes_nothing(registry: Exporting, arguments: tuple[str, ...]) -> None:
    registry.push(registry.platform("amd64"), "1")
    registry.push(image(registry.blob(b"[]", "text/plain")), "chart")
    before = registry.tree()
    registry.export(*arguments, code=2)
    assert registry.tree() == before


@pytest.mark.parametrize("output", ["none/x.tar", "."])
def test_a_file_that_cannot_be_written(registry: Exporting, output: str) -> None:
    registry.push(registry.platform("amd64"), "1")
    result = registry.run("export", NAME, "-o", str(registry.directory / output), code=2)
    assert "directory" in result.stderr


def test_a_disk_that_is_full(registry: Exporting) -> None:
    registry.push(registry.platform("amd64"), "1")
    pierhead = str(Path(sys.executable).with_name("pierhead"))
    with Path("/dev/full").open("wb") as full:
        command = [pierhead, "export", NAME, "--config", str(registry.config)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_only_what_is_reachable(registry: Exporting) -> None:
    registry.push(registry.platform("amd64"), "1")
    registry.push_blob(b"garbage")
    assert Digest.of(b"garbage") not in registry.export(NAME).digests
