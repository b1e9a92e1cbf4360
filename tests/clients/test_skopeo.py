"""skopeo against the registry: copies both ways, whole indexes, lists, synchronising and deleting."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients.support.images import Layout
from tests.clients.support.programs import Skopeo
from tests.clients.support.relay import Relay
from tests.clients.support.target import Target
from tests.support.oci import DOCKER_IMAGE, DOCKER_LIST, OCI_IMAGE, OCI_INDEX, Document, Json, digest_of

ARCHITECTURES = ("amd64", "arm64", "s390x")


def test_an_image_comes_back_as_it_went(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    pushed = layout.tag("1", layout.image(layers=3))
    skopeo.copy(layout.at("1"), target.by_http())
    pulled = Layout(skopeo.home / "pulled")
    skopeo.copy(target.by_http(), pulled.at("back"))
    assert skopeo.raw(pulled.at("back")) == pushed.body


@pytest.mark.parametrize("media_type", [OCI_IMAGE, DOCKER_IMAGE])
def test_both_image_formats(skopeo: Skopeo, layout: Layout, target: Target, media_type: str) -> None:
    layout.tag("1", layout.image())
    skopeo.copy(layout.at("1"), target.by_http(), "--format", _format(media_type))
    skopeo.copy(target.by_http(), f"dir:{skopeo.home}/pulled")
    stored = skopeo.raw(target.by_http())
    assert json.loads(stored)["mediaType"] == media_type
    assert (skopeo.home / "pulled" / "manifest.json").read_bytes() == stored


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_a_whole_index(skopeo: Skopeo, layout: Layout, target: Target, media_type: str) -> None:
    layout.tag("1", layout.multi_arch(*ARCHITECTURES))
    skopeo.copy(layout.at("1"), target.by_http(), "--all", "--format", _format(media_type))
    skopeo.copy(target.by_http(), f"dir:{skopeo.home}/pulled", "--all")
    stored = skopeo.raw(target.by_http())
    assert json.loads(stored)["mediaType"] == media_type
    assert (skopeo.home / "pulled" / "manifest.json").read_bytes() == stored
    assert len(list((skopeo.home / "pulled").glob("*.manifest.json"))) == len(ARCHITECTURES)


def test_one_platform_of_an_index(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    index = layout.tag("1", layout.multi_arch(*ARCHITECTURES))
    skopeo.copy(layout.at("1"), target.by_http(), "--all")
    pulled = skopeo.home / "pulled"
    skopeo("--override-arch", "arm64", "copy", "--src-tls-verify=false", target.by_http(), f"dir:{pulled}")
    assert digest_of((pulled / "manifest.json").read_bytes()) == _children(index)[1]


def test_a_digest_names_an_image(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    pushed = layout.tag("1", layout.image())
    skopeo.copy(layout.at("1"), target.by_http())
    skopeo.copy(f"docker://{target.name}@{pushed.digest}", f"dir:{skopeo.home}/pulled")
    assert (skopeo.home / "pulled" / "manifest.json").read_bytes() == pushed.body


def test_tags_are_listed_in_order(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    layout.tag("1", layout.image())
    for tag in ("b", "1.10", "a", "1.9", "_x", "B"):
        skopeo.copy(layout.at("1"), target.by_http(tag))
    listed: Json = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{target.name}"))
    assert listed["Tags"] == ["1.10", "1.9", "B", "_x", "a", "b"]


def test_sync_there_and_back(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    layout.tag("one", layout.image())
    layout.tag("many", layout.multi_arch(*ARCHITECTURES))
    for tag in ("one", "many"):
        skopeo.copy(layout.at(tag), target.by_http(tag), "--all")
    there = ("sync", "--all", "--src-tls-verify=false", "--src", "docker", "--dest", "dir")
    back = ("sync", "--all", "--dest-tls-verify=false", "--src", "dir", "--dest", "docker")
    skopeo(*there, target.name, skopeo.home / "synced")
    skopeo(*back, skopeo.home / "synced", f"{target.name}/mirror")
    # skopeo puts the last component of the name below the one it synchronises to.
    mirror = f"docker://{target.name}/mirror/{target.repository.rsplit('/', 1)[-1]}"
    for tag in ("one", "many"):
        assert skopeo.raw(f"{mirror}:{tag}") == skopeo.raw(target.by_http(tag))


def test_a_deleted_image_is_reported_as_unknown(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    layout.tag("1", layout.image())
    skopeo.copy(layout.at("1"), target.by_http())
    skopeo("delete", "--tls-verify=false", target.by_http())
    assert "manifest unknown" in skopeo.copy_refused(target.by_http(), f"dir:{skopeo.home}/gone")


def test_what_an_index_holds_is_not_deleted(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    index = layout.tag("1", layout.multi_arch(*ARCHITECTURES))
    skopeo.copy(layout.at("1"), target.by_http(), "--all")
    said = skopeo.refused("delete", "--tls-verify=false", f"docker://{target.name}@{_children(index)[0]}")
    assert "denied" in said.lower()
    assert index.digest in said
    skopeo.copy(target.by_http(), f"dir:{skopeo.home}/whole", "--all")


def test_pushing_again_uploads_nothing(skopeo: Skopeo, layout: Layout, relay: Relay, repository: str) -> None:
    layout.tag("1", layout.image(layers=2))
    skopeo.copy(layout.at("1"), f"docker://{relay.host}/{repository}:1")
    assert relay.uploads()
    relay.forget()
    skopeo.copy(layout.at("1"), f"docker://{relay.host}/{repository}:1")
    assert relay.requests()
    assert relay.uploads() == []


def test_a_copy_between_repositories_mounts_the_layers(
    skopeo: Skopeo, layout: Layout, relay: Relay, repository: str
) -> None:
    pushed = layout.tag("1", layout.image(layers=2))
    source, target = (f"docker://{relay.host}/{repository}/{name}:1" for name in ("a", "b"))
    skopeo.copy(layout.at("1"), source)
    relay.forget()
    skopeo.copy(source, target)
    # skopeo never asks to mount a config: it is the one blob that it uploads.
    assert len([request for request in relay.uploads() if "mount=" in request.target]) == 2
    assert len([request for request in relay.uploads() if request.method == "PATCH"]) == 1
    assert skopeo.raw(target) == pushed.body


def test_many_push_to_one_repository_at_once(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    tags = [f"v{number}" for number in range(8)]
    pushed = {tag: layout.tag(tag, layout.image(layers=2)) for tag in tags}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda tag: skopeo.copy(layout.at(tag), target.by_http(tag)), tags))
    for tag in tags:
        assert skopeo.raw(target.by_http(tag)) == pushed[tag].body
    assert target.remote.tags() == tags


def test_many_push_one_image_at_once(skopeo: Skopeo, layout: Layout, target: Target) -> None:
    tags = [f"v{number}" for number in range(8)]
    pushed = layout.tag("1", layout.image(layers=3))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda tag: skopeo.copy(layout.at("1"), target.by_http(tag)), tags))
    assert [skopeo.raw(target.by_http(tag)) for tag in tags] == [pushed.body] * len(tags)


def _format(media_type: str) -> str:
    """Return skopeo's name for the family that the media type belongs to."""
    return "v2s2" if media_type in {DOCKER_IMAGE, DOCKER_LIST} else "oci"


def _children(index: Document) -> list[str]:
    return [child["digest"] for child in index.content["manifests"]]
