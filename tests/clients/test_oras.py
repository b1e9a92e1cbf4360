"""oras-py against the registry: artifacts pushed, pulled, and attached to others."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from oras.client import OrasClient  # type: ignore[import-untyped]
from oras.oci import Subject  # type: ignore[import-untyped]

from tests.clients.support.target import Target
from tests.support.oci import random_bytes
from tests.support.server import Server

CHART = "application/vnd.example.chart.v1"
SBOM = "application/vnd.example.sbom.v1"
SIGNATURE = "application/vnd.example.signature.v1"
CHUNK = 64 * 1024


@pytest.fixture
def oras(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> OrasClient:
    """Return an oras client, over plain HTTP."""
    # oras-py does not remove the directories that it unpacks in.
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    return OrasClient(hostname=server.host, insecure=True)


@pytest.fixture
def chart(home: Path) -> Path:
    """Return a file of several chunks."""
    return _file(home / "chart.bin", 5 * CHUNK + 1)


@pytest.mark.parametrize("in_chunks", [False, True])
def test_an_artifact_comes_back_as_it_went(oras: OrasClient, target: Target, chart: Path, in_chunks: bool) -> None:
    _push(oras, target.image(), chart, CHART, do_chunked=in_chunks, chunk_size=CHUNK)
    (pulled,) = oras.pull(target=target.image(), outdir=str(chart.parent / "pulled"))
    assert Path(pulled).name == chart.name
    assert Path(pulled).read_bytes() == chart.read_bytes()
    assert oras.get_manifest(target.image())["layers"][0]["mediaType"] == CHART


def test_a_directory_comes_back_as_it_went(oras: OrasClient, target: Target, home: Path) -> None:
    (home / "site").mkdir()
    page = _file(home / "site" / "index.html")
    oras.push(target=target.image(), files=[str(page.parent)], disable_path_validation=True)
    oras.pull(target=target.image(), outdir=str(home / "pulled"))
    assert (home / "pulled" / "site" / "index.html").read_bytes() == page.read_bytes()


def test_an_attached_artifact_is_a_referrer(oras: OrasClient, target: Target, chart: Path) -> None:
    subject = _push_subject(oras, target, chart)
    sbom = _file(chart.with_name("sbom"))
    attached = _attach(oras, target.image("sbom"), subject, sbom, SBOM)
    assert attached["OCI-Subject"] == subject.digest

    (referrer,) = target.remote.referrers(subject.digest)
    assert referrer["digest"] == attached["Docker-Content-Digest"]
    # Without an artifactType the config's media type stands in for it (distribution-spec, "Listing Referrers").
    assert referrer["artifactType"] == SBOM
    assert referrer["annotations"] == {"made.of": sbom.name}
    (pulled,) = oras.pull(target=f"{target.name}@{referrer['digest']}", outdir=str(chart.parent / "pulled"))
    assert Path(pulled).read_bytes() == sbom.read_bytes()


def test_referrers_are_filtered(oras: OrasClient, target: Target, chart: Path) -> None:
    subject = _push_subject(oras, target, chart)
    for kind in (SBOM, SIGNATURE):
        name = kind.rsplit(".", 2)[1]
        _attach(oras, target.image(name), subject, _file(chart.with_name(name)), kind)
    assert len(target.remote.referrers(subject.digest)) == 2
    (signature,) = target.remote.referrers(subject.digest, artifactType=SIGNATURE)
    assert signature["artifactType"] == SIGNATURE


def test_tags_are_listed_and_deleted(oras: OrasClient, target: Target, home: Path) -> None:
    for tag in ("one", "two"):
        _push(oras, target.image(tag), _file(home / tag), CHART)
    assert oras.get_tags(target.name) == ["one", "two"]
    assert oras.get_tags(target.name, N=1) == ["one"]
    assert oras.delete_tag(target.name, "one")
    assert oras.get_tags(target.name) == ["two"]
    with pytest.raises(ValueError, match="manifests/one"):
        oras.pull(target=target.image("one"))


def _file(path: Path, size: int = 64) -> Path:
    path.write_bytes(random_bytes(size))
    return path


def _push(oras: OrasClient, image: str, file: Path, media_type: str, **options: object) -> Mapping[str, str]:
    """Push a file as an artifact and return the headers of the last answer."""
    answer = oras.push(target=image, files=[f"{file}:{media_type}"], disable_path_validation=True, **options)
    headers: Mapping[str, str] = answer.headers
    return headers


def _push_subject(oras: OrasClient, target: Target, file: Path) -> Subject:
    """Push what others are to be attached to and return its descriptor."""
    _push(oras, target.image(), file, CHART)
    return Subject.from_manifest(oras.get_manifest(target.image()))


def _attach(oras: OrasClient, image: str, subject: Subject, file: Path, kind: str) -> Mapping[str, str]:
    """Push a file as an artifact of that kind about the subject and return the headers of the last answer."""
    about = {"manifest_config": f"{file}:{kind}", "manifest_annotations": {"made.of": file.name}}
    return _push(oras, image, file, kind, subject=subject, **about)
