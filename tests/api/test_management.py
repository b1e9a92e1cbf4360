"""Deleting tags, manifests and blobs; what something else needs is not deleted."""

from __future__ import annotations

import pytest

from tests.support.oci import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    OCI_EMPTY,
    OCI_INDEX,
    Document,
    Remote,
    descriptor_of,
    digest_of,
    expect_error,
    expect_status,
    image,
    index,
    oras_artifact,
    random_bytes,
)

UNKNOWN = "sha256:" + "0" * 64


def check_denied(remote: Remote, path: str, holder: str) -> None:
    """Check that DELETE is refused, names the manifest that holds the content, and changes nothing."""
    answer = remote.delete(path)
    errors = expect_error(answer, 405, "DENIED")
    assert holder in str(errors)
    assert "GET" in answer.headers["Allow"]
    assert remote.get(path).status_code == 200


def check_gone(remote: Remote, *digests: str) -> None:
    """Check that no manifest of those digests resolves, by GET and by HEAD."""
    for digest in digests:
        expect_error(remote.get(f"manifests/{digest}"), 404, "MANIFEST_UNKNOWN")
        assert remote.head(f"manifests/{digest}").status_code == 404


def test_deleting_a_tag_deletes_only_the_tag(remote: Remote) -> None:
    """Spec "Deleting tags", end-9: 202, then a GET of the tag is 404; manifest and other tags stay."""
    manifest = remote.push_image("1")
    remote.push(manifest, "2")
    answer = remote.delete("manifests/1")
    assert answer.status_code == 202
    check_gone(remote, "1")
    assert remote.tags() == ["2"]
    assert remote.get("manifests/2").content == manifest.body


