"""podman and buildah against the registry: images, manifest lists and searching."""

import json

from tests.clients.support.images import HELLO, rootfs
from tests.clients.support.programs import Client
from tests.clients.support.relay import Relay
from tests.clients.support.target import Target
from tests.support.oci import DOCKER_LIST, OCI_INDEX, random_bytes

INSECURE = "--tls-verify=false"
ARCHITECTURES = ("amd64", "arm64")


def test_podman_pushes_and_pulls(podman: Client, target: Target) -> None:
    identity = _import(podman, target.image())
    podman("push", INSECURE, target.image())
    podman("rmi", target.image())
    assert podman("pull", "--quiet", INSECURE, target.image()).strip() == identity


def test_podman_pulls_by_digest(podman: Client, target: Target) -> None:
    identity = _import(podman, target.image())
    podman("push", INSECURE, "--digestfile", podman.home / "digest", target.image())
    podman("rmi", target.image())
    by_digest = f"{target.name}@{(podman.home / 'digest').read_text()}"
    assert podman("pull", "--quiet", INSECURE, by_digest).strip() == identity


def test_podman_pushes_docker_images_too(podman: Client, target: Target) -> None:
    identity = _import(podman, target.image())
    podman("push", INSECURE, "--format", "v2s2", target.image())
    podman("rmi", target.image())
    assert podman("pull", "--quiet", INSECURE, target.image()).strip() == identity


def test_podman_pushing_again_uploads_nothing(podman: Client, relay: Relay, repository: str) -> None:
    name = f"{relay.host}/{repository}:1"
    _import(podman, name)
    podman("push", INSECURE, name)
    assert relay.uploads()
    relay.forget()
    podman("push", INSECURE, name)
    assert relay.requests()
    assert relay.uploads() == []


def test_podman_finds_tags_and_repositories(podman: Client, target: Target) -> None:
    _import(podman, target.image())
    podman("push", INSECURE, target.image())
    tags = podman("search", INSECURE, "--list-tags", target.name)
    found = podman("search", INSECURE, target.name)
    assert tags.split()[2:] == [target.name, "1"]
    assert target.name in found.split()


def test_podman_says_what_it_does_not_find(podman: Client, target: Target) -> None:
    _import(podman, target.image())
    podman("push", INSECURE, target.image())
    assert "manifest unknown" in podman.refused("pull", INSECURE, target.image("2"))
    assert "name unknown" in podman.refused("pull", INSECURE, f"{target.name}/other:1")


def test_podman_manifest_lists(podman: Client, target: Target) -> None:
    identities = {}
    podman("manifest", "create", target.image("all"))
    for architecture in ARCHITECTURES:
        image = target.image(architecture)
        identities[architecture] = _import(podman, image, "--arch", architecture)
        podman("push", INSECURE, image)
        podman("manifest", "add", INSECURE, target.image("all"), f"docker://{image}")
    podman("manifest", "push", "--all", INSECURE, target.image("all"), target.by_http("all"))
    _expect_platforms(target)
    podman("rmi", "--all", "--force")
    pulled = podman("pull", "--quiet", INSECURE, "--arch", "arm64", target.image("all"))
    assert pulled.strip() == identities["arm64"]


def test_buildah_pushes_and_pulls(buildah: Client, target: Target) -> None:
    identity = _build(buildah, target.image())
    buildah("push", INSECURE, target.image())
    buildah("rmi", "--all", "--force")
    assert buildah("pull", "--quiet", INSECURE, target.image()).strip() == identity


def test_buildah_builds_on_what_it_pulls(buildah: Client, target: Target) -> None:
    _build(buildah, target.image("base"))
    buildah("push", INSECURE, target.image("base"))
    (base_layer,) = _layers(buildah, target.image("base"))
    buildah("rmi", "--all", "--force")
    _build(buildah, target.image("more"), base=target.image("base"))
    buildah("push", INSECURE, target.image("more"))
    buildah("rmi", "--all", "--force")
    buildah("pull", INSECURE, target.image("more"))
    layers = _layers(buildah, target.image("more"))
    assert len(layers) == 2
    assert layers[0] == base_layer


def test_buildah_manifest_lists(buildah: Client, target: Target) -> None:
    identities = {}
    buildah("manifest", "create", target.image("all"))
    for architecture in ARCHITECTURES:
        image = target.image(architecture)
        identities[architecture] = _build(buildah, image, architecture=architecture)
        buildah("push", INSECURE, image)
        buildah("manifest", "add", INSECURE, target.image("all"), f"docker://{image}")
    buildah("manifest", "push", "--all", INSECURE, target.image("all"), target.by_http("all"))
    _expect_platforms(target)
    buildah("rmi", "--all", "--force")
    pulled = buildah("pull", "--quiet", INSECURE, "--arch", "arm64", target.image("all"))
    assert pulled.strip() == identities["arm64"]


def _import(podman: Client, name: str, *options: str) -> str:
    """Make an image of one layer and return its id, the hex digits of its config's digest."""
    archive = podman.home / "rootfs.tar"
    archive.write_bytes(rootfs(random_bytes()))
    return podman("import", "--quiet", *options, archive, name).strip().removeprefix("sha256:")


def _build(buildah: Client, name: str, base: str = "scratch", architecture: str = "amd64") -> str:
    """Make an image of one layer on top of the base and return its id."""
    (buildah.home / HELLO).write_bytes(random_bytes())
    container = buildah("from", "--quiet", INSECURE, "--arch", architecture, base).strip()
    buildah("copy", "--quiet", container, buildah.home / HELLO, f"/{HELLO}")
    buildah("config", "--arch", architecture, "--cmd", f"/{HELLO}", container)
    return buildah("commit", "--quiet", "--rm", container, name).strip()


def _layers(buildah: Client, image: str) -> list[str]:
    """Return the digests of an image's layers, uncompressed."""
    inspected = json.loads(buildah("inspect", "--type", "image", image))
    layers: list[str] = inspected["OCIv1"]["rootfs"]["diff_ids"]
    return layers


def _expect_platforms(target: Target) -> None:
    answer = target.remote.get("manifests/all", headers={"Accept": f"{OCI_INDEX}, {DOCKER_LIST}"})
    platforms = [child["platform"]["architecture"] for child in json.loads(answer.content)["manifests"]]
    assert platforms == list(ARCHITECTURES)
