"""The registries where one has to log in: users, rules as an organization has them, and what the load sends."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import Any

import bcrypt

from bench.registries import DockerRegistry, Pierhead

COST = 10  # of bcrypt: some 50 ms for each password that is verified
TEAMS = 50
TEAM_USERS = 10
USER = "bench-ci"


def rules() -> dict[str, Any]:
    """Give rules for many teams, each with readers, writers and robots, and for the repositories of the load."""
    teams = [f"team-{number:02}" for number in range(TEAMS)]
    repositories = {f"{team}/**": _team_rules(team) for team in teams}
    repositories["bench/**"] = _team_rules("bench")
    repositories["**"] = {"defaultPolicy": ["read"]}
    groups = {f"{team}-writers": {"users": _users(team)} for team in teams}
    groups["bench-writers"] = {"users": [USER, *_users("bench")]}
    return {
        "repositories": repositories,
        "groups": groups,
        "adminPolicy": {"users": ["root"], "actions": ["read", "create", "update", "delete"]},
    }


def _team_rules(team: str) -> dict[str, Any]:
    return {
        "policies": [
            {"users": [f"{team}-robot"], "actions": ["read", "create"]},
            {"groups": [f"{team}-readers"], "actions": ["read"]},
            {"groups": [f"{team}-writers"], "actions": ["read", "create", "update", "delete"]},
        ],
        "defaultPolicy": [],
    }


def _users(team: str) -> list[str]:
    return [f"{team}-user-{number}" for number in range(TEAM_USERS)]


def write_users(path: Path) -> dict[str, str]:
    """Write an htpasswd file of all the teams' users; give the header of the one who makes the load.

    They share one hash: what it takes to make them all is not to be waited for, and only one logs in.
    """
    password = secrets.token_urlsafe(12)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(COST, b"2a")).decode()
    names = [user for number in range(TEAMS) for user in _users(f"team-{number:02}")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}:{hashed}\n" for name in [*names, USER]), encoding="ascii")
    return {"Authorization": "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()}


class GuardedPierhead(Pierhead):
    """This registry with users, rules and a token server."""

    def config(self) -> dict[str, Any]:
        """Add users and rules to what it is without them."""
        config = super().config()
        users = self.directory / "htpasswd"
        self.headers = write_users(users)
        config["http"] |= {"auth": {"htpasswd": {"path": str(users)}, "token": {}}, "accessControl": rules()}
        return config

    def token(self) -> dict[str, str]:
        """Ask its token server, as a client does once for all requests of a pull."""
        with self.connect() as connection:
            token = connection.ask("GET", "/v2/token?service=pierhead", 200).json()["token"]
        return {"Authorization": f"Bearer {token}"}


class GuardedDockerRegistry(DockerRegistry):
    """Debian's docker-registry with users; rules it has none."""

    def config(self) -> dict[str, Any]:
        """Add users to what it is without them."""
        users = self.directory / "htpasswd"
        self.headers = write_users(users)
        return super().config() | {"auth": {"htpasswd": {"realm": "bench", "path": str(users)}}}
