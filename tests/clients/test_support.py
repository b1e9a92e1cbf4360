"""The suite's own promise: a missing client is skipped with a reason, and fails under CI."""

import pytest

from tests.clients.support.programs import require

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
