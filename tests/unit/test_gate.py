"""The gate: what declares nothing is denied, what is decided under the lock is decided for the right request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g

from blueprints.requests import precondition
from registry import create_app
from registry.auth.gate import declared
from registry.auth.identity import Action, Identity
from registry.auth.policy import AccessControl, Policy, RepositoryRules
from registry.config import Config, HTTPConfig, StorageConfig, default_config
from registry.config_auth import AuthConfig, HtpasswdConfig, TokenConfig
from registry.context import pierhead
from registry.errors import RequestRefused
from storage.digest import Digest
from tests.support.users import htpasswd

OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
RULES = AccessControl(
    {
        "**": RepositoryRules(
            policies=(
                Policy(frozenset({"alice"}), actions=frozenset({Action.CREATE})),
                Policy(frozenset({"bob"}), actions=frozenset({Action.CREATE, Action.UPDATE})),
            )
        )
    }
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    users = htpasswd(tmp_path / "htpasswd", {"alice": "a", "bob": "b"})
    auth = AuthConfig(htpasswd=HtpasswdConfig(str(users)), token=TokenConfig())
    http = HTTPConfig(auth=auth, access_control=RULES)
    return replace(default_config(), storage=StorageConfig(str(tmp_path / "data")), http=http)


@pytest.fixture
def app(config: Config) -> Flask:
    return create_app(config)


def test_every_route_declares_what_it_needs(app: Flask) -> None:
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules()}
    assert not {endpoint for endpoint in endpoints if declared(app.view_functions[endpoint]) is None}


def test_a_route_about_a_repository_declares_actions(app: Flask) -> None:
    """A route with a name in it that belonged to a place would not be asked which repository it is about."""
    for rule in app.url_map.iter_rules():
        need = declared(app.view_functions[rule.endpoint])
        assert need is not None
        assert bool(need.actions) == ("name" in rule.arguments), rule


@pytest.mark.parametrize("open_to_all", [True, False])
def test_a_route_that_declares_nothing_is_denied(config: Config, open_to_all: bool) -> None:
    app = create_app(replace(config, http=HTTPConfig()) if open_to_all else config)
    app.add_url_rule("/v2/<name:name>/forgotten", "forgotten", lambda name: "shown")
    answer = app.test_client().get("/v2/a/forgotten", auth=("bob", "b"))
    assert (answer.status_code, answer.json and answer.json["errors"][0]["code"]) == (403, "DENIED")


Permit = Callable[[str | None, Digest | None, Digest], None]


@pytest.fixture
def as_user(app: Flask) -> Iterator[Callable[[str], Any]]:
    """Give a function that gives a context in which a user makes a request."""

    def context(user: str) -> Any:
        made = app.test_request_context("/v2/a/manifests/1", method="PUT")
        made.push()
        g.identity = Identity(user, scheme="htpasswd")
        return made

    yield context


def test_a_push_is_decided_for_its_own_request_in_whatever_thread(as_user: Callable[[str], Any]) -> None:
    """Pushes are folded: the thread of one request carries out what others wait for."""
    outcomes: dict[str, str] = {}

    def carry_out_as_another(permit: Permit, user: str) -> None:
        context = as_user(user)
        try:
            permit("1", OLD, NEW)
            outcomes[user] = "permitted"
        except Exception as error:
            outcomes[user] = type(error).__name__
        finally:
            context.pop()

    for pusher, carrier in (("alice", "bob"), ("bob", "alice")):
        context = as_user(pusher)
        with pierhead().gate.pushing("a") as permit:
            assert permit is not None
            thread = threading.Thread(target=carry_out_as_another, args=(permit, carrier))
            thread.start()
            thread.join()
        context.pop()
    assert outcomes == {"bob": "_NotPermitted", "alice": "permitted"}


def test_a_refused_push_is_answered_in_its_own_request(as_user: Callable[[str], Any]) -> None:
    context = as_user("alice")
    with pytest.raises(RequestRefused) as caught, pierhead().gate.pushing("a") as permit:
        assert permit is not None
        permit("1", None, NEW)
        permit("2", NEW, NEW)
        permit("3", OLD, NEW)
    assert (caught.value.status, caught.value.code) == (403, "DENIED")
    assert g.action == "update"
    context.pop()


def test_a_condition_is_checked_without_its_request(app: Flask) -> None:
    with app.test_request_context("/", headers={"If-Match": f'"{OLD}"'}):
        matches = precondition()
    with app.test_request_context("/", headers={"If-None-Match": "*"}):
        is_new = precondition()
    assert matches is not None
    assert is_new is not None
    assert [matches(OLD), matches(NEW), matches(None)] == [True, False, False]
    assert [is_new(OLD), is_new(None)] == [False, True]


@pytest.mark.parametrize(("credential", "refreshable"), [("of theirs", True), ("", False)])
def test_no_refresh_token_for_whom_nobody_could_look_up_again(
    app: Flask, monkeypatch: pytest.MonkeyPatch, credential: str, refreshable: bool
) -> None:
    gate = app.extensions["pierhead"].gate
    monkeypatch.setattr(gate, "password_identity", lambda *_: Identity("ann", scheme="ldap", credential=credential))
    form = {"grant_type": "password", "username": "ann", "password": "x", "access_type": "offline"}
    answer = app.test_client().post("/v2/token", data=form)
    assert answer.json is not None
    assert ("refresh_token" in answer.json) == refreshable


def test_a_token_has_no_groups_but_those_that_the_rules_name(config: Config) -> None:
    """A directory may know hundreds: too many for a header."""
    rules = AccessControl({"**": RepositoryRules(policies=(Policy(groups=frozenset({"crew"})),))})
    app = create_app(replace(config, http=replace(config.http, access_control=rules)))
    gate = app.extensions["pierhead"].gate
    ann = Identity("ann", frozenset({"crew", "everybody"}), "ldap")
    with app.test_request_context():
        token, _ = gate.issue(ann)
        assert gate.tokens.verify(token).groups == {"crew"}
