"""Routes that belong to no repository, and credentials that end: what nobody in particular gets, by every way in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from registry import create_app
from registry.auth.identity import ALL, Action
from registry.auth.keys import Keys
from registry.auth.policy import AccessControl, Policy, RepositoryRules
from registry.config import Config, HTTPConfig, StorageConfig, default_config
from registry.config_auth import AuthConfig, HtpasswdConfig, TokenConfig
from storage.layout import Layout
from tests.support.users import basic, bearer, htpasswd

READ = frozenset({Action.READ})
ADMIN = Policy(frozenset({"root"}), actions=ALL)
#: What the rules may allow anonymous: nothing, something but less than others, as much as everybody.
RULES = {
    "nothing": AccessControl({"**": RepositoryRules(default_policy=ALL)}, admin_policy=ADMIN),
    "something": AccessControl(
        {"**": RepositoryRules(default_policy=ALL), "public/**": RepositoryRules(anonymous_policy=READ)},
        admin_policy=ADMIN,
    ),
    "all": AccessControl({"**": RepositoryRules(anonymous_policy=READ)}),
    "no rules": None,
}
ENTRANCE, LISTING, METRICS = "/v2/", "/v2/_catalog", "/v2/metrics"

MakeClient = Callable[..., FlaskClient]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return replace(default_config(), storage=StorageConfig(str(tmp_path / "data")))


@pytest.fixture
def make_client(tmp_path: Path, config: Config) -> MakeClient:
    """Give a function that gives a client of a registry with these rules, and with tokens of its own or without."""
    users = htpasswd(tmp_path / "htpasswd", {"alice": "a", "root": "r"})

    def make(rules: str, *, tokens: bool = True) -> FlaskClient:
        auth = AuthConfig(htpasswd=HtpasswdConfig(str(users)), apikey=True, token=TokenConfig() if tokens else None)
        http = HTTPConfig(auth=auth, access_control=RULES[rules])
        return create_app(replace(config, http=http)).test_client()

    return make


def token(client: FlaskClient, credentials: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the header with a token that was issued for credentials, or for none."""
    answer: Any = client.get("/v2/token", headers=dict(credentials or {})).json
    return bearer(answer["token"])


def status(client: FlaskClient, path: str, headers: Mapping[str, str] | None = None) -> int:
    return client.get(path, headers=dict(headers or {})).status_code


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "passwords"])
@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        ("nothing", ENTRANCE, 401),
        ("something", ENTRANCE, 401),
        ("all", ENTRANCE, 200),
        ("no rules", ENTRANCE, 401),
        ("nothing", LISTING, 401),
        ("something", LISTING, 200),
        ("all", LISTING, 200),
        ("no rules", LISTING, 401),
        ("nothing", METRICS, 401),
        ("something", METRICS, 401),
        ("all", METRICS, 401),
        ("no rules", METRICS, 401),
    ],
)
def test_without_credentials(make_client: MakeClient, tokens: bool, rules: str, path: str, expected: int) -> None:
    """A client that gets 200 at the entrance never logs in, so that is for where there is nothing to log in for."""
    answer = make_client(rules, tokens=tokens).get(path)
    assert answer.status_code == expected
    scheme = answer.headers.get("WWW-Authenticate", "").partition(" ")[0]
    assert scheme == ("" if expected == 200 else "Bearer" if tokens else "Basic")


@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        ("nothing", ENTRANCE, 200),
        ("nothing", LISTING, 401),
        ("something", LISTING, 200),
        ("no rules", LISTING, 401),
        ("nothing", METRICS, 401),
        ("something", METRICS, 401),
        ("all", METRICS, 401),
        ("no rules", METRICS, 401),
    ],
)
def test_with_a_token_of_nobody(make_client: MakeClient, rules: str, path: str, expected: int) -> None:
    """Whoever asks gets such a token: it opens the entrance, and nothing else that is not open anyway."""
    client = make_client(rules)
    assert status(client, path, token(client)) == expected


@pytest.mark.parametrize("path", [ENTRANCE, LISTING, METRICS])
def test_with_a_token_of_somebody(make_client: MakeClient, path: str) -> None:
    client = make_client("nothing")
    assert status(client, path, token(client, basic("alice", "a"))) == (403 if path == METRICS else 200)
    assert status(client, path, token(client, basic("root", "r"))) == 200


def test_a_token_ends_with_its_key(make_client: MakeClient, config: Config) -> None:
    """A key that is revoked is revoked at once, also where it has been exchanged for a token."""
    client = make_client("nothing")
    keys = Keys(Layout(config.storage.root_directory).auth)
    text, info = keys.create("ci", None, None)
    _, other = keys.create("ci", None, None)
    headers = token(client, basic("ci", text))
    assert status(client, ENTRANCE, headers) == 200
    keys.revoke(other.id)
    assert status(client, ENTRANCE, headers) == 200
    keys.revoke(info.id)
    assert status(client, ENTRANCE, headers) == 401


def test_a_stray_header_where_there_are_no_credentials(config: Config) -> None:
    """Where nobody can log in, what a client sends of itself neither helps nor hinders."""
    rules = AccessControl({"public/**": RepositoryRules(anonymous_policy=READ)})
    client = create_app(replace(config, http=HTTPConfig(access_control=rules))).test_client()
    for headers in ({}, basic("alice", "a"), bearer("x"), {"Authorization": "?"}):
        assert status(client, "/v2/public/app/tags/list", headers) == 404
        assert status(client, "/v2/other/app/tags/list", headers) == 403
