"""`pierhead key`: what it prints where, what it refuses, and whose the files are that it makes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registry.auth.keys import KeyInfo, Keys
from registry.auth.policy import grant_text
from registry.commands.keys import key, parse_lifetime
from storage.layout import Layout

TREE = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from registry.commands.keys import key; key()"]
SERVICE = 12345  #: the id of a user that nobody is
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for others")


def write_config(directory: Path, **auth: object) -> str:
    config = directory / "config.json"
    content = {"storage": {"rootDirectory": str(directory / "data")}, "http": {"auth": auth}}
    config.write_text(json.dumps({"distSpecVersion": "1.1.1", **content}))
    return str(config)


@pytest.fixture
def config(tmp_path: Path) -> str:
    return write_config(tmp_path, apikey=True)


def run(config: str, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(key, [command, "--config", config, *arguments])


def keys_of(config: str) -> Keys:
    return Keys(Layout(str(Path(config).parent / "data")).auth)


def infos(config: str) -> tuple[KeyInfo, ...]:
    return keys_of(config).list()


def scopes_of(info: KeyInfo) -> list[str] | None:
    return None if info.scopes is None else [grant_text(grant) for grant in info.scopes]


def test_only_the_key_goes_to_standard_output(config: str) -> None:
    done = run(config, "create", "--user", "ci")
    assert done.exit_code == 0
    text = done.stdout.removesuffix("\n")
    assert keys_of(config).verify("ci", text)
    (info,) = infos(config)
    assert info.id in done.stderr
    assert text not in done.stderr
    assert text.rpartition("_")[2] not in done.stderr


def test_all_options(config: str) -> None:
    scopes = ["--scope", "pull:team/*", "--scope", "push:team/app"]
    done = run(config, "create", "--user", "ci", *scopes, "--expires", "90d", "--comment", "nightly")
    assert done.exit_code == 0
    (info,) = infos(config)
    assert scopes_of(info) == ["pull:team/*", "push:team/app"]
    assert info.comment == "nightly"
    assert info.expires is not None
    assert abs(info.expires - info.created - 90 * 86400) < 60
    assert "pull:team/*" in done.stderr


def test_without_options_nothing_limits(config: str) -> None:
    assert run(config, "create", "--user", "ci").exit_code == 0
    assert run(config, "create", "--user", "ci", "--expires", "never").exit_code == 0
    assert [(info.scopes, info.expires) for info in infos(config)] == [(None, None)] * 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--user", ""],
        ["--user", "a:b"],
        ["--user", "a\nb"],
        ["--user", "ci", "--scope", "nonsense"],
        ["--user", "ci", "--scope", ""],
        ["--user", "ci", "--scope", "fly:team/*"],
        ["--user", "ci", "--expires", "soon"],
        ["--user", "ci", "--expires", ""],
        ["--user", "ci", "--expires", "0"],
        ["--user", "ci", "--expires", "-1h"],
        ["--user", "ci", "--expires", "0d"],
        ["--user", "ci", "--expires", "1ms"],
        ["--user", "ci", "--expires", "999999w"],
        ["--user", "ci", "--expires", "9999999999d"],
        ["--user", "ci", "--comment", "\x1b[2J"],
        ["--user", "ci", "--comment", "x" * 201],
        ["--user", "ci", "extra"],
    ],
    ids=" ".join,
)
def test_bad_input_makes_no_key(config: str, arguments: list[str]) -> None:
    done = run(config, "create", *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert not (Path(config).parent / "data").exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90d", 90 * 86400),
        ("2w", 14 * 86400),
        ("1w1d", 8 * 86400),
        ("12h", 43200),
        ("1d12h", 129600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1s", 1),
        ("36500d", 36500 * 86400),
    ],
)
def test_lifetimes(text: str, seconds: float) -> None:
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize("text", ["1d1w", "d", "1.5d", "1h1d", " 1d", "1d ", "1 d", "never", "1d-1h", "٣d", "1d\n"])
def test_no_lifetimes(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_lifetime(text)


@pytest.mark.parametrize("auth", [{"apikey": False}, {}])
def test_refused_where_keys_are_not_accepted(tmp_path: Path, auth: dict[str, object]) -> None:
    config = write_config(tmp_path, **auth)
    done = run(config, "create", "--user", "ci")
    assert done.exit_code == 2
    assert "http.auth.apikey" in done.stderr
    assert not (tmp_path / "data").exists()


def test_the_environment_names_the_configuration(config: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PIERHEAD_CONFIG": config, "PYTHONPATH": str(TREE)}
    command = [*COMMAND, "create", "--user", "ci"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert keys_of(config).verify("ci", done.stdout.strip())


def test_a_bad_configuration(tmp_path: Path) -> None:
    for config in (str(tmp_path / "missing.json"), write_config(tmp_path, apikey="yes")):
        for command, *arguments in (["create", "--user", "ci"], ["list"], ["revoke", "x"]):
            assert run(config, command, *arguments).exit_code == 2


def test_list(config: str) -> None:
    run(config, "create", "--user", "ci", "--scope", "pull:team/*", "--expires", "1d", "--comment", "nightly")
    run(config, "create", "--user", "Пётр")
    _, over = keys_of(config).create("old", None, time.time() - 10)
    done = run(config, "list")
    assert (done.exit_code, done.stderr) == (0, "")
    first, second, third = done.stdout.splitlines()
    assert {"ci", "pull:team/*", "nightly"} <= set(first.split("\t"))
    assert {"Пётр", "ends never"} <= set(second.split("\t"))
    assert third.endswith("(expired)")
    listed = json.loads(run(config, "list", "--json").stdout)
    assert listed[0].keys() == {"id", "user", "scopes", "created", "expires", "expired", "comment"}
    assert [item["expired"] for item in listed] == [False, False, True]
    assert (listed[0]["scopes"], listed[1]["scopes"], listed[1]["expires"]) == (["pull:team/*"], None, None)
    assert listed[2]["id"] == over.id


def test_list_of_none(config: str) -> None:
    assert run(config, "list").output == ""
    assert json.loads(run(config, "list", "--json").output) == []


def test_revoke(config: str) -> None:
    made = [run(config, "create", "--user", "ci").stdout.strip() for _ in range(4)]
    ids = [info.id for info in infos(config)]
    done = run(config, "revoke", ids[0], ids[1])
    assert (done.exit_code, done.output) == (0, "")
    assert [info.id for info in infos(config)] == ids[2:]
    assert run(config, "revoke", made[2]).exit_code == 0, "a key names itself"
    assert [bool(keys_of(config).verify("ci", text)) for text in made] == [False, False, False, True]


def test_revoke_all_or_none(config: str) -> None:
    text = run(config, "create", "--user", "ci").stdout.strip()
    (info,) = infos(config)
    wrong = text[:-1]
    for arguments in ([info.id, "unknown"], [], [wrong], [f"pier_{'a' * 8}_{'b' * 40}"]):
        done = run(config, "revoke", *arguments)
        assert done.exit_code == 2
        assert text.rpartition("_")[2][:-1] not in done.output
    assert infos(config) == (info,)


def test_list_and_revoke_where_keys_are_no_longer_accepted(config: str, tmp_path: Path) -> None:
    run(config, "create", "--user", "ci")
    (info,) = infos(config)
    write_config(tmp_path, apikey=False)
    assert info.id in run(config, "list").stdout
    assert run(config, "revoke", info.id).exit_code == 0


@pytest.mark.parametrize(("command", "argument"), [("create", "--user=ci"), ("list", "--json"), ("revoke", "x")])
def test_a_broken_file_is_one_line(config: str, command: str, argument: str) -> None:
    run(config, "create", "--user", "ci")
    file = Path(config).parent / "data" / ".pierhead" / "auth" / "keys.json"
    file.write_text("broken")
    done = run(config, command, argument)
    assert done.exit_code == 1
    assert done.stderr == f"Error: {file}: expected JSON\n"
    assert file.read_text() == "broken"


def test_what_the_system_refuses_is_one_line(config: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no directory")
    done = run(config, "create", "--user", "ci")
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_two_at_once_lose_none(config: str) -> None:
    command = [*COMMAND, "create", "--user", "ci", "--config", config]
    processes = [subprocess.Popen(command, cwd=TREE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    made = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert len(set(made)) == 6
    assert all(keys_of(config).verify("ci", text) for text in made)


@pytest.fixture
def service() -> Iterator[str]:
    """Return a configuration whose storage belongs to the user of a service."""
    with tempfile.TemporaryDirectory(prefix="pierhead-") as directory:
        Path(directory).chmod(0o755)
        root = Path(directory) / "data"
        root.mkdir()
        os.chown(root, SERVICE, SERVICE)
        yield write_config(Path(directory), apikey=True)


@ROOT_ONLY
def test_root_makes_keys_for_the_service(service: str) -> None:
    """All that root's command makes belongs to the service, which can read it, list it and revoke it."""
    text = run(service, "create", "--user", "ci").stdout.strip()
    made = list((Path(service).parent / "data").rglob("*"))
    assert {path.name for path in made} == {".pierhead", "auth", "keys.json", "keys.json.lock"}
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(SERVICE, SERVICE)}
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}["keys.json"] == 0o600
    keys = next(path for path in made if path.name == "keys.json")
    seen = subprocess.run(["cat", keys], user=SERVICE, group=SERVICE, capture_output=True, check=True).stdout
    assert b'"ci"' in seen
    assert run(service, "revoke", text).exit_code == 0
    assert keys.stat().st_uid == SERVICE
    assert os.geteuid() == 0


@ROOT_ONLY
def test_root_is_not_led_astray(service: str, tmp_path: Path) -> None:
    """A link that the service's user laid does not make root replace what only root may."""
    precious = tmp_path / "precious"
    precious.write_text('{"version": 1, "keys": []}')
    auth = Path(service).parent / "data" / ".pierhead" / "auth"
    auth.mkdir(parents=True)
    (auth / "keys.json").symlink_to(precious)
    for path in (auth.parent, auth):
        os.chown(path, SERVICE, SERVICE)
    done = run(service, "create", "--user", "ci")
    assert (done.exit_code, done.stdout) == (1, "")
    assert precious.read_text() == '{"version": 1, "keys": []}'
