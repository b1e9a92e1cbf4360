"""`pierhead ping`: a registry that is well, with and without a login or TLS, and what is none."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry.cli import main
from tests.conftest import MakeServer
from tests.support.certificates import Authority
from tests.support.server import free_port
from tests.support.users import htpasswd


def ping(path: Path) -> Result:
    return CliRunner().invoke(main, ["ping", str(path)])


def https(directory: Path, *, mutual: bool) -> dict[str, Any]:
    authority = Authority.in_new(directory / "ca")
    pair = authority.server()
    tls = {"cert": str(pair.cert), "key": str(pair.key)}
    return {"tls": tls | ({"cacert": str(authority.cert)} if mutual else {})}


@pytest.mark.parametrize("kind", ["open", "login", "tls", "mutual"])
def test_a_registry_that_is_well(make_server: MakeServer, tmp_path: Path, kind: str) -> None:
    http: dict[str, Any] = {}
    if kind == "login":
        http = {"auth": {"htpasswd": {"path": str(htpasswd(tmp_path / "users", {"alice": "a"}))}}}
    elif kind != "open":
        http = https(tmp_path, mutual=kind == "mutual")
    server = make_server(config={"http": http}, nginx=False)
    done = ping(server.config_file)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{server.host}: answers" in done.stdout
    server.stop()
    gone = ping(server.config_file)
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert "refused" in gone.stderr


class _Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)


def test_what_answers_with_an_error_is_not_well(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with HTTPServer(("127.0.0.1", 0), _Broken) as broken:
        path.write_text(json.dumps({"http": {"address": "0.0.0.0", "port": broken.server_port}}))
        threading.Thread(target=broken.handle_request).start()
        done = ping(path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "status 500" in done.stderr


def test_a_configuration_that_is_no_good(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"http": {"port": free_port(), "nonsense": 1}}))
    assert ping(path).exit_code == 2
