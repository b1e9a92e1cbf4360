"""While somebody is locked out nothing lets them in, not even what was right a moment ago."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.auth.guessing import Guesses
from registry.auth.htpasswd import HtpasswdStore
from registry.auth.identity import CredentialsRefused
from registry.auth.keys import Keys
from registry.auth.passwords import Passwords
from registry.errors import RequestRefused
from tests.support.users import htpasswd

HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(str(tmp_path / "auth"))


@pytest.fixture
def passwords(tmp_path: Path, keys: Keys) -> Passwords:
    store = HtpasswdStore(str(htpasswd(tmp_path / "htpasswd", {"alice": "a"})))
    return Passwords([store], keys, Guesses(str(tmp_path / "limits")), slots=4, remember=60)


def guess(passwords: Passwords, user: str, times: int, first: int = 0) -> None:
    """Try passwords, another one each time: the same again is no further guess."""
    for number in range(first, first + times):
        with pytest.raises(CredentialsRefused):
            passwords.identity(user, f"wrong {number}", HERE)


def test_a_remembered_password_does_not_pass_a_lock(passwords: Passwords) -> None:
    """Otherwise the answer would tell whoever guesses that somebody here has just used that very password."""
    assert passwords.identity("alice", "a", HERE).name == "alice"
    guess(passwords, "alice", 10)
    with pytest.raises(RequestRefused) as caught:
        passwords.identity("alice", "a", HERE)
    assert (caught.value.status, caught.value.code) == (429, "TOOMANYREQUESTS")
    assert passwords.identity("alice", "a", THERE).name == "alice"


def test_a_key_does_not_pass_a_lock(passwords: Passwords, keys: Keys) -> None:
    text, _ = keys.create("ci", None, None)
    guess(passwords, "ci", 10)
    with pytest.raises(RequestRefused):
        passwords.identity("ci", text, HERE)
    assert passwords.identity("ci", text, THERE).name == "ci"


def test_only_a_login_forgives_failures(passwords: Passwords) -> None:
    """What is remembered costs nothing: whoever may use it between guesses would have as many as they like."""
    passwords.identity("alice", "a", HERE)
    guess(passwords, "alice", 9)
    passwords.identity("alice", "a", HERE)
    guess(passwords, "alice", 1, first=9)
    with pytest.raises(RequestRefused):
        passwords.identity("alice", "a", HERE)
