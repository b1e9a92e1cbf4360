"""`pierhead doctor`: on disks that are as they should be and on others, and through a real proxy."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry.cli import main
from tests.clients.support.programs import require
from tests.durability.mounts import fill, read_only, small_disk
from tests.support.nginx import Nginx
from tests.support.oci import Remote
from tests.support.server import Server, free_port

pytestmark = pytest.mark.direct("they have an nginx of their own")


def run(directory: Path, *arguments: str, code: int = 0, **config: Any) -> Result:
    path = directory / "doctor.json"
    settings = {"storage": {"rootDirectory": str(directory / "data"), **config.pop("storage", {})}, **config}
    path.write_text(json.dumps(settings))
    result = CliRunner().invoke(main, ["doctor", "--config", str(path), *arguments])
    assert result.exit_code == code, result.output
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


def checks(directory: Path, *arguments: str, code: int = 0, **config: Any) -> dict[str, tuple[str, str]]:
    """Return the status and the detail of each check, by name."""
    lines = run(directory, "--json", *arguments, code=code, **config).stdout.splitlines()
    return {check["name"]: (check["status"], check["detail"]) for check in map(json.loads, lines)}


def statuses(found: dict[str, tuple[str, str]], status: str) -> set[str]:
    return {name for name, (given, _) in found.items() if given == status}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the directory of a store that has served."""
    with Server(tmp_path / "data", workers=1) as server:
        Remote(server.url, "team/app").push_image("1")
    return tmp_path / "data"


def tree(store: Path) -> list[tuple[str, float]]:
    return sorted((str(path), path.lstat().st_mtime) for path in store.rglob("*"))


def test_a_store_that_is_as_it_should_be(store: Path) -> None:
    before = tree(store)
    found = checks(store.parent)
    assert statuses(found, "fail") == set()
    assert {"hard links", "fsync", "time stamps", "inodes", "clock", "free space", "permissions"} <= statuses(
        found, "ok"
    )
    assert tree(store) == before, "something was left behind"
    text = run(store.parent).stdout
    assert f"OK    {store}  hard links: equal content is stored once\n" in text


def test_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    found = checks(tmp_path)
    assert found["writable"] == ("ok", f"directories and files can be made in {tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]


def test_memory_that_is_nearly_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "data", 4) as disk:
        found = checks(tmp_path)
        assert found["file system"][0] == "warn"
        assert "tmpfs: it is memory" in found["file system"][1]
        assert found["free space"][0] == "warn"
        fill(disk)
        assert checks(tmp_path, code=1)["free space"][0] == "fail"


def test_no_inodes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "data"):
        subprocess.run(["mount", "-o", "remount,nr_inodes=10", str(tmp_path / "data")], check=True)
        for number in range(9):
            (tmp_path / f"data/{number}").touch()
        found = checks(tmp_path, code=1)
        assert found["inodes"][0] == "fail"
        assert found["writable"] == ("fail", f"{tmp_path}/data: No space left on device")


def test_a_read_only_disk(store: Path) -> None:
    with read_only(store):
        assert "Read-only file system" in checks(store.parent, code=1)["writable"][1]


def test_links_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "data/team/app").mkdir(parents=True)
    with small_disk(tmp_path / "data/team/app"):
        found = checks(tmp_path)
    assert found["mounts"][0] == "warn"
    assert f"{tmp_path}/data/team/app" in found["mounts"][1]


def test_files_that_belong_to_others_or_are_closed(store: Path) -> None:
    os.chown(store / "team/app/index.json", 1234, 1234)
    (store / "team/app/blobs").chmod(0o500)
    found = checks(store.parent, code=1)
    assert statuses(found, "fail") == {"owners", "permissions"}
    assert str(store / "team/app/index.json") in found["owners"][1]


def test_secrets_that_are_none(store: Path) -> None:
    auth = store / ".pierhead/auth"
    auth.mkdir(mode=0o700, exist_ok=True)
    (auth / "signing").write_text("secret")
    (auth / "signing").chmod(0o644)
    assert statuses(checks(store.parent, code=1), "fail") == {"secrets"}


