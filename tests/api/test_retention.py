"""Retention and immutable tags, as clients of a server with several workers see them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.api.test_collecting import wait_for
from tests.support.oci import Remote, expect_error, expect_status
from tests.support.server import Server

_NAME = "team/app"
_POLICY = {"repositories": ["team/**"], "keepTags": [{"patterns": ["^v"]}, {"pulledWithin": "3s"}]}


def test_tags_go_on_schedule_and_pulls_in_any_worker_keep_them(tmp_path: Path) -> None:
    storage = {"gcDelay": "1s", "gcInterval": "1s", "retention": {"policies": [_POLICY]}}
    with Server(tmp_path / "data", config={"storage": storage}, workers=2) as server:
        client = Remote(server.url, _NAME)
        for tag in ("v1", "idle", "used"):
            client.push_image(tag)
        other = Remote(server.url, "other/app")
        other.push_image("idle")
        end = time.monotonic() + 60
        while "idle" in client.tags():
            assert time.monotonic() < end, "nothing was ever removed"
            # A worker writes down one pull a minute: what another program sees is the file's time.
            expect_status(Remote(server.url, _NAME).head("manifests/used"), 200)
            for path in (tmp_path / "data/.pierhead/pulls").glob("team%app/*"):
                os.utime(path)
            time.sleep(0.2)
        assert client.tags() == ["used", "v1"]
        wait_for(lambda: client.tags() == ["v1"])
        assert other.tags() == ["idle"]


def test_a_warning_on_what_goes_soon(tmp_path: Path) -> None:
    policy = {
        "repositories": ["**"],
        "keepTags": [{"patterns": ["^stays"]}, {"patterns": ["^goes"], "pushedWithin": "48h"}],
    }
    with Server(tmp_path / "data", config={"storage": {"retention": {"policies": [policy]}}}) as server:
        client = Remote(server.url, _NAME)
        client.push_image("stays")
        image = client.push_image("goes")
        for method in (client.get, client.head):
            answer = method("manifests/goes")
            expect_status(answer, 200)
            warning = answer.headers["Warning"]
            assert warning.startswith('299 - "tag goes is removed after 20')
            assert warning.endswith(': keepTags[1].pushedWithin"')
            assert "Warning" not in method("manifests/stays").headers
            assert "Warning" not in method(f"manifests/{image.digest}").headers


@pytest.mark.parametrize("store", ["default", "substore"])
def test_immutable_tags(tmp_path: Path, store: str) -> None:
    rules = {"immutableTags": [{"repositories": ["team/**"], "patterns": [r"^v\d"]}]}
    sub = {"/team": {"rootDirectory": str(tmp_path / "sub"), **rules}}
    storage = rules if store == "default" else {"subPaths": sub}
    with Server(tmp_path / "data", config={"storage": storage}) as server:
        client = Remote(server.url, _NAME)
        first = client.push_image("v1")
        client.push(first, "v1")
        second = client.push_image("latest")
        for refused in (
            client.put_manifest(second, "v1"),
            client.put_manifest(second, second.digest, params={"tag": "v1"}),
            client.delete("manifests/v1"),
            client.delete(f"manifests/{first.digest}"),
        ):
            [error] = expect_error(refused, 403, "DENIED")
            assert "v1" in error["message"]
            assert error["detail"]["digest"] == first.digest
        assert client.get("manifests/v1").content == first.body
        expect_status(client.delete("manifests/latest"), 202)
        expect_status(client.put_manifest(second, "v2"), 201)
