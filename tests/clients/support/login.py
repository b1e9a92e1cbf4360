"""Logging in: clients with saved credentials of their own, and a registry that wants to know who they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.support.images import Layout, rootfs
from tests.clients.support.programs import Client
from tests.support.oci import random_bytes
from tests.support.server import Server

PASSWORDS = {"alice": "alice's pässword", "bob": "bob's & %41+:word"}
WRITE = ["read", "create", "update"]
#: `public` is to be read by all, `shared` by all who have logged in; `alice` and `bob` are theirs alone.
RULES: Mapping[str, Any] = {
    "repositories": {
        "public/**": {"policies": [{"users": ["alice"], "actions": WRITE}], "anonymousPolicy": ["read"]},
        "shared/**": {"policies": [{"users": ["bob"], "actions": WRITE}], "defaultPolicy": ["read"]},
        "alice/**": {"policies": [{"users": ["alice"], "actions": WRITE}]},
        "bob/**": {"policies": [{"users": ["bob"], "actions": WRITE}]},
    }
}


@dataclass(frozen=True)
class Guarded:
    """A server with rules, and the file of its users."""

    server: Server
    users: Path

    @property
    def host(self) -> str:
        """Return host and port."""
        return self.server.host

    @property
    def url(self) -> str:
        """Return the server's address."""
        return self.server.url

    def pierhead(self, *command: str | Path, stdin: bytes = b"") -> str:
        """Run one of the registry's own commands, which must succeed, and return what it printed."""
        pierhead = Client((str(Path(sys.executable).with_name("pierhead")),), self.users.parent)
        return pierhead(*command, stdin=stdin)

    def make_key(self, user: str, *options: str) -> str:
        """Make an API key and return it."""
        config = ("--config", self.server.config_file)
        return self.pierhead("key", "create", "--user", user, *options, *config).strip()

    def revoke_key(self, key: str) -> None:
        """Revoke an API key."""
        self.pierhead("key", "revoke", key, "--config", self.server.config_file)

    def rotate(self, *options: str) -> None:
        """Change the key that signs tokens."""
        self.pierhead("token", "rotate", *options, "--config", self.server.config_file)

    def change_password(self, user: str, password: str) -> None:
        """Change a password in the file of users."""
        self.pierhead("user", "passwd", "--cost", "4", "--htpasswd", self.users, user, stdin=password.encode())


def log_in(client: Client, host: str, user: str, password: str, *options: str | Path) -> None:
    """Log in, which must succeed."""
    client("login", *options, "--username", user, "--password-stdin", host, stdin=password.encode())


def log_in_refused(client: Client, host: str, user: str, password: str, *options: str | Path) -> str:
    """Log in, which must fail, and return what the client said."""
    return client.refused("login", *options, "--username", user, "--password", password, host)


def docker_at(docker: Client, home: Path) -> Client:
    """Return docker with its saved credentials below `home`; the engine is the same."""
    address = docker.command[docker.command.index("--host") + 1]
    return Client(("docker", "--host", address, "--config", str(home / "docker")), home)


def saved(docker: Client, host: str) -> Mapping[str, str]:
    """Return what docker has saved of a login: nothing if there is none."""
    file = Path(docker.command[docker.command.index("--config") + 1]) / "config.json"
    found: Mapping[str, str] = json.loads(file.read_text())["auths"].get(host, {}) if file.exists() else {}
    return found


def make_image(docker: Client, name: str) -> str:
    """Make an image of one layer for docker and return its id."""
    return docker("import", "-", name, stdin=rootfs(random_bytes())).strip()


def pull_again(docker: Client, name: str) -> str:
    """Let docker forget an image and pull it; return its id."""
    docker("rmi", name)
    docker("pull", name)
    return docker("inspect", "--format", "{{.Id}}", name).strip()


def load_image(client: Client, layout: Layout) -> str:
    """Make an image for podman or buildah and return its id."""
    layout.tag("1", layout.image())
    # Of a layout that is no archive they make the name of the image, which not every directory's name fits.
    archive = layout.archive(layout.root.with_suffix(".tar"))
    return client("pull", "--quiet", f"oci-archive:{archive}").strip()


def import_image(ctr: Client, layout: Layout, name: str, layers: int = 1) -> None:
    """Make an image for ctr."""
    repository, tag = name.rsplit(":", 1)
    layout.tag(tag, layout.image(layers=layers))
    archive = layout.archive(layout.root.with_suffix(".tar"))
    ctr("images", "import", "--all-platforms", "--no-unpack", "--base-name", repository, archive)
