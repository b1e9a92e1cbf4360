"""Tokens as text: one spelling for each, no longer than any that is accepted, and a bound on what is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.auth.identity import CredentialsRefused, Identity
from registry.auth.signed import LONGEST, Remembered, decode, encode, text_of
from registry.auth.tokens import Tokens
from registry.config_auth import TokenConfig

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ALICE = Identity("alice", scheme="ldap")


def refusal(text: str, tokens: Tokens) -> str:
    with pytest.raises(CredentialsRefused) as caught:
        tokens.verify(text)
    return caught.value.reason


def test_a_token_has_one_spelling(tmp_path: Path) -> None:
    """The last letter of a signature has bits that mean nothing: another one there makes it another token."""
    tokens = Tokens(TokenConfig(), str(tmp_path))
    text, _ = tokens.issue(ALICE)
    assert tokens.verify(text) == ALICE
    position = LETTERS.index(text[-1])
    for bits in range(1, 16):
        assert "base64url" in refusal(text[:-1] + LETTERS[position ^ bits], tokens)
    for other in (text + "=", text + "==", text + "\n", text + " ", " " + text, text.replace(".", " .")):
        assert "malformed" in refusal(other, tokens)


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", bytes(range(256))])
def test_base64url_there_and_back(data: bytes) -> None:
    assert decode(encode(data)) == data


def test_the_longest_token() -> None:
    assert len(text_of("a" * LONGEST)) == LONGEST
    with pytest.raises(CredentialsRefused) as caught:
        text_of("a" * (LONGEST + 1))
    assert "longer" in caught.value.reason


def test_what_is_remembered_is_bounded_and_the_oldest_goes() -> None:
    remembered, keys = Remembered(), object()
    texts = [str(number).encode() for number in range(3000)]
    for text in texts:
        remembered.keep(text, keys, ALICE, now=0, until=100)
    found = [text for text in texts if remembered.find(text, keys, 1)]
    assert 100 < len(found) <= 1024
    assert found == texts[-len(found) :]


def test_what_is_remembered_is_only_for_a_time_and_for_its_keys() -> None:
    remembered, keys = Remembered(), object()
    remembered.keep(b"long", keys, ALICE, now=0, until=10**6)
    remembered.keep(b"short", keys, ALICE, now=0, until=5)
    assert remembered.find(b"long", keys, 59)
    assert not remembered.find(b"long", keys, 60)
    assert remembered.find(b"short", keys, 4)
    assert not remembered.find(b"short", keys, 5)
    assert not remembered.find(b"long", object(), 1)
