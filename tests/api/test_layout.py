"""An OCI image layout that somebody else wrote into the root is served as it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.oci import (
    DOCKER_CONFIG,
    DOCKER_IMAGE,
    DOCKER_LAYER,
    OCI_CONFIG,
    OCI_IMAGE,
    OCI_INDEX,
    OCI_LAYER,
    REF_NAME,
    Document,
    Json,
    Remote,
    descriptor_of,
    expect_error,
    expect_status,
    image,
    index,
    random_bytes,
    referrers_tag,
)
from tests.support.server import Server


class HandWrittenLayout:
    """Write an image layout file by file, as another tool would."""

    def __init__(self, directory: Path) -> None:
        """Create the directory and the marker."""
        self.directory = directory
        directory.mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes, media_type: str, algorithm: str = "sha256") -> Json:
        """Write a blob and return its descriptor."""
        descriptor = descriptor_of(data, media_type, algorithm)
        path = self.directory / "blobs" / algorithm / descriptor["digest"].split(":")[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return descriptor

    def image(self, media_type: str = OCI_IMAGE, algorithm: str = "sha256", **fields: object) -> Document:
        """Write an image with a config and a layer of unique content."""
        docker = media_type == DOCKER_IMAGE
        config = self.blob(random_bytes(), DOCKER_CONFIG if docker else OCI_CONFIG, algorithm)
        layer = self.blob(random_bytes(), DOCKER_LAYER if docker else OCI_LAYER, algorithm)
        return self.manifest(image(config, [layer], media_type, **fields), algorithm)

    def manifest(self, manifest: Document, algorithm: str = "sha256") -> Document:
        """Write a manifest."""
        self.blob(manifest.body, manifest.media_type, algorithm)
        return manifest

    def index(self, entries: Iterable[Json], **fields: object) -> None:
        """Write index.json, indented, as people do."""
        document = {"schemaVersion": 2, "manifests": list(entries), **fields}
        (self.directory / "index.json").write_text(json.dumps(document, indent=2) + "\n")


@pytest.fixture
def layout(server: Server, repository: str) -> HandWrittenLayout:
    """Return a layout in the running server's root."""
    return HandWrittenLayout(server.root / repository)


def named(manifest: Document, name: str, algorithm: str = "sha256") -> Json:
    """Return the entry that gives a manifest a ref.name."""
    return manifest.descriptor(algorithm, annotations={REF_NAME: name})


def test_tags_manifests_and_blobs_are_served(layout: HandWrittenLayout, remote: Remote) -> None:
    """Image layout "index.json file": an entry's ref.name is a tag; manifests and blobs are what lies there."""
    one, docker = layout.image(), layout.image(DOCKER_IMAGE)
    layout.index([named(one, "v1.0.0-vendor.0"), named(docker, "docker"), named(one, "again")], annotations={"a": "b"})
    assert remote.tags() == ["again", "docker", "v1.0.0-vendor.0"]
    for reference, manifest in (("again", one), ("docker", docker), (one.digest, one), (docker.digest, docker)):
        answer = remote.get(f"manifests/{reference}")
        assert answer.content == manifest.body
        assert answer.headers["Content-Type"] == manifest.media_type
        assert answer.headers["Docker-Content-Digest"] == manifest.digest
    layer = one.content["layers"][0]["digest"]
    assert remote.get(f"blobs/{layer}").headers["Docker-Content-Digest"] == layer
    assert remote.name in remote.get(f"/v2/_catalog?n=1&last={remote.name[:-1]}").json()["repositories"]


def test_manifests_without_a_tag_resolve_by_digest(layout: HandWrittenLayout, remote: Remote) -> None:
    """Image layout "index.json file": no semantic restriction is given for ref.name; what is no tag is no tag."""
    odd = ["", "docker.io/library/alpine:latest", "-x", "a b", "x" * 129, "é", "../..", "sha256:" + "0" * 64]
    images = [layout.image() for _ in range(len(odd) + 1)]
    layout.index([images[0].descriptor(), *(named(entry, name) for entry, name in zip(images[1:], odd, strict=True))])
    assert remote.tags() == []
    for manifest in images:
        assert remote.get(f"manifests/{manifest.digest}").content == manifest.body


