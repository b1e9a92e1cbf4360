"""Listing referrers: the OCI API with its filter, pages and fallback tags, and the ORAS API of old clients."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.support.oci import (
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_IMAGE,
    OCI_INDEX,
    Json,
    Remote,
    descriptor_of,
    digest_of,
    expect_error,
    expect_status,
    image,
    index,
    next_link,
    oras_artifact,
    random_bytes,
    referrers_tag,
)

UNKNOWN = "sha256:" + "0" * 64
EMPTY_LIST = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
MIB = 1024 * 1024


def digests(descriptors: list[Json]) -> list[str]:
    """Return the digests of `descriptors`, sorted."""
    return sorted(descriptor["digest"] for descriptor in descriptors)


def unpushed_subject() -> Json:
    """Return the descriptor of an image that nobody has pushed."""
    return descriptor_of(random_bytes(), OCI_IMAGE)


def test_empty_list_for_a_repository_never_seen(remote: Remote) -> None:
    """Spec "Listing Referrers": MUST NOT be 404; no matching referrers give an empty manifest list."""
    answer = remote.get(f"referrers/{UNKNOWN}")
    expect_status(answer, 200)
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.json() == EMPTY_LIST


def test_empty_list_where_nothing_refers(remote: Remote) -> None:
    """Spec "Listing Referrers": an image without referrers has an empty list, filtered or not."""
    manifest = remote.push_image("1")
    for query in ("", "?artifactType=a/b"):
        answer = remote.get(f"referrers/{manifest.digest}{query}")
        expect_status(answer, 200)
        assert answer.json() == EMPTY_LIST


@pytest.mark.parametrize("digest", ["nonsense", "sha256:abc", "md5:", "latest", "sha256:" + "G" * 64])
def test_malformed_digest_is_400(remote: Remote, digest: str) -> None:
    """Spec "Listing Referrers", end-12a: an invalid digest MUST be 400."""
    remote.push_image("latest")
    expect_error(remote.get(f"referrers/{digest}"), 400, "DIGEST_INVALID")


def test_descriptor_of_a_referrer(remote: Remote) -> None:
    """Spec "Listing Referrers": media type, digest and size, the artifactType, and the manifest's annotations."""
    subject = remote.push_image("1").descriptor()
    annotations = {"org.opencontainers.image.created": "2022-01-01T14:42:55Z", "é": "ü"}
    referrer = remote.push_referrer(subject, "application/vnd.example.sbom.v1", annotations=annotations)
    answer = remote.get(f"referrers/{subject['digest']}")
    expect_status(answer, 200)
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert "OCI-Filters-Applied" not in answer.headers
    expected = referrer.descriptor(artifactType="application/vnd.example.sbom.v1", annotations=annotations)
    assert answer.json() == {**EMPTY_LIST, "manifests": [expected]}


@pytest.mark.parametrize("artifact_type", [None, ""])
def test_config_media_type_stands_in_for_an_images_artifact_type(remote: Remote, artifact_type: str | None) -> None:
    """Spec "Listing Referrers": empty or missing in an image, artifactType MUST be the config's mediaType."""
    subject = unpushed_subject()
    config = remote.push_blob(random_bytes(), "application/vnd.example.config")
    fields: Json = {} if artifact_type is None else {"artifactType": artifact_type}
    referrer = remote.push(image(config, subject=subject, **fields))
    assert remote.referrers(subject["digest"]) == [referrer.descriptor(artifactType="application/vnd.example.config")]
    assert digests(remote.referrers(subject["digest"], artifactType="application/vnd.example.config"))


@pytest.mark.parametrize("artifact_type", [None, "", "application/vnd.example"])
def test_index_may_refer_to_a_subject(remote: Remote, artifact_type: str | None) -> None:
    """Spec "Listing Referrers": empty or missing in an index, artifactType MUST be omitted."""
    subject = unpushed_subject()
    fields: Json = {} if artifact_type is None else {"artifactType": artifact_type}
    referrer = remote.push(index([], subject=subject, annotations={"a": "b"}, **fields), "1")
    expected = referrer.descriptor(annotations={"a": "b"}, **({"artifactType": artifact_type} if artifact_type else {}))
    assert remote.referrers(subject["digest"]) == [expected]


