"""Fixtures of the suite of real clients: each client with a home of its own, the registry seen through a relay."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.support import engines, programs
from tests.clients.support.images import Layout
from tests.clients.support.programs import Client, Skopeo
from tests.clients.support.relay import Relay
from tests.clients.support.target import Target
from tests.support.server import Server


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a directory for the clients' state, removed at once: images are too large to be kept like tmp_path.

    Its path is short too, as engines put sockets in it.
    """
    with tempfile.TemporaryDirectory(prefix="pierhead-") as directory:
        yield Path(directory)


@pytest.fixture
def skopeo(home: Path) -> Skopeo:
    """Return skopeo."""
    return programs.skopeo(home)


@pytest.fixture
def podman(home: Path) -> Iterator[Client]:
    """Return podman."""
    podman = programs.podman(home)
    yield podman
    # Without root a process that holds the user namespace stays behind; this ends it.
    podman("system", "migrate")


@pytest.fixture
def buildah(home: Path) -> Client:
    """Return buildah."""
    return programs.buildah(home)


@pytest.fixture
def umoci(home: Path) -> Client:
    """Return umoci."""
    return programs.umoci(home)


@pytest.fixture
def curl(home: Path) -> Client:
    """Return curl."""
    return programs.curl(home)


@pytest.fixture
def crane(home: Path) -> Client:
    """Return crane."""
    return programs.crane(home)


@pytest.fixture
def helm(home: Path) -> Client:
    """Return helm."""
    return programs.helm(home)


@pytest.fixture
def oras_cli(home: Path) -> Client:
    """Return oras, the command."""
    return programs.oras_cli(home)


@pytest.fixture(scope="session")
def docker() -> Iterator[Client]:
    """Return docker, with an engine that serves the whole session."""
    with tempfile.TemporaryDirectory(prefix="pierhead-") as directory, engines.docker(Path(directory)) as client:
        yield client


@pytest.fixture(scope="session")
def ctr() -> Iterator[Client]:
    """Return ctr, with a containerd that serves the whole session."""
    with tempfile.TemporaryDirectory(prefix="pierhead-") as directory, engines.containerd(Path(directory)) as client:
        yield client


@pytest.fixture
def layout(home: Path) -> Layout:
    """Return an empty OCI image layout."""
    return Layout(home / "layout")


@pytest.fixture
def target(server: Server, repository: str) -> Target:
    """Return a repository to push to."""
    return Target(server, repository)


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    """Return a relay before the registry."""
    with Relay(server.host) as relay:
        yield relay