def test_children_of_indexes_resolve(layout: HandWrittenLayout, remote: Remote) -> None:
    """Image layout "Content": a ref is followed to a manifest, possibly via an image index."""
    leaf = layout.image()
    inner = layout.manifest(index([leaf.descriptor(platform={"os": "linux", "architecture": "amd64"})]))
    outer = layout.manifest(index([inner.descriptor()]))
    layout.index([named(outer, "1")])
    for manifest in (outer, inner, leaf):
        answer = remote.get(f"manifests/{manifest.digest}")
        assert answer.content == manifest.body
        assert answer.headers["Content-Type"] == manifest.media_type


def test_indexes_nest_deeper_than_a_stack(layout: HandWrittenLayout, remote: Remote) -> None:
    """Image spec "Image Index": indexes nest without limit; what lies at the bottom resolves, and is held."""
    bottom = current = layout.image()
    for _ in range(1200):
        current = layout.manifest(index([current.descriptor()]))
    layout.index([named(current, "top")])
    assert remote.get(f"manifests/{bottom.digest}").content == bottom.body
    expect_error(remote.delete(f"manifests/{bottom.digest}"), 405, "DENIED")
    remote.push(index([current.descriptor()]), "above")
    expect_status(remote.delete("manifests/top"), 202)
    assert remote.get(f"manifests/{bottom.digest}").content == bottom.body


def test_layout_of_broken_documents_is_survived(layout: HandWrittenLayout, remote: Remote) -> None:
    """What an index lists may be no JSON, of another shape, or listed with a wrong size: 404 or as it lies, no 5xx."""
    good = layout.image()
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"manifests": 1}',
        b'{"manifests": [1, {}, {"digest": "x"}]}',
        b'{"layers": {}}',
    ]
    broken = [layout.manifest(Document(body, media_type)) for body in bodies for media_type in (OCI_INDEX, OCI_IMAGE)]
    entries = [named(manifest, f"broken{number}") for number, manifest in enumerate(broken)]
    layout.index([*entries, named(good, "good"), {**named(good, "wrong-size"), "size": 1}])
    for number in range(len(broken)):
        assert remote.get(f"manifests/broken{number}").status_code in (200, 404)
    assert remote.get("manifests/good").content == good.body
    assert remote.get("manifests/wrong-size").status_code in (200, 404)
    expect_status(remote.get(f"referrers/{good.digest}"), 200)
    expect_error(remote.get("manifests/sha256:" + "0" * 64), 404, "MANIFEST_UNKNOWN")
    expect_error(remote.delete("manifests/sha256:" + "0" * 64), 404, "MANIFEST_UNKNOWN")
    pushed = remote.push_image("pushed")
    assert remote.get("manifests/pushed").content == pushed.body


@pytest.mark.parametrize(
    "entry",
    [1, None, [], {}, {"digest": 1}, {"digest": "../../x"}, {"digest": "md5:0"}, {"annotations": []}, {"size": "x"}],
    ids=json.dumps,
)
def test_entry_that_is_no_descriptor_is_survived(layout: HandWrittenLayout, remote: Remote, entry: object) -> None:
    """An index.json with one odd entry still serves the others, or is refused as damaged; either way no 500."""
    good = layout.image()
    odd = {**named(good, "odd"), **entry} if isinstance(entry, dict) and entry else entry
    document = {"schemaVersion": 2, "manifests": [odd, named(good, "good")]}
    (layout.directory / "index.json").write_text(json.dumps(document))
    answer = remote.get("manifests/good")
    if answer.status_code == 200:
        assert answer.content == good.body
    else:
        expect_error(answer, (404, 503))
    for path in ("tags/list", "/v2/_catalog?n=1000", f"referrers/{good.digest}", "manifests/odd"):
        expect_status(remote.get(path), 200, 404, 503)


def test_sha512_layout(layout: HandWrittenLayout, remote: Remote) -> None:
    """Image layout "Blobs": a directory for each algorithm."""
    manifest = layout.image(algorithm="sha512")
    layout.index([named(manifest, "1", "sha512")])
    answer = remote.get("manifests/1")
    assert answer.content == manifest.body
    assert answer.headers["Docker-Content-Digest"] == manifest.descriptor("sha512")["digest"]


