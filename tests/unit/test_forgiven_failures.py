"""Failed logins that a later login forgives."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.auth.guessing import Guesses
from registry.auth.htpasswd import HtpasswdStore
from registry.auth.identity import CredentialsRefused
from registry.auth.passwords import Passwords
from tests.support.users import htpasswd

HERE = "192.0.2.1"


def test_a_login_forgives_the_failures_before_it(tmp_path: Path) -> None:
    """Who mistypes a password now and then is not locked out for what they have mistyped in all."""
    store = HtpasswdStore(str(htpasswd(tmp_path / "htpasswd", {"alice": "a"})))
    forgetful = Passwords([store], None, Guesses(str(tmp_path / "limits")), slots=4, remember=0)
    for day in range(3):
        for number in range(9):
            with pytest.raises(CredentialsRefused):
                forgetful.identity("alice", f"wrong {day} {number}", HERE)
        assert forgetful.identity("alice", "a", HERE).name == "alice"