def test_manifest_outlives_its_last_tag(remote: Remote) -> None:
    """Spec "Definitions", Tag: a manifest may have zero tags."""
    manifest = remote.push_image("1")
    expect_status(remote.delete("manifests/1"), 202)
    assert remote.tags() == []
    assert remote.get(f"manifests/{manifest.digest}").content == manifest.body
    expect_error(remote.delete("manifests/1"), 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_deleting_a_manifest_deletes_all_its_tags(remote: Remote, algorithm: str) -> None:
    """Spec "Deleting Manifests": 202, then its digest and any tag pointing to it are 404; nothing else is."""
    manifest, other = remote.build_image(), remote.push_image("other")
    digest = digest_of(manifest.body, algorithm)
    remote.push(manifest, digest, params={"tag": ["1", "2", "3"]})
    assert remote.delete(f"manifests/{digest}").status_code == 202
    check_gone(remote, digest, "1", "2", "3")
    assert remote.tags() == ["other"]
    assert remote.get("manifests/other").content == other.body
    expect_error(remote.delete(f"manifests/{digest}"), 404, "MANIFEST_UNKNOWN")


def test_deleted_manifest_can_be_pushed_again(remote: Remote) -> None:
    """Spec "Content Management": the full life-cycle can begin anew."""
    manifest = remote.push_image("1")
    expect_status(remote.delete(f"manifests/{manifest.digest}"), 202)
    for descriptor in (manifest.content["config"], *manifest.content["layers"]):
        assert remote.head(f"blobs/{descriptor['digest']}").status_code == 200
    remote.push(manifest, "1")
    assert remote.get("manifests/1").content == manifest.body


def test_repository_that_does_not_exist(remote: Remote) -> None:
    """Spec "Deleting Manifests": MUST return 404."""
    expect_error(remote.delete(f"manifests/{UNKNOWN}"), 404, "NAME_UNKNOWN")
    expect_error(remote.delete("manifests/1"), 404, "NAME_UNKNOWN")
    expect_error(remote.delete(f"blobs/{UNKNOWN}"), 404)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_deleting_a_blob(remote: Remote, algorithm: str) -> None:
    """Spec "Deleting Blobs", end-10: 202, then 404; it can be pushed again."""
    data = random_bytes()
    path = f"blobs/{remote.push_blob(data, algorithm=algorithm)['digest']}"
    assert remote.delete(path).status_code == 202
    expect_error(remote.get(path), 404, "BLOB_UNKNOWN")
    assert remote.head(path).status_code == 404
    expect_error(remote.delete(path), 404, "BLOB_UNKNOWN")
    remote.push_blob(data, algorithm=algorithm)
    assert remote.get(path).content == data


def test_deleting_a_blob_leaves_other_repositories_alone(remote: Remote) -> None:
    """Spec "Deleting Blobs": `<name>` is the repository; what others have, nested or beside, stays."""
    data = random_bytes()
    others = [Remote(remote.url, f"{remote.name}/inner"), Remote(remote.url, f"{remote.name}-beside")]
    for other in others:
        other.push_blob(data)
    path = f"blobs/{remote.push_blob(data)['digest']}"
    expect_status(remote.delete(path), 202)
    assert remote.head(path).status_code == 404
    assert [other.get(path).content for other in others] == [data, data]


@pytest.mark.parametrize("media_type", [DOCKER_IMAGE, None])
@pytest.mark.parametrize("tagged", [True, False])
def test_blob_that_a_manifest_references_is_not_deleted(remote: Remote, tagged: bool, media_type: str | None) -> None:
    """What is tagged pulls whole: 405 DENIED while a manifest needs the blob, 202 once it is gone."""
    built = remote.build_image(media_type) if media_type else remote.build_image()
    manifest = remote.push(built, "1" if tagged else None)
    paths = [f"blobs/{entry['digest']}" for entry in (manifest.content["config"], *manifest.content["layers"])]
    for path in paths:
        check_denied(remote, path, manifest.digest)
    expect_status(remote.delete(f"manifests/{manifest.digest}"), 202)
    for path in paths:
        expect_status(remote.delete(path), 202)


def test_blob_of_an_oras_artifact_is_not_deleted(remote: Remote) -> None:
    """What is tagged pulls whole: the blobs of an ORAS artifact manifest are held like layers."""
    blob = remote.push_blob(random_bytes(), "text/plain")
    artifact = remote.push(oras_artifact("a/b", [blob]), "1")
    check_denied(remote, f"blobs/{blob['digest']}", artifact.digest)


def test_blob_deep_below_an_index_is_not_deleted(remote: Remote) -> None:
    """What is tagged pulls whole: the layers of an index's images are held too."""
    leaf = remote.push_image()
    remote.push(index([remote.push(index([leaf.descriptor()])).descriptor()]), "1")
    check_denied(remote, f"blobs/{leaf.content['layers'][0]['digest']}", leaf.digest)


def test_manifest_is_not_deleted_as_a_blob(remote: Remote) -> None:
    """What is tagged pulls whole: a manifest's own bytes cannot be taken away through the blobs endpoint."""
    manifest = remote.push_image("1")
    expect_error(remote.delete(f"blobs/{manifest.digest}"), (404, 405))
    assert remote.get("manifests/1").content == manifest.body


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
@pytest.mark.parametrize("tagged", [True, False])
def test_child_of_an_index_is_not_deleted(remote: Remote, tagged: bool, media_type: str) -> None:
    """What is tagged pulls whole: 405 DENIED by digest, naming the index, tagged itself or not."""
    child = remote.push_image("child" if tagged else None)
    parent = remote.push(index([child.descriptor()], media_type), "parent")
    check_denied(remote, f"manifests/{child.digest}", parent.digest)
    assert remote.tags() == (["child", "parent"] if tagged else ["parent"])


def test_tag_of_a_child_can_be_deleted(remote: Remote) -> None:
    """Spec "Deleting tags": only the tag goes; the index still holds its child."""
    child = remote.push_image("child")
    remote.push(index([child.descriptor()]), "parent")
    expect_status(remote.delete("manifests/child"), 202)
    assert remote.tags() == ["parent"]
    assert remote.get(f"manifests/{child.digest}").content == child.body


def test_deleting_the_tag_of_an_index_keeps_its_children(remote: Remote) -> None:
    """Spec "Deleting tags": the index is still there by digest, and so is all it lists."""
    child = remote.push_image()
    parent = remote.push(index([child.descriptor()]), "parent")
    expect_status(remote.delete("manifests/parent"), 202)
    for manifest in (parent, child):
        assert remote.get(f"manifests/{manifest.digest}").content == manifest.body
    check_denied(remote, f"manifests/{child.digest}", parent.digest)


def nest(remote: Remote) -> tuple[Document, Document, Document, Document]:
    """Push an index of an index, with a tagged and an untagged image in the inner one."""
    tagged, untagged = remote.push_image("kept"), remote.push_image()
    inner = remote.push(index([tagged.descriptor(), untagged.descriptor()]))
    outer = remote.push(index([inner.descriptor()]), "outer")
    return outer, inner, tagged, untagged


def test_deleting_an_index_takes_its_untagged_children_along(remote: Remote) -> None:
    """Spec "Deleting Manifests": a child that only the index listed resolves no longer; a tagged one does."""
    outer, inner, tagged, untagged = nest(remote)
    expect_status(remote.delete(f"manifests/{outer.digest}"), 202)
    check_gone(remote, "outer", outer.digest, inner.digest, untagged.digest)
    assert remote.get("manifests/kept").content == tagged.body
    assert remote.get(f"manifests/{tagged.digest}").content == tagged.body
    assert remote.tags() == ["kept"]


def test_children_of_two_indexes_stay_while_one_is_left(remote: Remote) -> None:
    """Spec "Deleting Manifests": a child resolves as long as some index of the repository lists it."""
    child = remote.push_image()
    first = remote.push(index([child.descriptor()], annotations={"number": "1"}), "first")
    second = remote.push(index([child.descriptor()], annotations={"number": "2"}), "second")
    expect_status(remote.delete(f"manifests/{first.digest}"), 202)
    assert remote.get(f"manifests/{child.digest}").content == child.body
    check_denied(remote, f"manifests/{child.digest}", second.digest)
    expect_status(remote.delete(f"manifests/{second.digest}"), 202)
    check_gone(remote, child.digest)


def test_child_can_be_deleted_once_its_index_is_gone(remote: Remote) -> None:
    """Spec "Deleting Manifests": nothing holds a tagged child after its index."""
    child = remote.push_image("child")
    parent = remote.push(index([child.descriptor()]), "parent")
    expect_status(remote.delete(f"manifests/{parent.digest}"), 202)
    expect_status(remote.delete(f"manifests/{child.digest}"), 202)
    check_gone(remote, "child", child.digest)
    assert remote.tags() == []


def test_deleted_manifest_of_another_repository(remote: Remote) -> None:
    """Spec "Deleting Manifests": `<name>` is the repository; the same manifest elsewhere stays."""
    neighbour = Remote(remote.url, f"{remote.name}/inner")
    manifest = image(remote.push_blob(b"{}", OCI_EMPTY), annotations={"unique": random_bytes().hex()})
    neighbour.push_blob(b"{}", OCI_EMPTY)
    remote.push(manifest, "1")
    neighbour.push(manifest, "1")
    expect_status(remote.delete(f"manifests/{manifest.digest}"), 202)
    check_gone(remote, "1", manifest.digest)
    assert neighbour.get("manifests/1").content == manifest.body


def test_blob_shared_by_two_manifests_is_held_by_each(remote: Remote) -> None:
    """What is tagged pulls whole: the last manifest that needs a blob holds it."""
    layer = remote.push_blob(random_bytes())
    first, second = (
        remote.push(image(remote.push_blob(random_bytes(), OCI_EMPTY), [layer]), tag) for tag in ("1", "2")
    )
    expect_status(remote.delete(f"manifests/{first.digest}"), 202)
    check_denied(remote, f"blobs/{layer['digest']}", second.digest)


def test_subject_does_not_hold(remote: Remote) -> None:
    """A manifest is not held by what refers to it as a subject."""
    subject = remote.push_image("1")
    remote.push_referrer(subject.descriptor())
    expect_status(remote.delete(f"manifests/{subject.digest}"), 202)
    check_gone(remote, subject.digest, "1")


def test_deletion_is_seen_by_every_worker(remote: Remote) -> None:
    """Spec "Deleting Manifests": once deleted, a GET is 404, whichever worker a new connection reaches."""
    manifest = remote.push_image("1")
    assert all(Remote(remote.url, remote.name).get("manifests/1").status_code == 200 for _ in range(6))
    expect_status(remote.delete(f"manifests/{manifest.digest}"), 202)
    for _ in range(6):
        check_gone(Remote(remote.url, remote.name), "1", manifest.digest)


def test_blob_named_by_no_manifest_is_not_held(remote: Remote) -> None:
    """A digest that is merely mentioned, in an annotation or a foreign layer of another digest, holds nothing."""
    data = random_bytes()
    digest = remote.push_blob(data)["digest"]
    config = remote.push_blob(b"{}", OCI_EMPTY)
    remote.push(image(config, annotations={"see": digest}, subject=descriptor_of(data, OCI_EMPTY)), "1")
    expect_status(remote.delete(f"blobs/{digest}"), 202)
