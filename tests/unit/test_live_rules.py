"""Rules that are read again: what a change of the file may not do, and what it is told about the rest of the file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.auth.identity import Action, Identity
from registry.auth.keys import Keys
from registry.auth.policy import decide
from registry.auth.rules import LiveRules
from registry.config import load
from tests.support.users import htpasswd

ANN = Identity("ann", scheme="htpasswd")
PATIENCE = 30

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Give a function that writes a configuration with these rules and other settings, and returns where it lies."""
    users, path = htpasswd(tmp_path / "htpasswd", {"ann": "a"}), tmp_path / "config.json"

    def make(rules: dict[str, Any] | None, **http: Any) -> str:
        http = {"auth": {"htpasswd": {"path": str(users)}}} | http
        if rules is not None:
            http["accessControl"] = rules
        path.write_text(json.dumps({"storage": {"rootDirectory": str(tmp_path / "data")}, "http": http}))
        return str(path)

    return make


def may_read(live: LiveRules, repository: str) -> bool:
    return bool(decide(live.current(), ANN, repository, Action.READ))


def wait_until(true: Callable[[], bool]) -> None:
    """Wait: a file that is being written is left alone for a moment."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_rules_that_are_gone_stay_in_force(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """Without rules whoever logs in may do everything: no slip of an editor may come to that."""
    live = LiveRules(load(write({"team/**": {"defaultPolicy": ["read"]}})))
    write(None)
    wait_until(lambda: live.current() is not None and "takes a restart" in caplog.text)
    assert may_read(live, "team/app")
    assert not may_read(live, "other/app")


def test_a_start_between_two_halves_of_a_change_has_the_rules_of_its_configuration(write: Write) -> None:
    """Whoever has read the configuration already goes by that, though the file is broken when it is first looked at."""
    path = write({"team/**": {"defaultPolicy": ["read"]}})
    config = load(path)
    Path(path).write_text("{")
    live = LiveRules(config)
    assert may_read(live, "team/app")
    assert not may_read(live, "other/app")


def test_what_takes_a_restart_is_said(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    live = LiveRules(load(write({"team/**": {"defaultPolicy": ["read"]}})))
    live.current()
    write({"**": {"defaultPolicy": ["read"]}})
    wait_until(lambda: may_read(live, "other/app"))
    assert "take effect at a restart" not in caplog.text
    write({"**": {"defaultPolicy": ["read"]}}, readOnly=True)
    wait_until(lambda: may_read(live, "other/app") and "take effect at a restart" in caplog.text)


def test_no_hash_of_a_key_is_shown(tmp_path: Path) -> None:
    keys = Keys(str(tmp_path / "auth"))
    keys.create("ci", None, None)
    [stored] = keys._file.get().values()
    assert "ci" in repr(stored)
    assert "digest" not in repr(stored)
