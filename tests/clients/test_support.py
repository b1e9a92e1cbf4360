"""The suite's own promises: a missing client is skipped with a reason, and fails under CI; groups stay together."""

import os

import pytest

from tests.clients.support.programs import NOT_BUILT, require, require_built

MISSING = "no-such-client"


def test_a_missing_client_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=MISSING):
        require("sh", MISSING)


def test_a_missing_client_fails_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=MISSING):
        require("sh", MISSING)


def test_an_installed_client_is_used() -> None:
    require("sh")


def test_what_was_not_built_is_skipped_under_ci_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception, match=f"^{NOT_BUILT}: {MISSING}"):
        require_built(MISSING)


@pytest.mark.xdist_group("together")
def test_groups_reach_whoever_deals_out_the_tests(request: pytest.FixtureRequest) -> None:
    """pytest-xdist goes by the end of a test's name; if that is not there, each of its workers starts an engine."""
    assert request.node.nodeid.endswith("@together") is ("PYTEST_XDIST_WORKER" in os.environ)
