"""containerd against the registry, by ctr: push and pull, whole indexes, mounts."""

import pytest

from tests.clients.support.images import Layout
from tests.clients.support.programs import Client
from tests.clients.support.relay import Relay
from tests.clients.support.target import Target
from tests.support.oci import Document

pytestmark = pytest.mark.xdist_group("containerd")

# containerd's default snapshotter needs overlayfs; this one copies.
PULL = ("images", "pull", "--plain-http", "--snapshotter", "native")
PUSH = ("images", "push", "--plain-http")


def test_an_image_comes_back_as_it_went(ctr: Client, layout: Layout, target: Target) -> None:
    pushed = _import(ctr, layout, layout.image(layers=2), target.image())
    ctr(*PUSH, target.image())
    ctr("images", "remove", "--sync", target.image())
    ctr(*PULL, target.image())
    assert pushed.digest in ctr("images", "list", f"name=={target.image()}")
    assert layout.digests() <= _content(ctr)


def test_a_whole_index(ctr: Client, layout: Layout, target: Target) -> None:
    pushed = _import(ctr, layout, layout.multi_arch("amd64", "arm64"), target.image())
    ctr(*PUSH, target.image())
    ctr("images", "remove", "--sync", target.image())
    assert not layout.digests() & _content(ctr)
    ctr("content", "fetch", "--plain-http", "--all-platforms", target.image())
    assert layout.digests() <= _content(ctr)
    stored = target.remote.get("manifests/1", headers={"Accept": pushed.media_type})
    assert stored.content == pushed.body


def test_pushing_to_another_repository_mounts_every_blob(
    ctr: Client, layout: Layout, relay: Relay, repository: str
) -> None:
    source, target = (f"{relay.host}/{repository}/{name}:1" for name in ("a", "b"))
    _import(ctr, layout, layout.image(layers=2), source)
    ctr(*PUSH, source)
    # containerd knows where a blob can be mounted from once it has pulled it.
    ctr("images", "remove", "--sync", source)
    ctr(*PULL, source)
    ctr("images", "tag", source, target)
    relay.forget()
    ctr(*PUSH, target)
    assert len(relay.uploads()) == 3
    assert all("mount=" in request.target for request in relay.uploads())


def test_pushing_again_uploads_nothing(ctr: Client, layout: Layout, relay: Relay, repository: str) -> None:
    name = f"{relay.host}/{repository}:1"
    _import(ctr, layout, layout.image(), name)
    ctr(*PUSH, name)
    assert relay.uploads()
    relay.forget()
    ctr(*PUSH, name)
    assert relay.requests()
    assert relay.uploads() == []


def test_what_is_not_there_is_said_to_be_missing(ctr: Client, target: Target) -> None:
    assert f"{target.image()}: not found" in ctr.refused(*PULL, target.image())


def _import(ctr: Client, layout: Layout, manifest: Document, name: str) -> Document:
    """Put an image into containerd's own store and return it."""
    repository, tag = name.rsplit(":", 1)
    layout.tag(tag, manifest)
    archive = layout.archive(layout.root.with_suffix(".tar"))
    ctr("images", "import", "--all-platforms", "--no-unpack", "--base-name", repository, archive)
    return manifest


def _content(ctr: Client) -> set[str]:
    """Return the digests of all that containerd holds."""
    return set(ctr("content", "list", "--quiet").split())