def test_an_index_from_the_future(store: Path) -> None:
    os.utime(store / "team/app/index.json", (time.time() + 3600,) * 2)
    assert statuses(checks(store.parent), "warn") == {"future"}


def test_what_the_configuration_itself_gives_away(tmp_path: Path) -> None:
    found = checks(tmp_path, storage={"commit": False}, http={"address": "0.0.0.0"})
    assert found["storage.commit"][0] == "warn"
    assert "whoever reaches 0.0.0.0" in found["warning"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--url", "registry"), "an http or https URL"),
        (("--url", "http://127.0.0.1:1", "--upload", "NO"), "lower-case"),
        (("--upload", "team/app"), "--url"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(tmp_path, *arguments, code=2)
    assert message in result.stderr
    assert result.stdout == ""


# the way through a proxy


@contextmanager
def nginx(directory: Path, upstream: str, settings: str = "") -> Iterator[str]:
    """Run nginx before a registry, with no more settings than these; yield its URL."""
    require("nginx")
    port = free_port()
    location = f"location / {{ proxy_pass {upstream}; proxy_http_version 1.1; }}"
    with Nginx(directory, f"server {{ listen 127.0.0.1:{port}; {settings} {location} }}"):
        yield f"http://127.0.0.1:{port}"


def test_a_proxy_that_is_right(tmp_path: Path) -> None:
    with (
        Server(tmp_path / "data", workers=1) as server,
        nginx(tmp_path / "nginx", server.url, "client_max_body_size 0;") as url,
    ):
        found = checks(tmp_path, "--url", url, "--upload", "team/app", server={"trustedProxies": ["127.0.0.1"]})
        assert {"answers", "Location", "large bodies"} <= statuses(found, "ok")
        assert "server.trustedProxies" in statuses(checks(tmp_path, "--url", url), "warn")
        assert not list((tmp_path / "data").rglob(".uploads/*"))


def test_a_proxy_that_takes_no_large_bodies(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=1) as server, nginx(tmp_path / "nginx", server.url) as url:
        found = checks(tmp_path, "--url", url, "--upload", "team/app", code=1)
        assert "client_max_body_size" in found["large bodies"][1]


def test_a_proxy_that_does_not_say_where_clients_came_from(tmp_path: Path) -> None:
    """Without X-Forwarded-Host the realm of tokens is the registry's own address, which no client can reach."""
    users = tmp_path / "htpasswd"
    users.write_text("")
    auth = {"htpasswd": {"path": str(users)}, "token": {}}
    config = {"http": {"auth": auth}, "server": {"trustedProxies": ["127.0.0.1"]}}
    with Server(tmp_path / "data", config=config, workers=1) as server, nginx(tmp_path / "nginx", server.url) as url:
        found = checks(tmp_path, "--url", url, code=1)
        assert "clients are sent to" in found["proxy headers"][1]
    headers = "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;"
    with (
        Server(tmp_path / "data", config=config, workers=1) as server,
        nginx(tmp_path / "right", server.url, headers) as url,
    ):
        assert "proxy headers" in statuses(checks(tmp_path, "--url", url), "ok")


def test_an_upload_that_is_sent_elsewhere(tmp_path: Path) -> None:
    config = {"http": {"externalUrl": "https://other.example.com"}}
    with Server(tmp_path / "data", config=config, workers=1) as server:
        found = checks(tmp_path, "--url", server.url, "--upload", "team/app", code=1)
        assert "https://other.example.com" in found["Location"][1]


def test_what_is_no_registry(tmp_path: Path) -> None:
    directory = tmp_path / "nginx"
    with nginx(directory, "http://127.0.0.1:1") as url:
        assert "not from a registry" in checks(tmp_path, "--url", url, code=1)["answers"][1]
    assert "Connection refused" in checks(tmp_path, "--url", url, code=1)["answers"][1]
