"""Digests: the grammar of the image spec's descriptors, and the two algorithms that are supported."""

import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.digest import ALGORITHMS, Digest, check_algorithm, is_digest, new_hasher, parse_digest
from storage.errors import DigestInvalid

SPEC = re.compile(r"[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
LENGTHS = {"sha256": 64, "sha512": 128}


def by_the_spec(text: str) -> bool:
    """Tell whether a text is a digest by the spec's grammar and its rules for the registered algorithms."""
    if not SPEC.fullmatch(text):
        return False
    algorithm, encoded = text.split(":")
    length = LENGTHS.get(algorithm)
    return length is None or (len(encoded) == length and set(encoded) <= set("0123456789abcdef"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_digest_knows_its_parts(algorithm: str) -> None:
    digest = Digest.of(b"x", algorithm)
    assert digest == f"{algorithm}:{hashlib.new(algorithm, b'x').hexdigest()}"
    assert (digest.algorithm, digest.encoded) == (algorithm, hashlib.new(algorithm, b"x").hexdigest())
    assert parse_digest(str(digest)) == digest
    assert isinstance(parse_digest(str(digest)), Digest)


def test_a_digest_is_sha256_unless_told() -> None:
    assert Digest.of(b"").algorithm == "sha256"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_hasher_is_fed_piece_by_piece(algorithm: str) -> None:
    hasher = new_hasher(algorithm)
    hasher.update(b"so")
    hasher.update(memoryview(b"me"))
    assert f"{algorithm}:{hasher.hexdigest()}" == Digest.of(b"some", algorithm)


@pytest.mark.parametrize("algorithm", ["", "md5", "SHA256", "sha256 ", "blake3"])
def test_other_algorithms_are_refused(algorithm: str) -> None:
    with pytest.raises(DigestInvalid) as caught:
        check_algorithm(algorithm)
    assert caught.value.detail == {"algorithm": algorithm}


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        f":{'a' * 64}",
        f"sha256:{'a' * 63}",
        f"sha256:{'a' * 65}",
        f"sha256:{'A' * 64}",
        f"sha256:{'g' * 64}",
        f"sha256:{'a' * 64}\n",
        f" sha256:{'a' * 64}",
        f"sha256:{'a' * 64}:",
        f"sha512:{'a' * 64}",
        f"SHA256:{'a' * 64}",
        f"sha256:../../{'a' * 58}",
        "sha256:" + "\u0661" * 64,
        f"md5:{'a' * 32}",
        "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
    ],
)
def test_what_is_no_supported_digest_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid):
        parse_digest(text)


@given(st.text() | st.from_regex(SPEC, fullmatch=True) | st.from_regex(r"(sha256|sha512):[a-f0-9]{64}([a-f0-9]{64})?"))
@example("sha256+b64:a=")
@example("a--b:c")
def test_the_grammar_is_the_specs(text: str) -> None:
    assert is_digest(text) == by_the_spec(text)
