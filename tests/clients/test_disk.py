"""What lies on the disk is OCI image layouts: skopeo and umoci read and write it behind the running server's back."""

import json
from concurrent.futures import ThreadPoolExecutor

from tests.clients.support.images import HELLO, Layout
from tests.clients.support.programs import Client, Skopeo
from tests.clients.support.target import Target
from tests.support.oci import DOCKER_IMAGE, OCI_IMAGE, random_bytes


def test_skopeo_copies_from_the_disk(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    pushed = layout.tag("1", layout.image(layers=2))
    skopeo.copy(layout.at("1"), target.by_http())
    skopeo.copy(target.on_disk(), f"dir:{skopeo.home}/copied")
    assert (skopeo.home / "copied" / "manifest.json").read_bytes() == pushed.body


def test_skopeo_copies_a_whole_index_from_the_disk(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    pushed = layout.tag("1", layout.multi_arch("amd64", "arm64"))
    skopeo.copy(layout.at("1"), target.by_http(), "--all")
    copied = skopeo.home / "copied"
    skopeo.copy(target.on_disk(), f"dir:{copied}", "--all")
    assert (copied / "manifest.json").read_bytes() == pushed.body
    assert len(list(copied.glob("*.manifest.json"))) == 2


def test_umoci_lists_and_unpacks_from_the_disk(skopeo: Skopeo, umoci: Client, layout: Layout, target: Target) -> None:
    content = random_bytes()
    layout.tag("1", layout.image(content))
    for tag in ("a", "b"):
        skopeo.copy(layout.at("1"), target.by_http(tag))
    assert _tags_on_disk(umoci, target) == ["a", "b"]
    umoci("unpack", "--rootless", "--image", f"{target.directory}:b", umoci.home / "bundle")
    assert (umoci.home / "bundle" / "rootfs" / HELLO).read_bytes() == content


def test_the_disk_is_whole_while_others_push(skopeo: Skopeo, umoci: Client, layout: Layout, target: Target) -> None:
    tags = [f"v{number}" for number in range(8)]
    for tag in tags:
        layout.tag(tag, layout.image())
    skopeo.copy(layout.at("v0"), target.by_http("v0"))
    with ThreadPoolExecutor(2) as pool:
        pushes = [pool.submit(skopeo.copy, layout.at(tag), target.by_http(tag)) for tag in tags[1:]]
        while not all(push.done() for push in pushes):
            for tag in _tags_on_disk(umoci, target):
                skopeo.copy(target.on_disk(tag), f"dir:{skopeo.home}/copied")
    for push in pushes:
        push.result()
    assert _tags_on_disk(umoci, target) == tags


def test_a_layout_put_on_the_disk_is_served(skopeo: Skopeo, umoci: Client, target: Target) -> None:
    target.directory.parent.mkdir(parents=True, exist_ok=True)
    umoci("init", "--layout", target.directory)
    umoci("new", "--image", f"{target.directory}:1")
    stored = skopeo.raw(target.on_disk())
    assert skopeo.raw(target.by_http()) == stored
    skopeo.copy(target.by_http(), f"dir:{skopeo.home}/pulled")
    assert (skopeo.home / "pulled" / "manifest.json").read_bytes() == stored


def test_docker_images_are_refused_by_layout_tools(
    skopeo: Skopeo, umoci: Client, layout: Layout, target: Target
) -> None:
    """Hold what docs/clients.md says of Docker's media types."""
    layout.tag("1", layout.image())
    skopeo.copy(layout.at("1"), target.by_http(), "--format", "v2s2")
    said = skopeo.copy_refused(target.on_disk(), f"dir:{skopeo.home}/copied")
    assert "no descriptor found for reference" in said
    said = umoci.refused("unpack", "--rootless", "--image", f"{target.directory}:1", umoci.home / "bundle")
    assert DOCKER_IMAGE in said


def test_docker_images_come_by_http_in_either_form(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    layout.tag("1", layout.image())
    skopeo.copy(layout.at("1"), target.by_http(), "--format", "v2s2")
    skopeo.copy(target.by_http(), f"dir:{skopeo.home}/pulled")
    assert (skopeo.home / "pulled" / "manifest.json").read_bytes() == skopeo.raw(target.by_http())
    exported = Layout(skopeo.home / "exported")
    skopeo.copy(target.by_http(), exported.at("1"))
    assert json.loads(skopeo.raw(exported.at("1")))["mediaType"] == OCI_IMAGE


def _tags_on_disk(umoci: Client, target: Target) -> list[str]:
    return sorted(umoci("list", "--layout", target.directory).split())
