"""What keeps a server with users from starting, told in a line, by `serve` and by `verify` alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.users import htpasswd

PIERHEAD = str(Path(sys.executable).with_name("pierhead"))


@pytest.mark.parametrize("command", ["serve", "verify"])
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("alice:seCret7", 'line 1: user "alice": plain text'),
        ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", 'line 1: user "alice"'),
        ("alice", "line 1"),
    ],
)
def test_hashes_that_are_no_good(tmp_path: Path, command: str, line: str, told: str) -> None:
    users = tmp_path / "htpasswd"
    users.write_text(line + "\n")
    done = run(tmp_path, command, {"auth": {"htpasswd": {"path": str(users)}}})
    assert done.returncode == 1
    assert f"{users}: {told}" in done.stderr
    assert "Traceback" not in done.stderr
    assert (line.partition(":")[2] or "seCret7") not in done.stderr


@pytest.mark.parametrize("command", ["serve", "verify"])
def test_a_trust_that_holds_no_key(tmp_path: Path, command: str) -> None:
    cert = tmp_path / "auth.crt"
    cert.write_text("no key\n")
    bearer = {"realm": "https://auth.example.com/token", "service": "registry", "cert": str(cert)}
    done = run(tmp_path, command, {"auth": {"bearer": bearer}})
    assert done.returncode == 1
    assert str(cert) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "verify"])
def test_a_certificate_that_is_none(tmp_path: Path, command: str) -> None:
    for name in ("crt", "key"):
        (tmp_path / name).write_text("nothing\n")
    done = run(tmp_path, command, {"tls": {"cert": str(tmp_path / "crt"), "key": str(tmp_path / "key")}})
    assert done.returncode == 1
    assert "http.tls.cert" in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_warns_of_what_few_want(tmp_path: Path) -> None:
    users = htpasswd(tmp_path / "htpasswd", {"alice": "a"})
    rules = {"repositories": {"**": {"anonymousPolicy": ["read"], "defaultPolicy": ["create"]}}}
    http = {"address": "0.0.0.0", "auth": {"htpasswd": {"path": str(users)}}, "accessControl": rules}
    done = run(tmp_path, "verify", http)
    assert done.returncode == 0
    assert "warning: http.auth: passwords cross the network in clear" in done.stderr
    assert "set http.auth.token" in done.stderr


def run(directory: Path, command: str, http: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    config = directory / "config.json"
    config.write_text(json.dumps({"storage": {"rootDirectory": str(directory / "data")}, "http": http}))
    return subprocess.run([PIERHEAD, command, str(config)], capture_output=True, text=True, timeout=60, check=False)
