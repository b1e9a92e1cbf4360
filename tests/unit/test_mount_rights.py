"""Mounting: it takes the right to read the source, that very right, and tells nobody else that something is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from registry import create_app
from registry.auth.identity import ALL, Action
from registry.auth.policy import AccessControl, Policy, RepositoryRules
from registry.config import HTTPConfig, StorageConfig, default_config
from registry.config_auth import AuthConfig, HtpasswdConfig
from tests.support.oci import digest_of
from tests.support.users import basic, htpasswd

DATA = b"somebody's layer"
DIGEST, MISSING = digest_of(DATA), digest_of(b"not there")
USERS = {name: name[0] for name in ("reader", "writer", "deleter", "owner")}


def may(user: str, *actions: Action) -> Policy:
    return Policy(frozenset({user}), actions=frozenset(actions))


RULES = AccessControl(
    {
        "source": RepositoryRules(
            (
                may("reader", Action.READ),
                may("writer", Action.CREATE, Action.UPDATE),
                may("deleter", Action.DELETE),
                may("owner", *ALL),
            )
        ),
        "target": RepositoryRules(default_policy=ALL),
    }
)


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    """Give a client of a registry whose repository `source` has a blob."""
    users = htpasswd(tmp_path / "htpasswd", USERS)
    http = HTTPConfig(auth=AuthConfig(htpasswd=HtpasswdConfig(str(users))), access_control=RULES)
    made = create_app(replace(default_config(), storage=StorageConfig(str(tmp_path / "data")), http=http)).test_client()
    assert post(made, "owner", f"/v2/source/blobs/uploads/?digest={DIGEST}", DATA) == 201
    return made


def post(client: FlaskClient, user: str, path: str, data: bytes = b"") -> int:
    return client.post(path, data=data, headers=basic(user, USERS[user])).status_code


@pytest.mark.parametrize(("user", "status"), [("reader", 201), ("owner", 201), ("writer", 202), ("deleter", 202)])
def test_who_may_read_the_source(client: FlaskClient, user: str, status: int) -> None:
    assert post(client, user, f"/v2/target/blobs/uploads/?mount={DIGEST}&from=source") == status
    assert post(client, user, f"/v2/target/blobs/uploads/?mount={MISSING}&from=source") == 202


@pytest.mark.parametrize("source", ["", "&from="])
@pytest.mark.parametrize("user", USERS)
def test_without_a_source_one_has_to_read_everything(client: FlaskClient, user: str, source: str) -> None:
    """Nobody here may read what has no rule, where the blob may lie as well."""
    assert post(client, user, f"/v2/target/blobs/uploads/?mount={DIGEST}{source}") == 202


def test_the_target_is_asked_first(client: FlaskClient) -> None:
    assert post(client, "reader", f"/v2/source/blobs/uploads/?mount={DIGEST}&from=source") == 403
    assert post(client, "owner", f"/v2/elsewhere/blobs/uploads/?mount={DIGEST}&from=source") == 403
