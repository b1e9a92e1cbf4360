"""`pierhead import`: what comes of each kind of source, and under which names."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from storage.digest import Digest
from storage.gc import Collector
from storage.gc import Result as Collected
from tests.api.test_layout import HandWrittenLayout, named
from tests.clients.support.images import rootfs
from tests.support.oci import (
    DOCKER_CONFIG,
    DOCKER_IMAGE,
    DOCKER_LAYER,
    DOCKER_LIST,
    OCI_CONFIG,
    OCI_IMAGE,
    OCI_LAYER,
    Document,
    descriptor_of,
    document,
    image,
    index,
    random_bytes,
)
from tests.support.sources import DistributionTree, DockerArchive, files_of, write_tar
from tests.unit.test_garbage_command import Registry


class Importing(Registry):
    """A store, and sources beside it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.directory = directory

    def layout(self, name: str = "layout") -> HandWrittenLayout:
        return HandWrittenLayout(self.directory / name)

    def bring(self, source: object, *arguments: str, code: int = 0) -> tuple[list[Any], Any]:
        """Import; return what was told of each image, and the sum."""
        *outcomes, summary = self.lines("import", str(source), *arguments, code=code)
        return outcomes, summary["summary"]

    def has_image(self, name: str, reference: str, manifest: Document) -> None:
        """Hold that a manifest is there as it was, and all that it needs."""
        stored = self.store.get_manifest(name, reference)
        assert (stored.data, stored.media_type) == (manifest.body, manifest.media_type)
        self.is_whole(name)

    def is_whole(self, name: str) -> None:
        """Hold that nothing of a repository is missing, damaged, or garbage."""
        for path in (self.root / name).glob("blobs/*/*"):
            assert Digest.of(path.read_bytes(), path.parent.name) == f"{path.parent.name}:{path.name}"
        result = Collected()
        collector = Collector(self.store.backend, delay=-10, undo=0, dry_run=True)
        collector.collect(name, result)
        assert (result.failed, result.binned) == ([], 0)


@pytest.fixture
def registry(tmp_path: Path) -> Importing:
    return Importing(tmp_path)


# OCI image layouts


def test_a_layout_with_indexes_docker_images_and_referrers(registry: Importing) -> None:
    layout = registry.layout()
    one, docker, untagged = layout.image(), layout.image(DOCKER_IMAGE), layout.image()
    listed = layout.manifest(index([one.descriptor()]))
    outer = layout.manifest(index([listed.descriptor(), docker.descriptor()], DOCKER_LIST))
    signature = layout.image(subject=outer.descriptor())
    entries = [named(one, "1"), named(outer, "all"), named(one, "again"), untagged.descriptor(), signature.descriptor()]
    layout.index(entries)
    outcomes, summary = registry.bring(layout.directory, "team/app")
    assert [(outcome["tags"], outcome["digest"]) for outcome in outcomes] == [
        (["1", "again"], one.digest),
        (["all"], outer.digest),
        ([], untagged.digest),
        ([], signature.digest),
    ]
    assert (summary["imported"], summary["failed"], summary["linked"], summary["copied"]) == (4, 0, 8, 0)
    for reference, manifest in (("1", one), ("again", one), ("all", outer), (listed.digest, listed)):
        registry.has_image("team/app", reference, manifest)
    registry.has_image("team/app", untagged.digest, untagged)
    assert registry.store.tags("team/app")[0] == ["1", "again", "all"]
    assert [found["digest"] for found in registry.store.referrers("team/app", Digest(outer.digest))] == [
        signature.digest
    ]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("below", ["", "some/where/"])
def test_a_layout_in_an_archive(registry: Importing, compress: bool, below: str) -> None:
    layout = registry.layout()
    images = [layout.image() for _ in range(3)]
    layout.index([named(manifest, str(number)) for number, manifest in enumerate(images)])
    members = [(info, data) for info, data in files_of(layout.directory)]
    for info, _ in members:
        info.name = info.name.replace("./", below or "./", 1)
    archive = write_tar(registry.directory / "a.tar", members[::-1], "w:gz" if compress else "w")
    _, summary = registry.bring(archive, "team/app")
    assert (summary["imported"], summary["copied"], summary["linked"]) == (3, 6, 0)
    for number, manifest in enumerate(images):
        registry.has_image("team/app", str(number), manifest)


