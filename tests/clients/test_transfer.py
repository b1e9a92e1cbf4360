"""Moving in from, and out to, the files of other tools: docker, podman, skopeo, and the storage of docker-registry."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.registries import DockerRegistry
from tests.clients.support.images import Layout, rootfs
from tests.clients.support.programs import Client, Skopeo, require
from tests.clients.support.target import Target
from tests.support.oci import OCI_IMAGE, random_bytes
from tests.support.server import Server

INSECURE = "--tls-verify=false"


def pierhead(server: Server, *command: str | Path) -> str:
    """Run one of the registry's commands while the server serves, and return what it printed."""
    run = Client((str(Path(sys.executable).with_name("pierhead")),), server.root.parent)
    return run(*command, "--config", server.config_file)


@pytest.fixture
def moved(server: Server, repository: str) -> Target:
    """Return a repository to import to."""
    return Target(server, f"{repository}/moved")


class TestDocker:
    pytestmark = pytest.mark.xdist_group("docker")

    def test_docker_save_is_imported(self, docker: Client, home: Path, moved: Target) -> None:
        identity = _made(docker, "team/saved:1")
        docker("tag", "team/saved:1", "team/saved:2")
        docker("save", "-o", home / "saved.tar", "team/saved:1", "team/saved:2")
        said = pierhead(moved.server, "import", home / "saved.tar", moved.repository)
        assert f"{moved.repository}: imported: 1, 2 (" in said
        docker("rmi", "team/saved:1", "team/saved:2")
        for tag in ("1", "2"):
            docker("pull", moved.image(tag))
            assert _identity(docker, moved.image(tag)) == identity
        assert moved.remote.get("manifests/1").headers["Content-Type"] == OCI_IMAGE

    def test_docker_save_says_the_repository(self, docker: Client, home: Path, repository: str, server: Server) -> None:
        name = f"{repository}/own"
        for host in ("", "docker.io/", f"{server.host}/"):
            docker("tag", _made(docker, "any:1"), f"{host}{name}:1")
        docker("save", "-o", home / "saved.tar", f"{server.host}/{name}:1")
        assert f"{name}: imported: 1 (" in pierhead(server, "import", home / "saved.tar")

    def test_export_is_loaded(self, docker: Client, skopeo: Skopeo, layout: Layout, target: Target) -> None:
        pushed = layout.tag("1", layout.image(layers=3))
        skopeo.copy(layout.at("1"), target.by_http())
        archive = skopeo.home / "exported.tar"
        pierhead(target.server, "export", f"{target.repository}:1", "-o", archive)
        assert f"Loaded image: {target.repository}:1" in docker("load", "-i", archive)
        assert _identity(docker, f"{target.repository}:1") == pushed.content["config"]["digest"]

    def test_one_platform_is_loaded(self, docker: Client, skopeo: Skopeo, layout: Layout, target: Target) -> None:
        layout.tag("1", layout.multi_arch("amd64", "arm64"))
        skopeo.copy(layout.at("1"), target.by_http(), "--all")
        archive = skopeo.home / "exported.tar"
        pierhead(target.server, "export", f"{target.repository}:1", "-o", archive, "--platform", "linux/arm64")
        docker("load", "-i", archive)
        name = f"{target.repository}:1"
        assert docker("inspect", "--format", "{{.Architecture}}", name).strip() == "arm64"
        pierhead(target.server, "export", name, "-o", archive)
        docker("load", "-i", archive)
        assert docker("inspect", "--format", "{{.Architecture}}", name).strip() == "amd64"

    def test_docker_images_go_out_and_come_back(
        self, docker: Client, target: Target, moved: Target, home: Path
    ) -> None:
        identity = _made(docker, target.image())
        docker("push", target.image())
        pierhead(target.server, "export", target.repository, "-o", home / "exported.tar")
        pierhead(target.server, "import", home / "exported.tar", moved.repository)
        assert _raw(moved) == _raw(target)
        docker("load", "-i", home / "exported.tar")
        assert _identity(docker, f"{target.repository}:1") == identity


@pytest.mark.parametrize("format_", ["docker-archive", "oci-archive", "oci-dir"])
def test_podman_save_is_imported(podman: Client, moved: Target, format_: str) -> None:
    identity = podman("import", "-", "localhost/team/app:7", stdin=rootfs(random_bytes())).strip()
    podman("save", "--format", format_, "-o", podman.home / "saved", "localhost/team/app:7")
    pierhead(moved.server, "import", podman.home / "saved", moved.repository)
    podman("rmi", "localhost/team/app:7")
    found = f"sha256:{podman('pull', '--quiet', INSECURE, moved.image('7')).strip()}"
    # podman writes the config anew for another format.
    assert found == identity or format_ == "docker-archive"


