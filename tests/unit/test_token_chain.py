"""The certificates that a token brings along: how many are read at most."""

from __future__ import annotations

import time
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from registry.auth.identity import CredentialsRefused
from registry.auth.signed import SignedText
from registry.auth.trust import parse_trust
from tests.support.certificates import Authority


@pytest.mark.parametrize(("length", "reason"), [(0, "no list of up to 6"), (6, "signature"), (7, "no list of up to 6")])
def test_the_longest_chain(tmp_path: Path, length: int, reason: str) -> None:
    """Whoever sends a token decides how many certificates are read before anything in it is believed."""
    authority = Authority(tmp_path)
    link = b64encode(authority.certificate.public_bytes(Encoding.DER)).decode()
    token = SignedText({"alg": "ES256", "x5c": [link] * length}, b"message", b"payload", bytes(64))
    with pytest.raises(CredentialsRefused) as caught:
        parse_trust(authority.cert.read_bytes()).check(token, time.time())
    assert reason in caught.value.reason