def test_pushing_into_it_keeps_what_was_there(layout: HandWrittenLayout, remote: Remote) -> None:
    """A registry adds to a layout: other entries, also odd ones, stay, and so do unknown files."""
    kept, odd = layout.image(), layout.image()
    layout.index([named(kept, "kept"), named(odd, "not/a:tag")], annotations={"a": "b"}, unknown={"x": [1]})
    (layout.directory / "manifest.json").write_text("[]")
    pushed = remote.push_image("new")
    assert remote.tags() == ["kept", "new"]
    for manifest in (kept, odd, pushed):
        assert remote.get(f"manifests/{manifest.digest}").content == manifest.body
    entries = json.loads((layout.directory / "index.json").read_text())["manifests"]
    assert "not/a:tag" in [entry.get("annotations", {}).get(REF_NAME) for entry in entries]
    assert (layout.directory / "manifest.json").read_text() == "[]"


def test_referrers_of_a_layout_are_listed(layout: HandWrittenLayout, remote: Remote) -> None:
    """Spec "Enabling the Referrers API": preexisting manifests under the referrers tag schema MUST be included."""
    subject = layout.image()
    referrer = layout.image(subject=subject.descriptor(), artifactType="a/b")
    fallback = layout.manifest(index([referrer.descriptor()]))
    layout.index([named(subject, "1"), named(fallback, referrers_tag(subject.digest))])
    assert remote.referrers(subject.digest) == [referrer.descriptor(artifactType="a/b")]


def test_change_from_outside_is_seen_at_once(layout: HandWrittenLayout, remote: Remote) -> None:
    """index.json is the truth: a tool that replaces it is believed by every worker, without a restart."""
    one, two = layout.image(), layout.image()
    layout.index([named(one, "1")])
    for _ in range(4):
        assert Remote(remote.url, remote.name).tags() == ["1"]
    layout.index([named(one, "1"), named(two, "2")])
    for _ in range(4):
        fresh = Remote(remote.url, remote.name)
        assert fresh.tags() == ["1", "2"]
        assert fresh.get("manifests/2").content == two.body


def test_deleting_from_it(layout: HandWrittenLayout, remote: Remote) -> None:
    """Spec "Content Management": tags and manifests of a layout that others wrote are deleted like any."""
    one, two = layout.image(), layout.image()
    layout.index([named(one, "1"), named(two, "2"), named(two, "3")])
    expect_status(remote.delete("manifests/1"), 202)
    expect_status(remote.delete(f"manifests/{two.digest}"), 202)
    assert remote.tags() == []
    assert remote.get(f"manifests/{one.digest}").content == one.body
    expect_error(remote.get(f"manifests/{two.digest}"), 404, "MANIFEST_UNKNOWN")


def test_layout_that_lacks_a_blob_answers_404_for_it(layout: HandWrittenLayout, remote: Remote) -> None:
    """Image layout "Blobs": the directory MAY be missing referenced blobs; that is no error of the registry."""
    manifest = image(descriptor_of(random_bytes(), OCI_CONFIG))
    present = layout.image()
    layout.index([named(manifest, "absent"), named(present, "present")])
    expect_error(remote.get("manifests/absent"), 404, "MANIFEST_UNKNOWN")
    expect_error(remote.get(f"manifests/{manifest.digest}"), 404, "MANIFEST_UNKNOWN")
    assert remote.get("manifests/present").content == present.body


def test_what_the_registry_writes_is_a_layout(server: Server, remote: Remote) -> None:
    """Image layout "Content": oci-layout, index.json that is an index, and every blob under its digest."""
    manifest = remote.push_image("1")
    remote.push(index([manifest.descriptor()]), "multi")
    directory = server.root / remote.name
    assert json.loads((directory / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    written = json.loads((directory / "index.json").read_text())
    assert written["schemaVersion"] == 2
    tags = {entry["annotations"][REF_NAME]: entry for entry in written["manifests"]}
    assert set(tags) == {"1", "multi"}
    assert tags["1"]["digest"] == manifest.digest
    assert tags["1"]["size"] == len(manifest.body)
    assert tags["1"]["mediaType"] == OCI_IMAGE
    for file in (directory / "blobs" / "sha256").iterdir():
        assert descriptor_of(file.read_bytes(), "")["digest"] == f"sha256:{file.name}"