def test_export_is_loaded_by_podman(podman: Client, skopeo: Skopeo, layout: Layout, target: Target) -> None:
    layout.tag("1", layout.image(layers=2))
    skopeo.copy(layout.at("1"), target.by_http())
    pierhead(target.server, "export", f"{target.repository}:1", "-o", podman.home / "exported.tar")
    assert f"{target.repository}:1" in podman("load", "-i", podman.home / "exported.tar")


def test_what_skopeo_writes_is_imported(skopeo: Skopeo, layout: Layout, moved: Target) -> None:
    layout.tag("1", layout.image(layers=2))
    multi = layout.tag("2", layout.multi_arch("amd64", "arm64"))
    home = skopeo.home
    skopeo.copy(layout.at("1"), f"docker-archive:{home}/docker.tar:team/app:docker")
    skopeo.copy(layout.at("1"), f"oci-archive:{home}/oci.tar:archive")
    skopeo.copy(layout.at("2"), f"oci:{home}/directory:multi", "--all")
    for source in ("docker.tar", "oci.tar", "directory"):
        pierhead(moved.server, "import", home / source, moved.repository)
    assert moved.remote.tags() == ["archive", "docker", "multi"]
    assert skopeo.raw(moved.by_http("multi")) == multi.body
    assert skopeo.raw(moved.by_http("archive")) == skopeo.raw(layout.at("1"))
    config = [json.loads(skopeo("inspect", INSECURE, "--config", moved.by_http(tag))) for tag in ("docker", "archive")]
    assert config[0]["rootfs"] == config[1]["rootfs"]
    for tag in moved.remote.tags():
        skopeo.copy(moved.by_http(tag), f"dir:{home}/{tag}", "--all")


def test_skopeo_reads_what_is_exported(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    one, multi = layout.tag("1", layout.image()), layout.tag("2", layout.multi_arch("amd64", "arm64"))
    for tag in ("1", "2"):
        skopeo.copy(layout.at(tag), target.by_http(tag), "--all")
    archive = skopeo.home / "exported.tar"
    pierhead(target.server, "export", target.repository, "-o", archive)
    for tag, manifest in (("1", one), ("2", multi)):
        skopeo.copy(f"oci-archive:{archive}:{tag}", f"dir:{skopeo.home}/{tag}", "--all")
        assert (skopeo.home / tag / "manifest.json").read_bytes() == manifest.body
    skopeo.copy(f"docker-archive:{archive}:{target.repository}:1", f"dir:{skopeo.home}/docker")


def test_a_registry_of_distribution_moves_in(skopeo: Skopeo, layout: Layout, server: Server, repository: str) -> None:
    """All that docker-registry serves is served here afterwards, under the same digests."""
    require("docker-registry")
    layout.tag("1", layout.image(layers=2))
    layout.tag("2", layout.multi_arch("amd64", "arm64"))
    places = ["app", "team/app"]
    with DockerRegistry("docker-registry", skopeo.home / "distribution") as old:
        host = f"{old.host}:{old.port}"
        for place in places:
            skopeo.copy(layout.at("1"), f"docker://{host}/{place}:oci")
            skopeo.copy(layout.at("1"), f"docker://{host}/{place}:docker", "--format", "v2s2")
            skopeo.copy(layout.at("2"), f"docker://{host}/{place}:multi", "--all")
            skopeo.copy(layout.at("2"), f"docker://{host}/{place}:moved", "--all")
            skopeo.copy(layout.at("1"), f"docker://{host}/{place}:moved")
        expected = {
            (place, tag): skopeo.raw(f"docker://{host}/{place}:{tag}")
            for place in places
            for tag in ("oci", "docker", "multi", "moved")
        }
    said = pierhead(server, "import", skopeo.home / "distribution" / "data", repository)
    assert "0 failed" in said
    for (place, tag), manifest in expected.items():
        target = Target(server, f"{repository}/{place}")
        assert skopeo.raw(target.by_http(tag)) == manifest
        skopeo.copy(target.by_http(tag), f"dir:{skopeo.home}/pulled", "--all")
    assert "0 images imported" in pierhead(server, "import", skopeo.home / "distribution" / "data", repository)


def test_a_layout_that_skopeo_writes_to_the_root_is_served(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    """No step at all: the next request sees it."""
    layout.tag("1", layout.multi_arch("amd64", "arm64"))
    target.directory.parent.mkdir(parents=True, exist_ok=True)
    skopeo.copy(layout.at("1"), target.on_disk("written"), "--all")
    assert target.remote.tags() == ["written"]
    skopeo.copy(target.by_http("written"), f"dir:{skopeo.home}/pulled", "--all")
    assert (skopeo.home / "pulled" / "manifest.json").read_bytes() == skopeo.raw(layout.at("1"))


def _made(docker: Client, name: str) -> str:
    """Make an image of one layer and return its id, the digest of its config."""
    return docker("import", "-", name, stdin=rootfs(random_bytes())).strip()


def _identity(docker: Client, name: str) -> str:
    return docker("inspect", "--format", "{{.Id}}", name).strip()


def _raw(target: Target) -> bytes:
    return target.remote.get("manifests/1").content
