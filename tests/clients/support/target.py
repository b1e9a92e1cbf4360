"""The repository that a test pushes to, by all the names that clients have for it."""

from dataclasses import dataclass
from pathlib import Path

from tests.support.oci import Remote
from tests.support.server import Server


@dataclass(frozen=True)
class Target:
    """A repository of a server, new and empty."""

    server: Server
    repository: str

    @property
    def name(self) -> str:
        """Return the repository with the registry's address before it."""
        return f"{self.server.host}/{self.repository}"

    def image(self, tag: str = "1") -> str:
        """Return an image's name as docker, podman, buildah, ctr and oras take it."""
        return f"{self.name}:{tag}"

    def by_http(self, tag: str = "1") -> str:
        """Return an image's name as skopeo takes it."""
        return f"docker://{self.image(tag)}"

    @property
    def directory(self) -> Path:
        """Return where the repository lies on the disk."""
        return self.server.root / self.repository

    def on_disk(self, tag: str = "1") -> str:
        """Return how skopeo calls an image that it is to read from the disk."""
        return f"oci:{self.directory}:{tag}"

    @property
    def remote(self) -> Remote:
        """Return the repository as Python code talks to it."""
        return Remote(self.server.url, self.repository)
