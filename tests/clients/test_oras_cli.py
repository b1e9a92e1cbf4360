"""oras, the command, against the registry: artifacts, what is attached to them, and copies of both."""

import json
from pathlib import Path

import pytest

from tests.clients.support.programs import Client
from tests.clients.support.relay import Relay
from tests.clients.support.target import Target
from tests.support.oci import digest_of, random_bytes

PLAIN = "--plain-http"
BOTH_PLAIN = ("--from-plain-http", "--to-plain-http")
SIGNATURE = "application/vnd.example.signature.v1"
SBOM = "application/vnd.example.sbom.v1"
LARGE = 3 * 1024 * 1024


@pytest.fixture
def note(oras_cli: Client) -> str:
    """Give the name of a file below oras' home."""
    return _file(oras_cli, "note.txt")


@pytest.mark.parametrize("size", [0, 64, LARGE])
def test_an_artifact_comes_back_as_it_went(oras_cli: Client, target: Target, size: int) -> None:
    sent = _file(oras_cli, "note.txt", size)
    oras_cli("push", PLAIN, target.image(), f"{sent}:text/plain")
    oras_cli("pull", PLAIN, "--output", "pulled", target.image())
    assert (oras_cli.home / "pulled" / sent).read_bytes() == (oras_cli.home / sent).read_bytes()


def test_what_is_attached_is_discovered(oras_cli: Client, target: Target, note: str) -> None:
    oras_cli("push", PLAIN, target.image(), note)
    for kind in (SIGNATURE, SBOM):
        oras_cli("attach", PLAIN, "--artifact-type", kind, target.image(), _file(oras_cli, kind.replace("/", "-")))
    assert _attached(oras_cli, target.image()) == {SIGNATURE, SBOM}
    assert _attached(oras_cli, target.image(), "--artifact-type", SBOM) == {SBOM}
    # The registry answers the referrers API itself: no tag stands in for it.
    assert oras_cli("repo", "tags", PLAIN, target.name).split() == ["1"]


def test_a_copy_takes_along_what_is_attached_and_uploads_nothing(
    oras_cli: Client, relay: Relay, repository: str, note: str
) -> None:
    source, target = (f"{relay.host}/{repository}/{name}:1" for name in ("a", "b"))
    oras_cli("push", PLAIN, source, note)
    oras_cli("attach", PLAIN, "--artifact-type", SIGNATURE, source, _file(oras_cli, "signature"))
    relay.forget()
    oras_cli("cp", *BOTH_PLAIN, "--recursive", source, target)
    assert relay.uploads()
    assert all("mount=" in request.target for request in relay.uploads())
    assert _attached(oras_cli, target) == {SIGNATURE}


def test_a_backup_is_restored_with_what_is_attached(oras_cli: Client, target: Target, note: str) -> None:
    oras_cli("push", PLAIN, target.image(), note)
    oras_cli("attach", PLAIN, "--artifact-type", SIGNATURE, target.image(), _file(oras_cli, "signature"))
    oras_cli("backup", PLAIN, "--include-referrers", "--output", "backup", target.image())
    restored = f"{target.name}/restored:1"
    oras_cli("restore", PLAIN, "--input", "backup", restored)
    assert oras_cli("resolve", PLAIN, restored) == oras_cli("resolve", PLAIN, target.image())
    assert _attached(oras_cli, restored) == {SIGNATURE}


def test_tags_and_an_index_of_them(oras_cli: Client, target: Target, note: str) -> None:
    oras_cli("push", PLAIN, f"{target.name}:1,2", note)
    oras_cli("tag", PLAIN, target.image("1"), "3")
    oras_cli("manifest", "index", "create", PLAIN, target.image("all"), "1", "3")
    assert oras_cli("repo", "tags", PLAIN, target.name).split() == ["1", "2", "3", "all"]
    assert target.repository in oras_cli("repo", "ls", PLAIN, target.server.host).split()


def test_what_is_deleted_is_gone(oras_cli: Client, target: Target, note: str) -> None:
    oras_cli("push", PLAIN, target.image(), note)
    digest = oras_cli("resolve", PLAIN, target.image()).strip()
    oras_cli("manifest", "delete", PLAIN, "--force", target.image())
    assert "not found" in oras_cli.refused("manifest", "fetch", PLAIN, f"{target.name}@{digest}")
    blob = f"{target.name}@{digest_of((oras_cli.home / note).read_bytes())}"
    oras_cli("blob", "fetch", PLAIN, "--output", "fetched", blob)
    oras_cli("blob", "delete", PLAIN, "--force", blob)
    assert "not found" in oras_cli.refused("blob", "fetch", PLAIN, "--output", "fetched", blob)


def _file(oras_cli: Client, name: str, size: int = 64) -> str:
    Path(oras_cli.home, name).write_bytes(random_bytes(size))
    return name


def _attached(oras_cli: Client, image: str, *options: str) -> set[str]:
    """Return the types of what is attached to an image."""
    found = json.loads(oras_cli("discover", PLAIN, "--format", "json", *options, image))
    return {referrer["artifactType"] for referrer in found["referrers"]}