def test_referrer_may_come_before_its_subject(remote: Remote) -> None:
    """Spec "Push": a manifest and its referrers are pushed in either order."""
    subject = remote.build_image()
    referrer = remote.push_referrer(subject.descriptor())
    assert digests(remote.referrers(subject.digest)) == [referrer.digest]
    remote.push(subject, "1")
    later = remote.push_referrer(subject.descriptor(), "application/vnd.other")
    assert digests(remote.referrers(subject.digest)) == sorted([referrer.digest, later.digest])


def test_filter_by_artifact_type(remote: Remote) -> None:
    """Spec "Listing Referrers", end-12b: the filter SHOULD work, and MUST be told in OCI-Filters-Applied."""
    subject = unpushed_subject()
    kinds = ["application/vnd.example.sbom.v1+json", "application/vnd.example.signature"]
    pushed = {kind: remote.push_referrer(subject, kind).digest for kind in kinds}
    for kind in kinds:
        answer = remote.get(f"referrers/{subject['digest']}", params={"artifactType": kind})
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        assert digests(answer.json()["manifests"]) == [pushed[kind]]
        assert {entry["artifactType"] for entry in answer.json()["manifests"]} == {kind}
    answer = remote.get(f"referrers/{subject['digest']}", params={"artifactType": "application/vnd.example"})
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    assert answer.json() == EMPTY_LIST


def test_only_the_subject_in_the_same_repository_counts(remote: Remote) -> None:
    """Spec "Listing Referrers": each descriptor is in the same namespace and has the digest as its subject."""
    one, other = unpushed_subject(), unpushed_subject()
    neighbour = Remote(remote.url, f"{remote.name}/inner")
    referrer = remote.push_referrer(one)
    remote.push_referrer(other)
    neighbour.push_referrer(one, "application/vnd.neighbour")
    assert digests(remote.referrers(one["digest"])) == [referrer.digest]


def test_tags_of_a_referrer_do_not_multiply_it(remote: Remote) -> None:
    """Spec "Listing Referrers": different descriptors, so each referrer once, tagged or not."""
    subject = unpushed_subject()
    referrer = remote.push_referrer(subject)
    for tag in ("a", "b", "c"):
        remote.push(referrer, tag)
    assert digests(remote.referrers(subject["digest"])) == [referrer.digest]


def test_referrer_in_an_index_is_still_listed(remote: Remote) -> None:
    """Spec "Enabling the Referrers API": MUST include all newly pushed manifests with a valid subject field."""
    subject = unpushed_subject()
    referrer = remote.push_referrer(subject)
    remote.push(index([referrer.descriptor()]), "bundle")
    remote.push(index([remote.push(index([referrer.descriptor()])).descriptor()]), "nested")
    assert digests(remote.referrers(subject["digest"])) == [referrer.digest]


def test_referrers_of_a_sha512_subject(remote: Remote) -> None:
    """Spec "Listing Referrers": `<digest>` is the digest in the subject field, of any algorithm."""
    subject = remote.build_image()
    referrer = remote.push_referrer(subject.descriptor("sha512"))
    assert digests(remote.referrers(digest_of(subject.body, "sha512"))) == [referrer.digest]
    assert remote.referrers(subject.digest) == []


@pytest.mark.parametrize(
    "subject", ["sha384:" + "0" * 96, "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8"]
)
def test_referrers_of_a_subject_whose_digest_is_not_supported(remote: Remote, subject: str) -> None:
    """What a push said to be a subject (`OCI-Subject`) has its list; only content needs a known algorithm."""
    assert remote.referrers(subject) == []
    referrer = remote.push_referrer({**unpushed_subject(), "digest": subject})
    assert digests(remote.referrers(subject)) == [referrer.digest]


