"""Credentials that are limited, groups from two places, guesses in a form: what the gate makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from registry import create_app
from registry.auth.identity import ALL, ANONYMOUS, Action, Grant, Identity
from registry.auth.keys import Keys
from registry.auth.policy import AccessControl, Policy, RepositoryRules, decide, may_read_all, named_groups
from registry.config import Config, HTTPConfig, StorageConfig, default_config
from registry.config_auth import AuthConfig, HtpasswdConfig, TokenConfig
from storage.layout import Layout
from tests.support.users import basic, bearer, htpasswd

READ = frozenset({Action.READ})
ENTRANCE, LISTING, METRICS = "/v2/", "/v2/_catalog", "/v2/metrics"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the configuration of a registry with a user, rules, API keys, tokens of its own and an audit log."""
    users = htpasswd(tmp_path / "htpasswd", {"alice": "a"})
    auth = AuthConfig(htpasswd=HtpasswdConfig(str(users)), apikey=True, token=TokenConfig())
    rules = AccessControl({"**": RepositoryRules(default_policy=ALL)})
    base = default_config()
    return replace(
        base,
        storage=StorageConfig(str(tmp_path / "data")),
        http=HTTPConfig(auth=auth, access_control=rules),
        log=replace(base.log, audit=str(tmp_path / "audit.log")),
    )


@pytest.fixture
def client(config: Config) -> FlaskClient:
    return create_app(config).test_client()


def test_a_key_that_is_not_for_this_is_refused_and_not_asked_to_log_in(client: FlaskClient, config: Config) -> None:
    """A client that is challenged asks its user for a password, who then gives one that may do everything."""
    text, _ = Keys(Layout(config.storage.root_directory).auth).create("ci", (Grant("team/*", READ),), None)
    for headers in (basic("ci", text), bearer(client.get("/v2/token", headers=basic("ci", text)).get_json()["token"])):
        assert client.get("/v2/team/app/tags/list", headers=headers).status_code == 404
        for answer in (
            client.get("/v2/other/app/tags/list", headers=headers),
            client.post("/v2/team/app/blobs/uploads/", headers=headers),
        ):
            assert answer.status_code == 403
            assert "WWW-Authenticate" not in answer.headers
        assert client.get(METRICS, headers=headers).status_code == 403


def test_a_foreign_token_that_names_nobody_has_what_it_grants(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    client = create_app(replace(config, http=replace(config.http, access_control=None))).test_client()
    nobody = Identity(scheme="bearer", grants=(Grant("team/app", READ),))
    monkeypatch.setattr(client.application.extensions["pierhead"].gate, "identify", lambda: nobody)
    expected = {ENTRANCE: 200, LISTING: 200, METRICS: 403, "/v2/team/app/tags/list": 404, "/v2/other/tags/list": 401}
    assert {path: client.get(path).status_code for path in expected} == expected


def test_groups_of_the_rules_and_of_the_store_count_together() -> None:
    rules = AccessControl(
        {
            "a": RepositoryRules((Policy(groups=frozenset({"ours"}), actions=READ),)),
            "b": RepositoryRules((Policy(groups=frozenset({"theirs"}), actions=READ),)),
        },
        groups={"ours": frozenset({"ann"})},
        admin_policy=Policy(groups=frozenset({"admins"}), actions=READ),
    )
    ann = Identity("ann", frozenset({"theirs"}), "ldap")
    assert [bool(decide(rules, ann, name, Action.READ)) for name in ("a", "b", "c")] == [True, True, False]
    assert decide(rules, replace(ann, groups=frozenset({"admins"})), "c", Action.READ)
    assert named_groups(rules) == {"ours", "theirs", "admins"}


def test_what_lies_above_a_prefix_does_not_hide_what_is_below_it() -> None:
    rules = AccessControl({"**": RepositoryRules(anonymous_policy=READ), "team": RepositoryRules()})
    assert may_read_all(rules, ANONYMOUS, "team/below")
    assert not may_read_all(rules, ANONYMOUS, "team")
    assert not may_read_all(rules, ANONYMOUS, "")


def test_who_guesses_in_a_form_is_in_the_audit_log(client: FlaskClient, config: Config) -> None:
    form = {"grant_type": "password", "username": "alice", "password": "wrong"}
    assert client.post("/v2/token", data=form).status_code == 401
    [line] = [json.loads(text) for text in Path(config.log.audit or "").read_text().splitlines()]
    assert (line["user"], line["claimed"], line["result"], line["status"]) == ("", "alice", "refused", 401)
    assert "wrong" not in line["claimed"] + line["path"]