def test_sha512(registry: Importing) -> None:
    layout = registry.layout()
    manifest = layout.image(algorithm="sha512")
    layout.index([named(manifest, "1", "sha512")])
    registry.bring(layout.directory, "app")
    assert registry.store.get_manifest("app", "1").digest.startswith("sha512:")
    registry.is_whole("app")


def test_indexes_nest_deeper_than_a_stack_and_share_children(registry: Importing) -> None:
    layout = registry.layout()
    leaf = current = layout.image()
    for _ in range(1100):
        current = layout.manifest(index([current.descriptor()]))
    top = layout.manifest(index([leaf.descriptor(), current.descriptor()]))
    layout.index([named(top, "1")])
    registry.bring(layout.directory, "app")
    registry.has_image("app", leaf.digest, leaf)


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"org.opencontainers.image.ref.name": "docker.io/library/app:1"}, "app"),
        ({"org.opencontainers.image.ref.name": "registry.test:5000/team/app:1"}, "team/app"),
        ({"org.opencontainers.image.ref.name": "localhost/app:1"}, "app"),
        ({"org.opencontainers.image.ref.name": "team/app:1@sha256:" + 64 * "0"}, "team/app"),
        ({"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": "docker.io/team/app:1"}, "team/app"),
    ],
)
def test_the_layout_says_the_repository(registry: Importing, annotations: dict[str, str], name: str) -> None:
    """As podman, docker and containerd write it; entries without a name belong to the only repository."""
    layout = registry.layout()
    manifest, other = layout.image(), layout.image()
    layout.index([manifest.descriptor(annotations=annotations), other.descriptor()])
    registry.bring(layout.directory)
    registry.has_image(name, "1", manifest)
    registry.has_image(name, other.digest, other)


def test_a_name_and_a_tag_that_are_given_win(registry: Importing) -> None:
    layout = registry.layout()
    manifest, other = layout.image(), layout.image()
    layout.index([named(manifest, "docker.io/library/app:1"), other.descriptor()])
    registry.bring(layout.directory, "team/other:2")
    registry.has_image("team/other", "2", manifest)
    assert registry.store.tags("team/other")[0] == ["2"]
    said = registry.run("import", str(layout.directory), "team/other:2").stdout
    assert f"team/other: unchanged: 2 ({manifest.digest}), which was docker.io/library/app:1\n" in said


def test_a_single_image_without_a_name_gets_the_tag(registry: Importing) -> None:
    layout = registry.layout()
    manifest = layout.image()
    layout.index([manifest.descriptor()])
    registry.bring(layout.directory, "app:1")
    registry.has_image("app", "1", manifest)


# docker archives


@pytest.mark.parametrize("compress", [False, True])
def test_a_docker_archive(registry: Importing, compress: bool) -> None:
    """Its manifests are made: OCI, over the config and the layers as they are; links lead to layers that are shared."""
    archive = DockerArchive()
    shared, own = rootfs(random_bytes()), rootfs(random_bytes())
    configs = [
        archive.image("app:1", "registry.test/team/other:2", layers=[shared, own], compress=compress),
        archive.image("app:2", layers=[own, own, shared], compress=compress),
    ]
    outcomes, summary = registry.bring(archive.write(registry.directory / "saved.tar"))
    assert [outcome["repository"] for outcome in outcomes] == ["app", "app", "team/other"]
    assert (summary["imported"], summary["copied"], summary["failed"]) == (3, 4, 0)
    for name, tag, config, trees in (
        ("app", "1", configs[0], [shared, own]),
        ("team/other", "2", configs[0], [shared, own]),
        ("app", "2", configs[1], [own, own, shared]),
    ):
        stored = registry.store.get_manifest(name, tag)
        content = json.loads(stored.data)
        assert stored.media_type == content["mediaType"] == OCI_IMAGE
        assert content["config"] == descriptor_of(config, OCI_CONFIG)
        kind = OCI_LAYER if compress else OCI_LAYER.removesuffix("+gzip")
        layers = [gzip.compress(tree, mtime=None) if compress else tree for tree in trees]
        assert [layer["mediaType"] for layer in content["layers"]] == [kind] * len(trees)
        if not compress:
            assert content["layers"] == [descriptor_of(layer, kind) for layer in layers]
        registry.is_whole(name)


def test_the_same_docker_archive_makes_the_same_manifests(registry: Importing) -> None:
    archive = DockerArchive()
    archive.image("app:1")
    path = archive.write(registry.directory / "saved.tar")
    registry.bring(path)
    [outcome], summary = registry.bring(path)
    assert (outcome["action"], summary["skipped"], summary["copied"]) == ("unchanged", 2, 0)
    assert len(registry.store.backend.read_index("app")[0].split(b'"digest"')) == 2


