"""helm against the registry: charts pushed, found by their versions, and pulled."""

from pathlib import Path

import pytest

from tests.clients.support.programs import Client
from tests.clients.support.target import Target
from tests.support.oci import random_bytes

PLAIN = "--plain-http"
CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


# What follows a plus is not allowed in a tag, so helm writes an underscore for it.
@pytest.mark.parametrize(("version", "tag"), [("1.0.0", "1.0.0"), ("1.0.0-rc.1+build.5", "1.0.0-rc.1_build.5")])
def test_a_chart_comes_back_as_it_went(helm: Client, target: Target, version: str, tag: str) -> None:
    package = _push(helm, target, version)
    pulled = helm.home / "pulled"
    pulled.mkdir()
    helm("pull", _chart(target), "--version", version, PLAIN, "--destination", pulled)
    assert (pulled / package.name).read_bytes() == package.read_bytes()
    remote = Target(target.server, f"{target.repository}/chart").remote
    assert remote.tags() == [tag]
    assert [layer["mediaType"] for layer in remote.get(f"manifests/{tag}").json()["layers"]] == [CHART]


def test_the_newest_version_is_found_by_the_tags(helm: Client, target: Target) -> None:
    for version in ("1.9.0", "1.10.0", "2.0.0-rc.1"):
        _push(helm, target, version)
    assert "version: 1.10.0" in helm("show", "chart", _chart(target), PLAIN)
    assert "version: 1.9.0" in helm("show", "chart", _chart(target), PLAIN, "--version", "~1.9")


def test_a_chart_is_rendered_from_the_registry(helm: Client, target: Target) -> None:
    _push(helm, target, "1.0.0")
    assert "kind: ConfigMap" in helm("template", "release", _chart(target), PLAIN)


def test_a_chart_that_is_not_there(helm: Client, target: Target) -> None:
    assert "not found" in helm.refused("pull", _chart(target), "--version", "1.0.0", PLAIN)


def _chart(target: Target) -> str:
    return f"oci://{target.name}/chart"


def _push(helm: Client, target: Target, version: str) -> Path:
    """Make a chart that nobody has seen and push it; return its package."""
    templates = helm.home / "chart" / "templates"
    templates.mkdir(parents=True, exist_ok=True)
    (templates.parent / "Chart.yaml").write_text(f"apiVersion: v2\nname: chart\nversion: {version}\n")
    content = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{a: {random_bytes().hex()}}}\n"
    (templates / "a.yaml").write_text(content)
    helm("package", templates.parent)
    package = helm.home / f"chart-{version}.tgz"
    helm("push", package, f"oci://{target.name}", PLAIN)
    return package