def test_referrer_pushed_by_sha512(remote: Remote) -> None:
    """Spec "Listing Referrers": a referrer is listed by the digest it was pushed with."""
    subject = unpushed_subject()
    referrer = image(remote.push_blob(b"{}", OCI_EMPTY), artifactType="a/b", subject=subject)
    remote.push(referrer, digest_of(referrer.body, "sha512"))
    assert remote.referrers(subject["digest"]) == [referrer.descriptor("sha512", artifactType="a/b")]


def test_deleted_referrer_is_no_longer_listed(remote: Remote) -> None:
    """Spec "Deleting Manifests": what is gone refers to nothing."""
    subject = remote.push_image("1").descriptor()
    gone, kept = remote.push_referrer(subject, "a/gone"), remote.push_referrer(subject, "a/kept")
    expect_status(remote.delete(f"manifests/{gone.digest}"), 202)
    assert digests(remote.referrers(subject["digest"])) == [kept.digest]


def test_subject_is_not_held_by_its_referrers(remote: Remote) -> None:
    """Spec "Push": a subject need not exist, so it can be deleted; of its referrers, only those with a tag stay."""
    subject = remote.push_image("1").descriptor()
    remote.push_referrer(subject)
    tagged = remote.push_image("signature", subject=subject)
    expect_status(remote.delete(f"manifests/{subject['digest']}"), 202)
    assert digests(remote.referrers(subject["digest"])) == [tagged.digest]


def test_fallback_tag_is_included(remote: Remote) -> None:
    """Spec "Enabling the Referrers API": MUST include what an index under the referrers tag schema lists.

    Being children of an index, the referrers have no entries of their own any more.
    """
    subject = remote.push_image("1")
    listed = remote.push_referrer(subject.descriptor(), "a/listed")
    fallback = remote.push(index([listed.descriptor(artifactType="a/listed")]), referrers_tag(subject.digest))
    pushed = remote.push_referrer(subject.descriptor(), "a/pushed")
    assert digests(remote.referrers(subject.digest)) == sorted([listed.digest, pushed.digest])
    assert digests(remote.referrers(subject.digest, artifactType="a/listed")) == [listed.digest]
    assert remote.get(f"manifests/{referrers_tag(subject.digest)}").content == fallback.body


def test_fallback_tag_of_a_sha512_subject_is_included(remote: Remote) -> None:
    """Spec "Referrers Tag Schema": algorithm and encoded part are cut to 32 and 64 characters."""
    subject = remote.build_image()
    digest = digest_of(subject.body, "sha512")
    listed = remote.push_referrer(subject.descriptor("sha512"))
    assert len(referrers_tag(digest)) == len("sha512-") + 64
    remote.push(index([listed.descriptor()]), referrers_tag(digest))
    assert digests(remote.referrers(digest)) == [listed.digest]


def test_fallback_tag_lists_only_what_has_the_subject(remote: Remote) -> None:
    """Spec "Enabling the Referrers API": only manifests that have a valid subject field; and not the list itself."""
    subject = unpushed_subject()
    bystander = remote.push_image()
    stranger = remote.push_referrer(unpushed_subject())
    children = [bystander.descriptor(), stranger.descriptor()]
    remote.push(index(children), referrers_tag(subject["digest"]))
    assert remote.referrers(subject["digest"]) == []


def test_image_under_the_fallback_tag_breaks_nothing(remote: Remote) -> None:
    """Spec "Pushing Manifests with Subject": the tag may hold something other than the expected image index."""
    subject = unpushed_subject()
    referrer = remote.push_referrer(subject)
    remote.push_image(referrers_tag(subject["digest"]))
    assert digests(remote.referrers(subject["digest"])) == [referrer.digest]