def test_a_docker_archive_without_names(registry: Importing) -> None:
    archive = DockerArchive()
    archive.image()
    path = archive.write(registry.directory / "saved.tar")
    assert "give a NAME" in registry.run("import", str(path), code=2).stderr
    [outcome], _ = registry.bring(path, "app")
    assert registry.store.get_manifest("app", outcome["digest"]).digest == outcome["digest"]
    registry.bring(path, "app:1")
    assert registry.store.tags("app")[0] == ["1"]


def test_what_docker_writes_now_is_taken_by_its_manifests(registry: Importing) -> None:
    """Since docker 25 there is an index.json beside manifest.json."""
    layout = registry.layout()
    manifest = layout.image()
    names = {"io.containerd.image.name": "docker.io/library/app:1", "org.opencontainers.image.ref.name": "1"}
    layout.index([manifest.descriptor(annotations=names)])
    config, layer = (manifest.content[key] for key in ("config", "layers"))
    paths = [f"blobs/{part['digest'].replace(':', '/')}" for part in (config, *layer)]
    (layout.directory / "manifest.json").write_text(
        json.dumps([{"Config": paths[0], "RepoTags": ["app:1"], "Layers": paths[1:]}])
    )
    said = registry.run("import", str(write_tar(registry.directory / "saved.tar", files_of(layout.directory)))).stdout
    assert f"app: imported: 1 ({manifest.digest}), which was docker.io/library/app:1" in said
    registry.has_image("app", "1", manifest)


# trees


def tree_image(tree: DistributionTree, media_type: str = OCI_IMAGE, **fields: Any) -> Document:
    docker = media_type == DOCKER_IMAGE
    config = tree.blob(random_bytes(), DOCKER_CONFIG if docker else OCI_CONFIG)
    return image(config, [tree.blob(random_bytes(), DOCKER_LAYER if docker else OCI_LAYER)], media_type, **fields)


@pytest.mark.parametrize("below", ["", "docker", "docker/registry", "docker/registry/v2"])
def test_the_storage_of_distribution(registry: Importing, below: str) -> None:
    tree = DistributionTree(registry.directory / "old")
    one, docker, child = tree_image(tree), tree_image(tree, DOCKER_IMAGE), tree_image(tree)
    for name in ("app", "team/app"):
        tree.manifest(name, one, "1", "_same", "blobs")
        tree.manifest(name, docker, "docker")
        tree.manifest(name, child)
        tree.manifest(name, index([child.descriptor()]), "all")
        tree.manifest(name, tree_image(tree, subject=one.descriptor()))
    _, summary = registry.bring(tree.root / below, "mirror")
    assert (summary["imported"] + summary["unchanged"], summary["failed"], summary["linked"]) == (10, 0, 10)
    assert summary["skipped"] > 0, "the blobs that the second repository shares with the first"
    for name in ("mirror/app", "mirror/team/app"):
        assert registry.store.tags(name)[0] == ["1", "_same", "all", "blobs", "docker"]
        registry.has_image(name, "1", one)
        registry.has_image(name, "docker", docker)
        assert len(registry.store.referrers(name, Digest(one.digest))) == 1


def test_old_things_in_the_storage_of_distribution_are_named(registry: Importing) -> None:
    """Schema 1, a manifest that was deleted under its tag, a repository that cannot be called so here."""
    tree = DistributionTree(registry.directory / "old")
    one = tree.manifest("app", tree_image(tree), "1")
    tree.manifest("app", document({"schemaVersion": 1, "fsLayers": []}, "application/json"), "old")
    gone = tree.manifest("app", tree_image(tree), "gone")
    shutil.rmtree(tree.manifests("app") / "revisions/sha256" / gone.digest[7:])
    tree.link(tree.manifests("app") / "tags/bad/current", "sha256:x")
    tree.manifest("team/blobs2/index.json", one, "1")
    result = registry.run("import", str(tree.root), code=1)
    assert "schema 1" in result.stderr
    assert "app: not imported: gone: its manifest was deleted there" in result.stderr
    assert "tags/bad/current/link holds no digest" in result.stderr
    assert "the image layout on disk needs it" in result.stderr
    registry.has_image("app", "1", one)
    assert registry.store.tags("app")[0] == ["1"]


