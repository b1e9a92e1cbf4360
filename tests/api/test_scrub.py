"""Scrubbing a registry that serves, and what its clients see of damage and of its healing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry.cli import main
from tests.api.test_collecting import wait_for
from tests.support.oci import Document, Remote, expect_error, expect_status
from tests.support.server import Server

_NAMES = ("team/app", "team/app/nested", "other")


def damage(data: Path, digest: str) -> None:
    """Flip a bit of a blob, which all repositories share."""
    for path in data.glob(f"*/**/blobs/{digest.replace(':', '/')}"):
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        return


def push_everywhere(server: Server) -> Document:
    first = Remote(server.url, _NAMES[0])
    image = first.push_image("1")
    for name in _NAMES[1:]:
        remote = Remote(server.url, name)
        for part in (image.content["config"], *image.content["layers"]):
            expect_status(remote.post("blobs/uploads/", params={"mount": part["digest"], "from": _NAMES[0]}), 201)
        remote.push(image, "1")
    return image


@pytest.mark.parametrize("scheduled", [False, True])
def test_damage_is_found_kept_away_and_healed(tmp_path: Path, scheduled: bool) -> None:
    config = {"extensions": {"scrub": {"interval": "1s", "speed": "0"}}} if scheduled else {}
    with Server(tmp_path / "data", config=config, workers=2) as server:
        image = push_everywhere(server)
        layer = image.content["layers"][0]["digest"]
        client = Remote(server.url, _NAMES[2])
        content = client.get(f"blobs/{layer}").content
        damage(tmp_path / "data", layer)
        if scheduled:
            wait_for(lambda: client.head(f"blobs/{layer}").status_code == 404)
        else:
            settings = tmp_path / "config.json"
            settings.write_text(json.dumps({"storage": {"rootDirectory": str(tmp_path / "data")}}))
            result = CliRunner().invoke(main, ["scrub", "--config", str(settings), "--json"])
            assert result.exit_code == 1, result.output
            [finding, summary] = map(json.loads, result.stdout.splitlines())
            assert finding["images"] == {name: ["1"] for name in _NAMES}
            assert summary["summary"]["problems"] == 1
        for name in _NAMES:
            expect_error(Remote(server.url, name).get(f"blobs/{layer}"), 404, "BLOB_UNKNOWN")
        expect_status(client.head("manifests/1"), 200)
        client.push_blob(content)
        for name in _NAMES:
            assert Remote(server.url, name).get(f"blobs/{layer}").content == content
    assert (f"scrub: {layer} is damaged" in server.log_tail()) == scheduled


def test_a_damaged_manifest_is_pushed_again(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=1) as server:
        image = push_everywhere(server)
        damage(tmp_path / "data", image.digest)
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps({"storage": {"rootDirectory": str(tmp_path / "data")}}))
    assert CliRunner().invoke(main, ["scrub", "--config", str(settings)]).exit_code == 1
    with Server(tmp_path / "data", workers=1) as server:
        client = Remote(server.url, _NAMES[0])
        for reference in ("1", image.digest):
            expect_error(client.get(f"manifests/{reference}"), 404, "MANIFEST_UNKNOWN")
        client.push(image, "1")
        for name in _NAMES:
            assert Remote(server.url, name).get("manifests/1").content == image.body
