"""What people see of a quota: skopeo, podman and docker print the registry's own words."""

import re

import pytest

from tests.clients.support.images import Layout, rootfs
from tests.clients.support.programs import Client, Skopeo
from tests.conftest import MakeServer
from tests.support.oci import random_bytes
from tests.support.server import Server

SIZE = 3 * 1024 * 1024
WORDS = re.compile(r"the quota of team is 1\.0 MiB, of which 0 B are used: this push needs [0-9.]+ MiB( or more)?")


@pytest.fixture
def limited(make_server: MakeServer) -> Server:
    """Give a server whose repositories below `team` are limited to less than the tests push."""
    return make_server(workers=2, config={"storage": {"quotas": {"team": "1MiB"}}})


def test_skopeo_says_what_the_quota_is(skopeo: Skopeo, layout: Layout, limited: Server) -> None:
    layout.tag("1", layout.image(random_bytes(SIZE)))
    skopeo.copy(layout.at("1"), f"docker://{limited.host}/free/app:1")
    assert WORDS.search(skopeo.copy_refused(layout.at("1"), f"docker://{limited.host}/team/app:1"))
    there = f"docker://{limited.host}/free/app:1"
    assert WORDS.search(skopeo.copy_refused(there, f"docker://{limited.host}/team/app:1"))


def test_podman_says_what_the_quota_is(podman: Client, limited: Server) -> None:
    name = f"{limited.host}/team/app:1"
    podman("import", "--quiet", "-", name, stdin=rootfs(random_bytes(SIZE)))
    assert WORDS.search(podman.refused("push", "--tls-verify=false", name))


@pytest.mark.xdist_group("docker")
def test_docker_says_what_the_quota_is(docker: Client, limited: Server) -> None:
    name = f"{limited.host}/team/app:1"
    docker("import", "-", name, stdin=rootfs(random_bytes(SIZE)))
    assert WORDS.search(docker.refused("push", name))