def test_a_directory_of_layouts(registry: Importing) -> None:
    """As zot's root, and one of our own: repositories nest, and what is no repository is passed over."""
    zot = registry.directory / "zot"
    images = {}
    for name in ("app", "app/nested", "team/other"):
        layout = HandWrittenLayout(zot / name)
        images[name] = layout.image()
        layout.index([named(images[name], "1")])
    (zot / "_trivy").mkdir()
    (zot / "cache.db").write_bytes(b"bolt")
    (zot / "app/.uploads").mkdir()
    HandWrittenLayout(zot / ".pierhead/app").index([])
    _, summary = registry.bring(zot)
    assert (summary["source"], summary["imported"]) == ("directory of OCI image layouts", 3)
    for name, manifest in images.items():
        registry.has_image(name, "1", manifest)


def test_one_bad_layout_does_not_keep_the_others(registry: Importing) -> None:
    zot = registry.directory / "zot"
    for name in ("a", "b"):
        layout = HandWrittenLayout(zot / name)
        layout.index([named(layout.image(), "1")])
    (zot / "a/index.json").write_text("{")
    HandWrittenLayout(zot / "UPPER").index([named(layout.image(), "1")])
    result = registry.run("import", str(zot), code=1)
    assert "a: not imported: index.json: index.json is damaged" in result.stderr
    assert "UPPER: not imported" in result.stderr
    assert registry.store.tags("b")[0] == ["1"]


# again, and beside what is there


def test_again_nothing_is_read(registry: Importing, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = registry.layout()
    layout.index([named(layout.image(), "1"), named(layout.image(), "2")])
    registry.bring(layout.directory, "app")
    for path in layout.directory.glob("blobs/*/*"):
        if path.stat().st_nlink > 1:
            path.write_bytes(bytes(path.stat().st_size))  # who reads it finds it damaged
    outcomes, summary = registry.bring(layout.directory, "app")
    assert {outcome["action"] for outcome in outcomes} == {"unchanged"}
    assert (summary["unchanged"], summary["skipped"], summary["linked"], summary["copied"]) == (2, 4, 0, 0)


def test_what_was_cut_off_is_brought_again(registry: Importing) -> None:
    """A blob of the wrong size, as another tool may have left it, gives way."""
    layout = registry.layout()
    manifest = layout.image()
    layout.index([named(manifest, "1")])
    half = registry.root / "app" / "blobs" / manifest.content["layers"][0]["digest"].replace(":", "/")
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    registry.bring(layout.directory, "app")
    registry.has_image("app", "1", manifest)


def test_what_the_source_lacks_may_be_there(registry: Importing) -> None:
    layout = registry.layout()
    manifest = layout.image()
    layout.index([named(manifest, "1")])
    layer = manifest.content["layers"][0]["digest"]
    path = layout.directory / "blobs" / layer.replace(":", "/")
    data = path.read_bytes()
    path.unlink()
    before = registry.tree()
    for arguments in ((), ("--dry-run",)):
        result = registry.run("import", str(layout.directory), "app", *arguments, code=1 if not arguments else 2)
        assert f"neither the source nor the repository has {layer}" in result.stderr
        assert before == {} or arguments
    registry.push_blob(data, "app")
    registry.bring(layout.directory, "app")
    registry.has_image("app", "1", manifest)


def test_a_tag_is_moved_unless_tags_are_kept(registry: Importing) -> None:
    here = registry.image("here", "1")
    layout = registry.layout()
    manifest, other = layout.image(), layout.image()
    layout.index([named(manifest, "1"), named(manifest, "new"), named(other, "1x")])
    registry.store.put_manifest("team/app", "1x", here.body)
    outcomes, _ = registry.bring(layout.directory, "team/app", "--keep-tags")
    assert [(outcome["action"], outcome["tags"]) for outcome in outcomes] == [("imported", ["new"]), ("kept", ["1x"])]
    assert outcomes[0]["reason"] == "kept as they are: 1"
    registry.has_image("team/app", "1", here)
    registry.has_image("team/app", "new", manifest)
    registry.bring(layout.directory, "team/app")
    registry.has_image("team/app", "1", manifest)
    assert registry.lines("history", "team/app")[0]["digest"] == here.digest


def test_dry_run_changes_nothing(registry: Importing) -> None:
    registry.image("here", "1")
    layout = registry.layout()
    layout.index([named(layout.image(), "1"), named(layout.image(), "2")])
    before = registry.tree()
    outcomes, summary = registry.bring(layout.directory, "team/app", "--dry-run")
    assert registry.tree() == before
    assert (len(outcomes), summary["imported"], summary["copied"]) == (2, 2, 4)
    assert "would be imported" in registry.run("import", str(layout.directory), "team/app", "--dry-run").stdout


def test_the_audit_log_tells(registry: Importing) -> None:
    layout = registry.layout()
    layout.index([named(layout.image(), "1")])
    registry.bring(layout.directory, "app")
    [line] = (registry.directory / "audit").read_text().splitlines()
    assert json.loads(line)["action"] == "import"


# links and copies


def blobs_of(registry: Importing) -> Iterator[Path]:
    return (registry.root / "app").glob("blobs/*/*")


@pytest.mark.parametrize("option", ["", "--copy"])
def test_files_are_linked_unless_told_otherwise(registry: Importing, option: str) -> None:
    layout = registry.layout()
    layout.index([named(layout.image(), "1")])
    _, summary = registry.bring(layout.directory, "app", *([option] if option else []))
    assert (summary["linked"], summary["copied"]) == ((0, 2) if option else (2, 0))
    inodes = {path.stat().st_ino for path in layout.directory.glob("blobs/*/*")}
    assert len(inodes & {path.stat().st_ino for path in blobs_of(registry)}) == (0 if option else 2)


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o200])
def test_what_others_may_write_to_is_copied(registry: Importing, mode: int) -> None:
    layout = registry.layout()
    layout.index([named(layout.image(), "1")])
    for path in layout.directory.glob("blobs/*/*"):
        path.chmod(mode)
    if os.geteuid() != 0 and not mode & 0o400:
        return
    _, summary = registry.bring(layout.directory, "app")
    assert (summary["linked"], summary["copied"]) == (0, 2)


