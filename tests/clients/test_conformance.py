"""The OCI distribution spec's own tests, for the released version and for the next: all pass, and none is skipped."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.clients.support.programs import require_built
from tests.conftest import MakeServer
from tests.support.users import htpasswd

#: In the environment: where the reports are to be left.
REPORTS = "PIERHEAD_CONFORMANCE_REPORTS"
TIMEOUT = 300.0
USER, PASSWORD = "alice", "correct horse"
TOKENS: Mapping[str, object] = {"token": {}}

#: Images without their layers, which the suite tries only if it is asked to: they are refused here.
SPARSE = "Sparse Manifests"
#: What the suite does not try of version 1.1, which had it not yet or left it open.
NOT_IN_1_1 = {"Blob upload cancel", "Manifest put with tag params", "Tag Param", "Tag Param sha512"}


@pytest.fixture
def reports(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a directory for one run's reports."""
    kept = os.environ.get(REPORTS)
    return Path(kept).resolve() / request.node.name if kept else tmp_path / "reports"


@pytest.mark.parametrize("version", ["1.1", "dev"])
def test_everything_passes(make_server: MakeServer, reports: Path, version: str) -> None:
    server = make_server(workers=2)
    left_out = {SPARSE} | (NOT_IN_1_1 if version == "1.1" else set())
    assert conform(server.host, reports, OCI_VERSION=version) == left_out


@pytest.mark.parametrize("auth", [{}, TOKENS], ids=["basic", "token"])
def test_everything_passes_with_a_login(
    make_server: MakeServer, tmp_path: Path, reports: Path, auth: Mapping[str, object]
) -> None:
    users = htpasswd(tmp_path / "htpasswd", {USER: PASSWORD})
    server = make_server(config={"http": {"auth": {"htpasswd": {"path": str(users)}, **auth}}})
    login = {"OCI_USERNAME": USER, "OCI_PASSWORD": PASSWORD}
    assert conform(server.host, reports, OCI_VERSION="dev", **login) == {SPARSE}


def conform(host: str, reports: Path, **settings: str) -> set[str]:
    """Run the suite, which must pass; return what it was not asked to try."""
    done = subprocess.run(
        [require_built("conformance")],
        env={"OCI_REGISTRY": host, "OCI_TLS": "disabled", "OCI_RESULTS_DIR": str(reports), **settings},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +Skip\.*: +0$", done.stdout, re.MULTILINE), done.stdout
    assert (reports / "report.html").exists()
    results = yaml.safe_load((reports / "results.yaml").read_text())
    found = {**results["apis"], **results["data"]}
    assert set(found.values()) <= {"Pass", "Disabled"}, found
    return {name for name, result in found.items() if result == "Disabled"}
