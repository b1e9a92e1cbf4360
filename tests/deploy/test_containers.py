"""The image: built by buildah on a Debian made from nothing, and run as it asks to be, with nothing else writable."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.clients.support.programs import Client, buildah, require, require_root
from tests.support.oci import Remote
from tests.support.server import free_port

TREE = Path(__file__).parents[2]
DEPLOY = TREE / "deploy"
PATIENCE = 60.0

# One worker of pytest runs them all, so that the image is built once.
pytestmark = pytest.mark.xdist_group("containers")

#: What an engine does to run it read-only, here where none can make a control group: the image's root is mounted
#: read-only, with the volume, a configuration and an empty /tmp, and the command has no capability.
_RUN = """
set -e
root=$1 data=$2 config=$3 user=$4; shift 4
mount --make-rprivate /
mount --bind "$root" "$root"
mount --bind "$data" "$root/var/lib/pierhead"
mount --bind "$config" "$root/etc/pierhead/config.yaml"
mount --bind /proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -o remount,ro,bind "$root"
who="--reuid=${user%:*} --regid=${user#*:} --clear-groups"
exec chroot "$root" setpriv $who --bounding-set=-all --no-new-privs "$@"
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    require_root()
    require("buildah", "debootstrap", "unshare")
    with tempfile.TemporaryDirectory(prefix="pierhead-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="module")
def image(home: Path) -> Client:
    """Build the image `pierhead`, with the packages that this Python can fetch; return buildah."""
    wheels, debian = home / "wheels", home / "debian"
    # Another worker of pytest may be doing the same: two builds in one tree break each other.
    source = shutil.copytree(TREE, home / "source", ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--use-pep517", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, str(source), "setuptools", "wheel"], check=True, cwd=home)
    debootstrap = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv", _codename(), str(debian)]
    subprocess.run(debootstrap, check=True, stdout=subprocess.DEVNULL)
    client = buildah(home)
    container = client("from", "scratch").strip()
    client("add", container, str(debian), "/")
    client("commit", "--rm", container, "localhost/debian")
    client(
        "build",
        "--isolation=chroot",
        "--format=docker",
        f"--file={DEPLOY}/container/Containerfile",
        "--build-arg=BASE=localhost/debian",
        "--build-arg=PIP_OPTIONS=--no-index --find-links /wheels",
        f"--volume={wheels}:/wheels:ro",
        "--tag=pierhead",
        str(TREE),
    )
    return client


def _codename() -> str:
    words = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return words["VERSION_CODENAME"].strip('"')


def settings(image: Client) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(image("inspect", "--type=image", "pierhead"))["Docker"]["config"]
    return document


def test_the_image_says_how_it_is_run(image: Client) -> None:
    config = settings(image)
    assert config["User"] == "65532:65532"
    assert set(config["Volumes"]) == {"/var/lib/pierhead"}
    assert set(config["ExposedPorts"]) == {"5000/tcp"}
    assert config["Healthcheck"]["Test"][1:] == ["/opt/pierhead/bin/pierhead", "ping", "/etc/pierhead/config.yaml"]
    assert config["Entrypoint"] + config["Cmd"] == [
        "/opt/pierhead/bin/pierhead",
        "serve",
        "/etc/pierhead/config.yaml",
    ]


def test_it_serves_with_nothing_writable_but_its_volume(image: Client, home: Path) -> None:
    config = settings(image)
    root = Path(image("mount", image("from", "pierhead").strip()).strip())
    data, settled = home / "data", home / "config.yaml"
    data.mkdir()
    os.chown(data, 65532, 65532)
    port = free_port()
    document = yaml.safe_load((root / "etc/pierhead/config.yaml").read_text())
    assert document["http"] == {"address": "0.0.0.0", "port": "5000"}
    document["http"] = {"address": "127.0.0.1", "port": port}
    settled.write_text(yaml.safe_dump(document))
    settled.chmod(0o644)

    def within(command: list[str]) -> list[str]:
        places = [str(root), str(data), str(settled), config["User"]]
        return ["unshare", "--mount", "sh", "-c", _RUN, "sh", *places, *command]

    environment = dict(entry.split("=", 1) for entry in config["Env"])
    with (home / "log").open("wb") as log:
        command = within(config["Entrypoint"] + config["Cmd"])
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        ping = within(config["Healthcheck"]["Test"][1:])
        while (asked := _asked(ping, environment)).returncode:
            assert asked.returncode == 1, asked.stderr
            assert server.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.2)
        remote = Remote(f"http://127.0.0.1:{port}", "team/app")
        manifest = remote.push_image("1")
        assert remote.get("manifests/1").content == manifest.body
        owner = (data / "team" / "app" / "index.json").stat()
        assert (owner.st_uid, owner.st_gid) == (65532, 65532)
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(PATIENCE)
    assert code == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/v2/", timeout=PATIENCE)
    assert _asked(ping, environment).returncode == 1


def _asked(ping: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(ping, check=False, env=environment, capture_output=True, text=True)


def test_compose_runs_it_so() -> None:
    (service,) = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["volumes"] == ["pierhead:/var/lib/pierhead"]
    assert (DEPLOY / "container" / service["build"]["context"]).resolve() == TREE
    assert (TREE / service["build"]["dockerfile"]).is_file()


def test_kubernetes_runs_it_so() -> None:
    """What can be told without a cluster: the documents are YAML, and name each other and the image's places."""
    text = (DEPLOY / "kubernetes" / "pierhead.yaml").read_text()
    assert "UNTESTED" in text
    settings, service, stateful = yaml.safe_load_all(text)
    pod = stateful["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"] == stateful["spec"]["selector"]["matchLabels"]
    assert yaml.safe_load(settings["data"]["config.yaml"])["storage"]["rootDirectory"] == "/var/lib/pierhead"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]}
    assert set(mounts) == {volume["name"] for volume in pod["spec"]["volumes"]} | claims
    assert mounts["data"] == "/var/lib/pierhead"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