def test_a_symbolic_link_is_followed_to_a_file(registry: Importing) -> None:
    """As build tools write layouts: what it leads to is checked like any other."""
    layout = registry.layout()
    layout.index([named(layout.image(), "1")])
    for path in layout.directory.glob("blobs/*/*"):
        path.rename(registry.directory / path.name)
        path.symlink_to(registry.directory / path.name)
    registry.bring(layout.directory, "app")
    assert not any(path.is_symlink() for path in blobs_of(registry))
    registry.is_whole("app")


def test_files_of_another_file_system_are_copied(registry: Importing) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == registry.directory.stat().st_dev:
        pytest.skip("there is only one file system to write to")
    with TemporaryDirectory(dir=memory) as directory:
        layout = HandWrittenLayout(Path(directory) / "layout")
        layout.index([named(layout.image(), "1")])
        _, summary = registry.bring(layout.directory, "app")
    assert (summary["linked"], summary["copied"]) == (0, 2)
    registry.is_whole("app")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_as_root_it_writes_as_the_owner_of_the_store_and_reads_as_root() -> None:
    service = 12345
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # pytest's own directories let nobody else in
        registry = Importing(Path(directory))
        registry.root.mkdir()
        os.chown(registry.root, service, service)
        layout = registry.layout()
        layout.index([named(layout.image(), "1")])
        layout.directory.chmod(0o700)
        for path in layout.directory.rglob("blobs/*/*"):
            path.chmod(0o600)
        _, summary = registry.bring(layout.directory, "app")
        assert (summary["linked"], summary["copied"]) == (0, 2), "the service could not read root's files"
        for path in registry.root.rglob("*"):
            assert path.stat().st_uid == service, path
        for path in (layout.directory, *layout.directory.rglob("*")):
            os.chown(path, service, service)
        _, summary = registry.bring(layout.directory, "other")
        assert summary["skipped"] == 2
        more = registry.layout("more")
        more.index([named(more.image(), "1")])
        for path in (more.directory, *more.directory.rglob("*")):
            os.chown(path, service, service)
        assert registry.bring(more.directory, "more")[1]["linked"] == 2


def test_without_dedupe_nothing_is_shared_but_the_source(registry: Importing) -> None:
    config = json.loads(registry.config.read_text())
    config["storage"]["dedupe"] = False
    registry.config.write_text(json.dumps(config))
    tree = DistributionTree(registry.directory / "old")
    one = tree_image(tree)
    for name in ("a", "b"):
        tree.manifest(name, one, "1")
    _, summary = registry.bring(tree.root)
    assert (summary["imported"], summary["linked"], summary["failed"]) == (2, 4, 0)
    assert not (registry.root / ".pierhead/pool").exists()
    registry.has_image("b", "1", one)
