"""A real docker engine against the registry: push, pull, mounts, manifest lists, many at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients.support.images import Layout, rootfs
from tests.clients.support.programs import Client, Skopeo
from tests.clients.support.relay import Relay
from tests.clients.support.target import Target
from tests.support.oci import DOCKER_IMAGE, random_bytes

pytestmark = pytest.mark.xdist_group("docker")

MIB = 1024 * 1024


def test_an_image_comes_back_as_it_went(docker: Client, target: Target) -> None:
    identity = _import(docker, target.image())
    docker("push", target.image())
    docker("rmi", target.image())
    docker("pull", target.image())
    assert _identity(docker, target.image()) == identity


def test_a_digest_names_an_image(docker: Client, target: Target) -> None:
    identity = _import(docker, target.image())
    docker("push", target.image())
    (by_digest,) = docker("inspect", "--format", '{{join .RepoDigests " "}}', target.image()).split()
    docker("rmi", target.image())
    docker("pull", by_digest)
    assert _identity(docker, by_digest) == identity


def test_docker_images_are_kept_as_they_are(docker: Client, target: Target) -> None:
    _import(docker, target.image())
    docker("push", target.image())
    stored = target.remote.get("manifests/1", headers={"Accept": DOCKER_IMAGE})
    assert stored.headers["Content-Type"] == DOCKER_IMAGE


def test_pushing_again_uploads_nothing(docker: Client, relay: Relay, repository: str) -> None:
    name = f"{relay.host}/{repository}:1"
    _import(docker, name)
    docker("push", name)
    assert relay.uploads()
    relay.forget()
    assert "Layer already exists" in docker("push", name)
    assert relay.requests()
    assert relay.uploads() == []


def test_pushing_to_another_repository_mounts_the_layer(docker: Client, relay: Relay, repository: str) -> None:
    source, target = (f"{relay.host}/{repository}/{name}:1" for name in ("a", "b"))
    _import(docker, source)
    docker("push", source)
    docker("tag", source, target)
    relay.forget()
    assert f"Mounted from {repository}/a" in docker("push", target)
    # The config is the one blob that docker uploads again.
    assert [request.method for request in relay.uploads()].count("PATCH") == 1


def test_all_tags_are_pulled(docker: Client, target: Target) -> None:
    tags = ["a", "b", "c"]
    for tag in tags:
        _import(docker, target.image(tag))
    docker("push", "--all-tags", target.name)
    docker("rmi", *map(target.image, tags))
    docker("pull", "--all-tags", target.name)
    assert sorted(docker("images", "--format", "{{.Tag}}", target.name).split()) == tags


def test_manifest_lists(docker: Client, target: Target) -> None:
    amd64, arm64, everything = map(target.image, ("amd64", "arm64", "all"))
    _import(docker, amd64)
    identity = _import(docker, arm64)
    docker("push", "--all-tags", target.name)
    docker("manifest", "create", "--insecure", everything, amd64, arm64)
    docker("manifest", "annotate", "--arch", "arm64", everything, arm64)
    docker("manifest", "push", "--insecure", everything)
    docker("pull", "--platform", "linux/arm64", everything)
    assert _identity(docker, everything) == identity


def test_an_oci_index_is_pulled(docker: Client, skopeo: Skopeo, layout: Layout, target: Target) -> None:
    index = layout.tag("1", layout.multi_arch("amd64", "arm64", "s390x"))
    skopeo.copy(layout.at("1"), target.by_http(), "--all")
    docker("pull", "--platform", "linux/s390x", target.image())
    assert docker("inspect", "--format", "{{.Architecture}}", target.image()).strip() == "s390x"
    assert index.digest in docker("inspect", "--format", "{{.RepoDigests}}", target.image())


def test_many_push_and_pull_at_once(docker: Client, target: Target) -> None:
    images = [target.image(f"v{number}") for number in range(6)]
    identities = [_import(docker, image) for image in images]
    with ThreadPoolExecutor(len(images)) as pool:
        list(pool.map(lambda image: docker("push", image), images))
        docker("rmi", *images)
        list(pool.map(lambda image: docker("pull", image), images))
    assert [_identity(docker, image) for image in images] == identities


def test_a_big_layer(docker: Client, skopeo: Skopeo, layout: Layout, target: Target) -> None:
    layout.tag("1", layout.image(random_bytes(100 * MIB)))
    skopeo.copy(layout.at("1"), target.by_http())
    docker("pull", target.image())
    assert int(docker("inspect", "--format", "{{.Size}}", target.image())) == 100 * MIB


def test_what_is_gone_is_said_to_be_unknown(docker: Client, skopeo: Skopeo, target: Target) -> None:
    _import(docker, target.image())
    docker("push", target.image())
    docker("rmi", target.image())
    skopeo("delete", "--tls-verify=false", target.by_http())
    assert "manifest unknown" in docker.refused("pull", target.image())


def _import(docker: Client, name: str) -> str:
    """Make an image of one layer and return its id, the digest of its config."""
    return docker("import", "-", name, stdin=rootfs(random_bytes())).strip()


def _identity(docker: Client, name: str) -> str:
    return docker("inspect", "--format", "{{.Id}}", name).strip()
