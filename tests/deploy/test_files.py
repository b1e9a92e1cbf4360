"""What else lies in `deploy`: a configuration to begin with, and how its logs are rotated."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry.cli import main
from tests.clients.support.programs import require
from tests.support.certificates import Authority, Pair
from tests.support.oci import Remote
from tests.support.server import Server
from tests.support.users import htpasswd

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Put what the configuration names into a directory that is not /etc."""
    pair = Authority.in_new(tmp_path / "authority").server()
    pair.copy_to(Pair(tmp_path / "server.crt", tmp_path / "server.key"))
    (tmp_path / "server.key").chmod(0o640)
    htpasswd(tmp_path / "htpasswd", {"alice": "alice's password"})
    text = (DEPLOY / "config.yaml").read_text()
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("/etc/pierhead", str(tmp_path)).replace("/var/lib/pierhead", str(tmp_path / "data")))
    return path


def test_the_configuration_is_valid(config: Path) -> None:
    done = CliRunner().invoke(main, ["verify", str(config)])
    assert (done.exit_code, done.output) == (0, f"{config}: valid\n")


def test_logs_that_were_rotated_lack_no_line(tmp_path: Path) -> None:
    require("logrotate")
    logs = tmp_path / "logs"
    logs.mkdir()
    written = {"level": "debug", "output": str(logs / "pierhead.log"), "audit": str(logs / "audit.jsonl")}
    text = (DEPLOY / "logrotate").read_text().replace("/var/log/pierhead", str(logs))
    ours = [line for line in text.splitlines() if not line.strip().startswith("su ")]
    (tmp_path / "rotate").write_text("\n".join(ours))
    with Server(tmp_path / "data", config={"log": written}, workers=2) as server:
        for number in range(3):
            Remote(server.url, "team/app").push_image(f"t{number}")
            command = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(tmp_path / "rotate")]
            subprocess.run(command, check=True, capture_output=True)
        Remote(server.url, "team/app").push_image("t3")
    lines = [line for path in logs.glob("audit.jsonl*") for line in _text(path).splitlines()]
    references = [json.loads(line).get("reference") for line in lines]
    assert [references.count(f"t{number}") for number in range(4)] == [1] * 4
    shown = "".join(_text(path) for path in logs.glob("pierhead.log*"))
    assert all(shown.count(f"PUT /v2/team/app/manifests/t{number} ") == 1 for number in range(4))
    assert len(list(logs.glob("pierhead.log*"))) == 4


def _text(path: Path) -> str:
    reader = ["zcat"] if path.suffix == ".gz" else ["cat"]
    return subprocess.run([*reader, str(path)], check=True, capture_output=True, text=True).stdout