@pytest.mark.parametrize("query", ["", "?artifactType=a%2Fbig"])
def test_long_lists_come_in_pages(remote: Remote, query: str) -> None:
    """Spec "Listing Referrers": a Link MUST lead on when the list does not fit a manifest, of 4 MiB here."""
    subject = unpushed_subject()
    pushed = [
        remote.push_referrer(subject, "a/big", annotations={"number": str(number), "padding": "x" * MIB}).digest
        for number in range(5)
    ]
    remote.push_referrer(subject, "a/small")
    collected: list[Json] = []
    link: str | None = f"referrers/{subject['digest']}{query}"
    rounds = 0
    while link is not None:
        answer = remote.get(link)
        expect_status(answer, 200)
        assert len(answer.content) <= 4 * MIB
        assert answer.headers["Content-Type"] == OCI_INDEX
        assert ("OCI-Filters-Applied" in answer.headers) == bool(query)
        collected += answer.json()["manifests"]
        link = next_link(answer)
        rounds += 1
        assert rounds < 10
    assert rounds > 1
    assert digests([entry for entry in collected if entry["artifactType"] == "a/big"]) == sorted(pushed)
    assert len(collected) == (5 if query else 6)


def test_referrer_nearly_as_large_as_a_page_is_listed(remote: Remote) -> None:
    """Spec "Listing Referrers": a manifest at the limit of sizes is listed like any other, and its neighbours too."""
    subject = unpushed_subject()
    small = remote.push_referrer(subject, "a/small")
    large = remote.push_referrer(subject, "a/large", annotations={"padding": "x" * (4 * MIB)})
    collected: list[Json] = []
    link: str | None = f"referrers/{subject['digest']}"
    for _ in range(5):
        if link is not None:
            answer = remote.get(link)
            collected += answer.json()["manifests"]
            link = next_link(answer)
    assert link is None
    assert digests(collected) == sorted([small.digest, large.digest])


@pytest.mark.parametrize("query", ["last=nonsense", "n=x", "artifactType=", "artifactType=%00", "page=-1"])
def test_odd_parameters_do_no_harm(remote: Remote, query: str) -> None:
    """Spec "Listing Referrers": an invalid request MUST be 400, never 404; what is not known is ignored."""
    subject = unpushed_subject()
    remote.push_referrer(subject)
    expect_status(remote.get(f"referrers/{subject['digest']}?{query}"), 200, 400)


def test_unreferenced_image_config_is_no_referrer(remote: Remote) -> None:
    """Spec "Definitions", Subject: a field of manifests; a config blob that has one refers to nothing."""
    subject = unpushed_subject()
    forged = image(descriptor_of(b"{}", OCI_EMPTY), subject=subject)
    remote.push(image(remote.push_blob(forged.body, OCI_CONFIG)), "1")
    assert remote.referrers(subject["digest"]) == []


def oras_referrers(remote: Remote, digest: str, artifact_type: str) -> list[Json]:
    """Ask as notation 0.x and ORAS 0.x do."""
    path = f"/oras/artifacts/v1/{remote.name}/manifests/{digest}/referrers?artifactType={quote(artifact_type, safe='')}"
    answer = remote.get(path)
    expect_status(answer, 200)
    references: Any = answer.json()["references"]
    assert isinstance(references, list)
    return references


def test_oras_artifacts_are_listed_for_old_clients(remote: Remote) -> None:
    """zot v1.4's route: ORAS artifact manifests by subject and artifactType, as `references`."""
    subject = remote.push_image("1").descriptor()
    kind = "application/vnd.cncf.notary.v2.signature"
    signature = remote.push(
        oras_artifact(kind, [remote.push_blob(random_bytes(), "application/jose+json")], subject=subject)
    )
    remote.push(oras_artifact("application/vnd.example.sbom", subject=subject))
    references = oras_referrers(remote, subject["digest"], kind)
    assert digests(references) == [signature.digest]
    assert references[0]["mediaType"] == signature.media_type
    assert references[0]["artifactType"] == kind
    assert references[0]["size"] == len(signature.body)
    assert oras_referrers(remote, subject["digest"], "application/vnd.nothing") == []


def test_oras_route_refuses_a_malformed_digest(remote: Remote) -> None:
    """zot v1.4's route: the error is the one of the OCI API."""
    path = f"/oras/artifacts/v1/{remote.name}/manifests/nonsense/referrers?artifactType=a/b"
    answer = remote.get(path)
    expect_status(answer, 400)
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"
