"""crane against the registry: images and indexes pushed, pulled, copied, changed and deleted."""

import json
from pathlib import Path

from tests.clients.support.images import Layout, rootfs
from tests.clients.support.programs import Client
from tests.clients.support.relay import Relay
from tests.clients.support.target import Target
from tests.support.oci import Document, digest_of, random_bytes

ARCHITECTURES = ("amd64", "arm64")


def test_an_image_comes_back_as_it_went(crane: Client, layout: Layout, target: Target) -> None:
    pushed = layout.tag("1", layout.image(layers=3))
    assert crane("push", layout.root, target.image()).strip() == f"{target.name}@{pushed.digest}"
    assert crane("manifest", target.image()).encode() == pushed.body
    assert crane("digest", target.image()).strip() == pushed.digest
    crane("validate", "--remote", target.image())
    crane("pull", "--format", "oci", target.image(), crane.home / "pulled")
    assert _digests(crane.home / "pulled") == layout.digests()


def test_a_tarball_makes_the_round(crane: Client, target: Target) -> None:
    crane("append", "--new_layer", _layer(crane.home), "--new_tag", target.image("1"))
    crane("pull", target.image("1"), crane.home / "image.tar")
    crane("push", crane.home / "image.tar", target.image("2"))
    assert crane("digest", target.image("2")) == crane("digest", target.image("1"))
    assert crane("ls", target.name).split() == ["1", "2"]
    assert target.repository in crane("catalog", target.server.host).split()


def test_a_whole_index(crane: Client, layout: Layout, target: Target) -> None:
    pushed = _push_index(crane, layout, target)
    assert crane("manifest", target.image()).encode() == pushed.body
    crane("validate", "--remote", target.image())
    children = [child["digest"] for child in pushed.content["manifests"]]
    for architecture, digest in zip(ARCHITECTURES, children, strict=True):
        assert crane("digest", "--platform", f"linux/{architecture}", target.image()).strip() == digest


def test_an_index_is_made_of_what_is_there(crane: Client, layout: Layout, target: Target) -> None:
    layout.tag("1", layout.image())
    crane("push", layout.root, target.image("1"))
    crane("mutate", target.image("1"), "--label", "stage=test", "--tag", target.image("2"))
    crane("index", "append", "-m", target.image("1"), "-m", target.image("2"), "--tag", target.image("both"))
    made = json.loads(crane("manifest", target.image("both")))
    assert {child["digest"] for child in made["manifests"]} == {
        crane("digest", target.image(tag)).strip() for tag in ("1", "2")
    }


def test_a_copy_between_repositories_mounts_every_blob(
    crane: Client, layout: Layout, relay: Relay, repository: str
) -> None:
    layout.tag("1", layout.image(layers=2))
    source, target = (f"{relay.host}/{repository}/{name}:1" for name in ("a", "b"))
    crane("push", layout.root, source)
    relay.forget()
    crane("copy", source, target)
    assert len(relay.uploads()) == 3
    assert all("mount=" in request.target for request in relay.uploads())
    assert crane("digest", target) == crane("digest", source)


def test_all_tags_of_a_repository_are_copied(crane: Client, layout: Layout, target: Target) -> None:
    _push_index(crane, layout, target)
    crane("tag", target.image(), "latest")
    crane("copy", "--all-tags", target.name, f"{target.name}/copy")
    assert crane("ls", f"{target.name}/copy").split() == ["1", "latest"]
    crane("validate", "--remote", f"{target.name}/copy:latest")


def test_an_image_is_flattened(crane: Client, target: Target) -> None:
    crane("append", "--new_layer", _layer(crane.home), "--new_tag", target.image("1"))
    crane("append", "--base", target.image("1"), "--new_layer", _layer(crane.home), "--new_tag", target.image("2"))
    assert len(_manifest(crane, target.image("2"))["layers"]) == 2
    crane("flatten", target.image("2"), "--tag", target.image("flat"))
    assert len(_manifest(crane, target.image("flat"))["layers"]) == 1


def test_a_tag_is_deleted_and_its_image_stays(crane: Client, layout: Layout, target: Target) -> None:
    pushed = layout.tag("1", layout.image())
    crane("push", layout.root, target.image())
    crane("delete", target.image())
    assert "MANIFEST_UNKNOWN" in crane.refused("digest", target.image())
    crane("delete", f"{target.name}@{pushed.digest}")
    assert "MANIFEST_UNKNOWN" in crane.refused("digest", f"{target.name}@{pushed.digest}")


def test_what_an_index_lists_is_not_deleted(crane: Client, layout: Layout, target: Target) -> None:
    pushed = _push_index(crane, layout, target)
    child = pushed.content["manifests"][0]["digest"]
    assert "of this repository lists the manifest" in crane.refused("delete", f"{target.name}@{child}")
    crane("validate", "--remote", target.image())


def _push_index(crane: Client, layout: Layout, target: Target) -> Document:
    pushed = layout.tag("1", layout.multi_arch(*ARCHITECTURES))
    crane("push", "--index", layout.root, f"{target.name}:all")
    # What crane pushes of a layout is the layout's own index; the image's index is the one that this lists.
    crane("copy", f"{target.name}@{pushed.digest}", target.image())
    crane("delete", f"{target.name}:all")
    return pushed


def _layer(home: Path) -> Path:
    content = rootfs(random_bytes())
    path = home / f"{digest_of(content)[-8:]}.tar"
    path.write_bytes(content)
    return path


def _manifest(crane: Client, image: str) -> dict[str, list[object]]:
    manifest: dict[str, list[object]] = json.loads(crane("manifest", image))
    return manifest


def _digests(layout: Path) -> set[str]:
    return {f"sha256:{blob.name}" for blob in (layout / "blobs" / "sha256").iterdir()}
