"""`pierhead authz explain`: what it says, to people and to programs, and its exit codes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registry.commands.authz import authz

PAGE = Path(__file__).resolve().parents[2] / "docs" / "authorization.md"
PATH = "http.accessControl.repositories"
RULES = {
    "repositories": {
        "**": {"anonymousPolicy": ["read"]},
        "team/**": {"policies": [{"groups": ["developers"], "actions": ["read", "create"]}]},
    },
    "adminPolicy": {"users": ["root"], "actions": ["delete"]},
}


def explain(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(authz, ["explain", *arguments], env={"PIERHEAD_CONFIG": None, **environment})


def write(directory: Path, **http: object) -> str:
    path = directory / "config.json"
    path.write_text(json.dumps({"http": http}))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> str:
    return write(tmp_path, accessControl=RULES)


def asked(*who: str, repository: str = "team/app", action: str = "create") -> list[str]:
    return [*who, "--repository", repository, "--action", action]


def test_the_page_shows_real_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command in docs/authorization.md prints what stands below it."""
    page = PAGE.read_text(encoding="utf-8")
    (rules,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "rules.yaml").write_text(rules)
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"^```console\n\$ pierhead authz explain (.*?)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(shown) == 3
    for arguments, output in shown:
        assert explain(*shlex.split(arguments)).output == output


def test_allowed(config: str) -> None:
    """0, and which rule allows it."""
    done = explain(config, *asked("--user", "eve", "--group", "others", "--group", "developers"))
    assert done.exit_code == 0
    assert done.output.startswith("allowed: eve, create, team/app\n")
    assert f'{PATH}["team/**"].policies[0]' in done.output
    assert '"**"' in done.output, "the shorter pattern that matches is not told"


def test_denied(config: str) -> None:
    """1, and which rule decides."""
    done = explain(config, *asked("--anonymous", action="read"))
    assert done.exit_code == 1
    assert done.output.startswith("denied: anonymous, read, team/app\n")
    assert f'rule: {PATH}["team/**"]\n' in done.output


def test_where_one_pattern_matches_there_is_no_talk_of_others(config: str) -> None:
    done = explain(config, *asked("--anonymous", repository="library/a", action="read"))
    assert len(done.output.splitlines()) == 3


def test_json(config: str) -> None:
    """For programs."""
    done = explain(config, *asked("--user", "eve", "--group", "developers"), "--json")
    assert json.loads(done.output) == {
        "allowed": True,
        "rule": f'{PATH}["team/**"].policies[0]',
        "reason": 'it allows the action, and names the group "developers"',
        "user": "eve",
        "groups": ["developers"],
        "repository": "team/app",
        "action": "create",
        "patterns": ["team/**", "**"],
    }
    denied = explain(config, *asked("--anonymous"), "--json")
    assert denied.exit_code == 1
    assert json.loads(denied.output)["user"] is None


def test_the_file_can_be_named_three_ways(config: str) -> None:
    question = asked("--user", "root", action="delete")
    for done in (
        explain(config, *question),
        explain("--config", config, *question),
        explain(*question, PIERHEAD_CONFIG=config),
    ):
        assert (done.exit_code, "http.accessControl.adminPolicy" in done.output) == (0, True)
    assert explain(config, "--config", config, *question).exit_code == 2


def test_the_shape_of_zot_1_4(tmp_path: Path) -> None:
    """The globs directly in accessControl."""
    config = write(tmp_path, accessControl={"team/**": {"anonymousPolicy": ["read"]}})
    done = explain(config, *asked("--anonymous", action="read"))
    assert 'rule: http.accessControl["team/**"].anonymousPolicy\n' in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        asked(),
        asked("--user", "eve", "--anonymous"),
        asked("--user", ""),
        asked("--anonymous", "--group", "developers"),
        asked("--user", "eve", action="pull"),
        asked("--user", "eve", repository="Team/App"),
        asked("--user", "eve", repository=""),
        asked("--user", "eve", repository="a" * 300),
        ["--user", "eve", "--action", "read"],
        ["--user", "eve", "--repository", "a"],
    ],
)
def test_a_bad_question(config: str, arguments: list[str]) -> None:
    """2, and no decision."""
    done = explain(config, *arguments)
    assert done.exit_code == 2
    assert "allowed" not in done.stdout
    assert "Traceback" not in done.output


def test_a_broken_file(tmp_path: Path) -> None:
    """2, and each problem with its path."""
    broken = write(tmp_path, port="many", accessControl={"repositories": {"Team/**": {}, "a": {"policies": 1}}})
    done = explain(broken, *asked("--user", "eve"))
    assert done.exit_code == 2
    assert "http.port: " in done.stderr
    assert f'{PATH}["Team/**"]: no repository\'s name has upper-case letters, such as "T"' in done.stderr
    assert explain(str(tmp_path / "none.json"), *asked("--user", "eve")).exit_code == 2


def test_without_rules(tmp_path: Path) -> None:
    """An open registry is open; with a way to log in it is for those who do."""
    open_to_all = write(tmp_path)
    assert explain(open_to_all, *asked("--anonymous")).exit_code == 0
    (tmp_path / "htpasswd").touch()
    closed = write(tmp_path, auth={"htpasswd": {"path": str(tmp_path / "htpasswd")}})
    assert explain(closed, *asked("--anonymous")).exit_code == 1
    assert explain(closed, *asked("--user", "eve")).exit_code == 0


def test_a_read_only_registry(tmp_path: Path) -> None:
    """Nobody writes, whatever the rules say."""
    config = write(tmp_path, accessControl=RULES, readOnly=True)
    done = explain(config, *asked("--user", "root", action="delete"))
    assert (done.exit_code, "rule: http.readOnly\n" in done.output) == (1, True)
    assert explain(config, *asked("--anonymous", repository="a", action="read")).exit_code == 0
    denied = explain(config, *asked("--user", "eve"))
    assert "http.readOnly" not in denied.output, "the rules deny it first"


def test_control_characters_are_not_printed_raw(config: str) -> None:
    """What is pasted into a terminal does not drive it."""
    done = explain(config, *asked("--user", "eve\x1b[2J\nallowed"))
    assert "\x1b" not in done.output
    assert len(done.output.splitlines()) == 4
