"""The part of the configuration that says who may do what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.auth.identity import Action
from registry.auth.policy import Policy, RepositoryRules
from registry.config import Config, ConfigError, load
from registry.config_auth import LDAPConfig, RateLimitConfig
from registry.config_secrets import Secret

Load = Callable[..., Config]

EVERYTHING = ["read", "create", "update", "delete"]


@pytest.fixture
def load_http(tmp_path: Path) -> Load:
    """Give a function that loads a configuration with this `http`."""

    def load_it(http: dict[str, Any], **sections: Any) -> Config:
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"http": http, **sections}))
        return load(str(file))

    return load_it


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some.file"
    path.write_text("content")
    return str(path)


def problems(load_http: Load, http: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_http(http)
    return [str(problem) for problem in caught.value.problems]


# access control


def test_globs_under_repositories(load_http: Load) -> None:
    rules = load_http({"accessControl": {"repositories": {"team/**": {"defaultPolicy": ["read"]}}}}).http.access_control
    assert rules is not None
    assert rules.repositories == {"team/**": RepositoryRules(default_policy=frozenset({Action.READ}))}
    assert rules.path == "http.accessControl.repositories"


def test_globs_beside_the_keys_as_in_zot_1_4(load_http: Load) -> None:
    policies = [{"users": ["alice"], "groups": ["crew"], "actions": EVERYTHING}]
    rules = load_http(
        {"AccessControl": {"team/**": {"policies": policies}, "adminpolicy": {"users": ["root"], "actions": ["read"]}}}
    ).http.access_control
    assert rules is not None
    everything = Policy(frozenset({"alice"}), frozenset({"crew"}), frozenset(Action))
    assert rules.repositories == {"team/**": RepositoryRules(policies=(everything,))}
    assert rules.admin_policy == Policy(users=frozenset({"root"}), actions=frozenset({Action.READ}))
    assert rules.path == "http.accessControl"


def test_both_shapes_at_once_are_refused(load_http: Load) -> None:
    both: dict[str, Any] = {"repositories": {"a": {}}, "b": {}}
    assert problems(load_http, {"accessControl": both}) == [
        'http.accessControl.repositories: expected globs in repositories or beside it, not both: "b"'
    ]


@pytest.mark.parametrize("key", ["adminPolcy", "adminPolicies", "Repos", "Team/**"])
def test_an_unknown_key_with_a_capital_is_no_glob(load_http: Load, key: str) -> None:
    (problem,) = problems(load_http, {"accessControl": {key: {"users": ["root"], "actions": EVERYTHING}}})
    assert problem.startswith(f"http.accessControl{'.' if key.isalpha() else '['}")
    assert "unknown key" in problem


def test_a_misspelt_key_without_a_capital_is_refused_for_what_it_holds(load_http: Load) -> None:
    found = problems(load_http, {"accessControl": {"adminpolcy": {"users": ["root"], "actions": ["read"]}}})
    assert [problem.split(":")[0] for problem in found] == [
        "http.accessControl.adminpolcy.users",
        "http.accessControl.adminpolcy.actions",
    ]


@pytest.mark.parametrize(
    ("rules", "path"),
    [
        ({"**": {"defaultPolicy": ["pull"]}}, '["**"].defaultPolicy'),
        ({"**": {"defaultPolicy": "read"}}, '["**"].defaultPolicy'),
        ({"**": {"policies": [{"users": ["a"]}]}}, '["**"].policies[0].actions'),
        ({"**": {"policies": [{"users": ["*"], "actions": ["read"]}]}}, '["**"].policies[0].users'),
        ({"**": {"policies": [{"actions": ["read"]}, {"actoins": []}]}}, '["**"].policies[1].actoins'),
        ({"**": {"policies": {"users": []}}}, '["**"].policies'),
        ({"[": {}}, '["["]'),
        ({"": {}}, '[""]'),
    ],
)
@pytest.mark.parametrize("today", [True, False])
def test_mistakes_in_rules_are_told_with_their_place(load_http: Load, rules: Any, path: str, today: bool) -> None:
    found = problems(load_http, {"accessControl": {"repositories": rules} if today else rules})
    prefix = "http.accessControl.repositories" if today else "http.accessControl"
    assert prefix + path in [problem.split(": ")[0] for problem in found]


def test_groups_and_metrics(load_http: Load) -> None:
    rules = load_http(
        {"accessControl": {"groups": {"Crew": {"users": ["alice"]}}, "metrics": {"users": ["monitor"]}}}
    ).http.access_control
    assert rules is not None
    assert rules.groups == {"Crew": frozenset({"alice"})}
    assert rules.metrics_users == frozenset({"monitor"})


# authentication


def test_a_file_that_cannot_be_read_is_told(load_http: Load) -> None:
    found = problems(load_http, {"auth": {"htpasswd": {"path": "/no/such/file"}}})
    assert found == ["http.auth.htpasswd.path: /no/such/file cannot be read: No such file or directory"]


def test_token_and_bearer_exclude_each_other(load_http: Load, file: str) -> None:
    bearer = {"realm": "https://auth.example.com/token", "service": "registry", "cert": file}
    auth = {"htpasswd": {"path": file}, "token": {}, "bearer": bearer}
    (problem,) = problems(load_http, {"auth": auth})
    assert problem.startswith("http.auth.token: expected token or bearer")


@pytest.mark.parametrize(
    ("auth", "path"),
    [
        ({"token": {}}, "http.auth.token"),
        ({"failDelay": 3}, "http.auth.failDelay"),
        ({"mtls": {}}, "http.auth.mtls"),
        ({"mtls": {"identityAttributes": ["Owner"]}}, "http.auth.mtls.identityAttributes"),
        ({"apikey": "true"}, "http.auth.apikey"),
        ({"failDelay": 61}, "http.auth.failDelay"),
        ({"apikey": True, "token": {"expiry": "59s"}}, "http.auth.token.expiry"),
        ({"openid": {}}, "http.auth.openid"),
    ],
)
def test_what_would_have_no_effect_is_refused(load_http: Load, auth: Any, path: str) -> None:
    assert path in [problem.split(": ")[0] for problem in problems(load_http, {"auth": auth})]


def ldap(load_http: Load, **keys: Any) -> LDAPConfig:
    found = load_http(
        {"auth": {"ldap": {"address": "ldap.example.com", "baseDN": "dc=example", **keys}}}
    ).http.auth.ldap
    assert found is not None
    return found


def test_ldap_ports_follow_the_kind_of_connection(load_http: Load) -> None:
    assert ldap(load_http).port == 636
    assert ldap(load_http, startTLS=True).port == 389
    assert ldap(load_http, insecure=True).port == 389
    assert ldap(load_http, port=3269).port == 3269


def test_ldap_credentials_from_a_file(load_http: Load, tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text('{"bindDN": "cn=reader", "bindPassword": "hidden"}')
    found = ldap(load_http, credentialsFile=str(path))
    assert (found.bind_dn, found.bind_password) == ("cn=reader", Secret("hidden"))
    assert "hidden" not in repr(found)


@pytest.mark.parametrize("content", ["", "{", '{"bindDN": "a"}', '["a"]', '{"bindDN": "", "bindPassword": "hidden"}'])
def test_ldap_credentials_that_are_none(load_http: Load, tmp_path: Path, content: str) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(content)
    keys = {"address": "ldap.example.com", "baseDN": "dc=example", "credentialsFile": str(path)}
    (problem,) = problems(load_http, {"auth": {"ldap": keys}})
    assert problem.startswith("http.auth.ldap.credentialsFile")
    assert "hidden" not in problem


@pytest.mark.parametrize(
    "keys",
    [
        {"bindDN": "cn=reader"},
        {"bindPassword": "x"},
        {"insecure": True, "skipVerify": True},
        {"userFilter": "objectClass=person"},
        {"userAttribute": "uid=*"},
    ],
)
def test_ldap_keys_that_do_not_fit(load_http: Load, keys: Any) -> None:
    assert problems(load_http, {"auth": {"ldap": {"address": "ldap.example.com", "baseDN": "dc=example", **keys}}})


# secrets


def test_a_secret_of_the_environment(load_http: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDAP_PASSWORD", "of the environment")
    assert ldap(load_http, bindDN="cn=a", bindPassword="${LDAP_PASSWORD}").bind_password == Secret("of the environment")
    monkeypatch.delenv("LDAP_PASSWORD")
    keys = {"address": "ldap.example.com", "baseDN": "dc=example", "bindDN": "cn=a"}
    (problem,) = problems(load_http, {"auth": {"ldap": keys | {"bindPassword": "${LDAP_PASSWORD}"}}})
    assert "LDAP_PASSWORD" in problem


def test_a_secret_of_a_file(load_http: Load, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("of a file\n")
    assert ldap(load_http, bindDN="cn=a", bindPassword={"file": str(path)}).bind_password == Secret("of a file")


@pytest.mark.parametrize("value", [7, "", ["hidden"], {"path": "hidden"}, {"file": "/no/such"}, {"file": 1}, None])
def test_what_is_no_secret_is_not_quoted(load_http: Load, value: Any) -> None:
    keys = {"address": "ldap.example.com", "baseDN": "dc=example", "bindDN": "cn=a", "bindPassword": value}
    (problem,) = problems(load_http, {"auth": {"ldap": keys}})
    assert "hidden" not in problem


# limits and browsers


def test_rate_limits(load_http: Load) -> None:
    limits = {"rate": 10, "methods": [{"method": "PUT", "rate": 0.5}]}
    assert load_http({"Ratelimit": limits}).http.ratelimit == RateLimitConfig(10.0, {"PUT": 0.5})


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"rate": 0},
        {"rate": -1},
        {"rate": "10"},
        {"methods": [{"method": "put", "rate": 1}]},
        {"methods": [{"method": "PUT"}]},
        {"methods": [{"method": "PUT", "rate": 1}, {"method": "PUT", "rate": 2}]},
        {"methods": {"PUT": 1}},
    ],
)
def test_rate_limits_that_are_none(load_http: Load, limits: Any) -> None:
    assert problems(load_http, {"ratelimit": limits})


def test_origins(load_http: Load) -> None:
    assert load_http({"allowOrigin": "*"}).http.allow_origin == ("*",)
    found = load_http({"allowOrigin": "https://A.example.com, http://b:8080"}).http.allow_origin
    assert found == ("https://a.example.com", "http://b:8080")


@pytest.mark.parametrize("value", ["", "example.com", "https://a/path", "https://a,", "*,https://a", "null", ["*"]])
def test_origins_that_are_none(load_http: Load, value: Any) -> None:
    assert problems(load_http, {"allowOrigin": value})


# warnings


def test_passwords_in_clear_are_warned_of(load_http: Load, file: str) -> None:
    auth = {"htpasswd": {"path": file}}
    assert "in clear" in " ".join(load_http({"auth": auth, "address": "0.0.0.0"}).warnings)
    assert not load_http({"auth": auth, "address": "127.0.0.1"}).warnings
    behind = {"auth": auth, "address": "0.0.0.0", "externalUrl": "https://registry.example.com"}
    assert not load_http(behind, server={"trustedProxies": ["10.0.0.1"]}).warnings
    assert "trustedProxies" in " ".join(load_http(behind).warnings)


def test_anonymous_pull_with_passwords_alone_is_warned_of(load_http: Load, file: str) -> None:
    auth: dict[str, Any] = {"htpasswd": {"path": file}}
    rules = {"repositories": {"**": {"anonymousPolicy": ["read"], "defaultPolicy": ["create"]}}}
    assert "http.auth.token" in " ".join(load_http({"auth": auth, "accessControl": rules}).warnings)
    assert not load_http({"auth": auth | {"token": {}}, "accessControl": rules}).warnings


def test_a_registry_that_is_open_to_a_network_is_warned_of(load_http: Load, file: str) -> None:
    assert "push and delete" in " ".join(load_http({"address": "0.0.0.0"}).warnings)
    assert not load_http({"address": "::1"}).warnings
    for closed in ({"auth": {"htpasswd": {"path": file}}}, {"accessControl": {"**": {"anonymousPolicy": ["read"]}}}):
        assert "push and delete" not in " ".join(load_http({"address": "0.0.0.0", **closed}).warnings)


def test_rules_for_nobody_are_warned_of(load_http: Load) -> None:
    rules = {"repositories": {"**": {"defaultPolicy": ["read"]}}}
    assert "nobody can log in" in " ".join(load_http({"accessControl": rules}).warnings)
