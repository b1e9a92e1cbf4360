"""The wheel is the whole program: installed alone, far from the source tree, it serves."""

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import pytest
import requests

from tests.support.oci import Remote
from tests.support.server import free_port

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.cfg", "setup.py", "README.md", "LICENSE", "wsgi.py", "registry", "blueprints", "storage", "swagger")
START_SECONDS = 30.0
STOP_SECONDS = 30.0

# One worker of pytest runs them all, so that the wheel is built once.
pytestmark = pytest.mark.xdist_group("packaging")


def run(*command: object, cwd: Path) -> str:
    """Run a command to its end, without the environment's way to this tree, and give what it wrote."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIERHEAD_CONFIG")}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, so that nothing left over from other builds gets into it."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", source / "dist", source, cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in an environment of its own, and give the directory of its programs."""
    environment = tmp_path_factory.mktemp("venv")
    venv.create(environment, with_pip=True)
    run(environment / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=environment)
    return environment / "bin"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a configuration with a free port."""
    path = tmp_path / "config.json"
    storage = {"rootDirectory": str(tmp_path / "data")}
    path.write_text(json.dumps({"storage": storage, "http": {"port": free_port()}, "server": {"workers": 2}}))
    return path


@contextmanager
def serving(config: Path, *command: object) -> Iterator[str]:
    """Run a command that serves, wait until it answers, and give its address; it has to end in order."""
    url = f"http://127.0.0.1:{json.loads(config.read_text())['http']['port']}"
    environment = {**os.environ, "PIERHEAD_CONFIG": str(config)}
    log = config.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=config.parent, env=environment, stdout=output, stderr=output
        )
    try:
        wait_until_ready(url, process, log)
        yield url
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask until there is an answer."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            requests.get(f"{url}/v2/", timeout=5).raise_for_status()
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"it does not serve:\n{log.read_text()}")


def check_push_and_pull(url: str) -> None:
    """Push an image and compare what comes back."""
    remote = Remote(url, "team/app")
    image = remote.push_image("1")
    pulled = remote.get("manifests/1")
    assert pulled.content == image.body
    for layer in image.content["layers"]:
        blob = remote.get(f"blobs/{layer['digest']}")
        assert (blob.status_code, len(blob.content)) == (200, layer["size"])


def test_the_wheel_holds_the_packages_and_their_data(wheel: Path) -> None:
    files = set(ZipFile(wheel).namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("registry", "blueprints", "storage", "swagger")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"wsgi.py", *expected} == {name for name in files if ".dist-info/" not in name}
    assert any(name.endswith("/LICENSE") for name in files)


def test_version(wheel: Path, programs: Path, tmp_path: Path) -> None:
    assert run(programs / "pierhead", "--version", cwd=tmp_path).split()[-1] == wheel.name.split("-")[1]


def test_nothing_but_what_it_needs(programs: Path, tmp_path: Path) -> None:
    """The requirements fit together, and none is a developer's tool."""
    run(programs / "python", "-m", "pip", "check", cwd=tmp_path)
    listed = run(programs / "python", "-m", "pip", "list", "--format=freeze", cwd=tmp_path)
    assert not {"pytest", "ruff", "mypy", "requests"} & {line.split("==")[0] for line in listed.splitlines()}


def test_pierhead_serves(programs: Path, config: Path) -> None:
    with serving(config, programs / "pierhead", "serve", config) as url:
        check_push_and_pull(url)
        assert requests.get(f"{url}/swagger/v2/", timeout=30).ok
        assert "/v2/" in requests.get(f"{url}/swagger/v2/swagger.json", timeout=30).json()["paths"]


def test_gunicorn_serves(programs: Path, config: Path) -> None:
    port = json.loads(config.read_text())["http"]["port"]
    with serving(config, programs / "gunicorn", "--bind", f"127.0.0.1:{port}", "wsgi:app") as url:
        check_push_and_pull(url)


def test_flask_offers_the_same_commands(programs: Path, config: Path) -> None:
    direct = run(programs / "pierhead", "verify", config, cwd=config.parent)
    assert run(programs / "flask", "--app", "wsgi", "verify", config, cwd=config.parent) == direct
