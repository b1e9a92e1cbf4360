"""`pierhead token`: rotating keys and listing them, what is printed, what never is, and exit codes."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registry.auth.identity import CredentialsRefused, Identity
from registry.auth.tokens import Tokens
from registry.commands.tokens import token
from registry.config_auth import TokenConfig
from tests.support.users import htpasswd

ALICE = Identity("alice", scheme="htpasswd")


def run(*arguments: str, config: str | None = None) -> Result:
    return CliRunner().invoke(token, arguments, env={"PIERHEAD_CONFIG": config})


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Write a configuration with tokens, which serves `data`."""
    users = htpasswd(tmp_path / "htpasswd", {"alice": "secret"})
    auth = {"htpasswd": {"path": str(users)}, "token": {"refreshExpiry": "1h"}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"storage": {"rootDirectory": str(tmp_path / "data")}, "http": {"auth": auth}}))
    return str(path)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data" / ".pierhead" / "auth"


@pytest.fixture
def tokens(directory: Path) -> Tokens:
    """Give the tokens of a registry that is running."""
    return Tokens(TokenConfig(refresh_expiry=3600.0), str(directory))


def test_before_the_first_start_there_are_none(config: str, directory: Path) -> None:
    done = run("keys", "--config", config)
    assert (done.exit_code, done.output) == (0, "")
    assert run("keys", "--json", "--config", config).output == "[]\n"
    assert not directory.exists()


def test_rotation(config: str, tokens: Tokens) -> None:
    """The old key goes on verifying until the last token that it signed is over."""
    old, _ = tokens.issue(ALICE)
    done = run("rotate", "--config", config)
    assert done.exit_code == 0
    assert tokens.verify(old) == ALICE
    first, second = json.loads(run("keys", "--json", "--config", config).output)
    assert done.output == f"{second['kid']} signs from now on\n"
    assert set(first) == {"kid", "created", "until"}
    assert second["until"] is None
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time) for time in (first["until"], second["created"]))


def test_revocation(config: str, tokens: Tokens) -> None:
    old, _ = tokens.issue(ALICE)
    tokens.verify(old)
    assert run("rotate", "--revoke", "--config", config).exit_code == 0
    with pytest.raises(CredentialsRefused):
        tokens.verify(old)
    assert len(json.loads(run("keys", "--json", "--config", config).output)) == 1


def test_the_list_for_people(config: str, tokens: Tokens) -> None:
    tokens.issue(ALICE)
    run("rotate", config=config)
    lines = [line.split("\t") for line in run("keys", config=config).output.splitlines()]
    assert [line[0] for line in lines] == [key.kid for key in tokens.signing_keys()]
    assert lines[1][2] == "signs"
    assert lines[0][2].endswith("Z")


def test_nothing_secret_is_printed(config: str, directory: Path) -> None:
    output = run("rotate", "--config", config).output
    output += run("keys", "--config", config).output + run("keys", "--json", "--config", config).output
    file = directory / "token-keys.json"
    (key,) = json.loads(file.read_bytes())["keys"]
    assert key["kid"] in output
    assert key["d"] not in output
    assert key["x"] not in output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("arguments", [["rotate"], ["rotate", "--revoke"], ["keys"], ["keys", "--json"]])
def test_a_registry_without_tokens(tmp_path: Path, arguments: list[str]) -> None:
    """2, and nothing is made."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"storage": {"rootDirectory": str(tmp_path / "data")}}))
    done = run(*arguments, "--config", str(path))
    assert done.exit_code == 2
    assert "http.auth.token" in done.output
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("arguments", [["rotate"], ["keys"]])
def test_a_damaged_file(config: str, directory: Path, arguments: list[str]) -> None:
    """1, its name and what helps; it is left as it is."""
    directory.mkdir(parents=True)
    file = directory / "token-keys.json"
    file.write_text("secret")
    done = run(*arguments, "--config", config)
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {file}: damaged")
    assert "--revoke" in done.output
    assert file.read_text() == "secret"
    assert run("rotate", "--revoke", "--config", config).exit_code == 0


def test_a_file_that_cannot_be_read(config: str, directory: Path) -> None:
    (directory / "token-keys.json").mkdir(parents=True)
    done = run("keys", "--config", config)
    assert done.exit_code == 1
    assert "directory" in done.output


def test_bad_usage(config: str) -> None:
    for arguments in (["nonsense"], ["rotate", "--nonsense"], ["rotate", "--config", config + ".missing"]):
        assert run(*arguments).exit_code == 2
