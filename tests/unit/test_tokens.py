"""The registry's own tokens: what they carry, what is refused, and keys that are shared, rotated and revoked."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.auth.identity import ALL, ANONYMOUS, Action, CredentialsRefused, Grant, Identity, StoreUnavailable
from registry.auth.tokens import Tokens
from registry.config_auth import TokenConfig

NOW = 1_800_000_000
ALICE = Identity("alice", frozenset({"dev", "ops"}), "ldap", None, "c1")
CI = Identity("ci", scheme="key", grants=(Grant("team/*", frozenset({Action.READ})), Grant("x", ALL)), credential="k7")

Json = dict[str, Any]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "root" / ".pierhead" / "auth")


@pytest.fixture
def tokens(directory: str, clock: Clock) -> Tokens:
    return Tokens(TokenConfig(), directory, clock=clock)


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def part(token: str, number: int) -> Json:
    """Read a token's header (0) or claims (1)."""
    text = token.split(".")[number]
    found: Json = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


def stored(directory: str) -> list[Json]:
    found: list[Json] = json.loads(Path(directory, "token-keys.json").read_bytes())["keys"]
    return found


def private_key(directory: str) -> Ed25519PrivateKey:
    """Give the key that signs now."""
    return Ed25519PrivateKey.from_private_bytes(urlsafe_b64decode(stored(directory)[-1]["d"] + "="))


def forged(directory: str, key: Ed25519PrivateKey | None = None, header: Json | None = None, **claims: Any) -> str:
    """Sign a good access token but for the changes, with the registry's key or another; None leaves one out."""
    said = {"iss": "pierhead", "aud": "pierhead", "sub": "alice", "scheme": "ldap", "use": "access"}
    said |= {"iat": NOW, "nbf": NOW, "exp": NOW + 300} | claims
    fields = {"alg": "EdDSA", "typ": "JWT", "kid": stored(directory)[-1]["kid"]} | (header or {})
    documents = [{name: value for name, value in part.items() if value is not None} for part in (fields, said)]
    message = ".".join(b64(json.dumps(document).encode()) for document in documents)
    return f"{message}.{b64((key or private_key(directory)).sign(message.encode()))}"


def refusal(verify: Callable[[str], Identity], token: str) -> str:
    """Return why a token is refused."""
    with pytest.raises(CredentialsRefused) as caught:
        verify(token)
    assert len(token) < 9 or token not in caught.value.message + caught.value.reason
    return caught.value.reason


# What they carry


@pytest.mark.parametrize(
    "identity",
    [
        ALICE,
        CI,
        ANONYMOUS,
        Identity("bob", scheme="htpasswd"),
        Identity("ci", scheme="key", grants=()),
        Identity("Ü ñ"),
    ],
)
def test_an_identity_comes_back_as_it_was(tokens: Tokens, identity: Identity) -> None:
    token, seconds = tokens.issue(identity)
    assert seconds == 300
    for _ in range(2):
        assert tokens.verify(token) == identity


def test_the_form_of_a_token(tokens: Tokens, directory: str) -> None:
    """It is what any library for such tokens understands."""
    token, _ = tokens.issue(ALICE)
    header, claims = part(token, 0), part(token, 1)
    assert header == {"alg": "EdDSA", "typ": "JWT", "kid": stored(directory)[0]["kid"]}
    assert {"iss": "pierhead", "aud": "pierhead", "sub": "alice", "iat": NOW, "nbf": NOW, "exp": NOW + 300}.items() <= (
        claims.items()
    )
    options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    public = private_key(directory).public_key()
    assert jwt.decode(token, public, ["EdDSA"], audience="pierhead", options=options) == claims
    assert claims["jti"] != part(tokens.issue(ALICE)[0], 1)["jti"]
    assert "grants" not in claims and "groups" not in part(tokens.issue(CI)[0], 1)


def test_a_refresh_token_tells_whom_to_look_up(tokens: Tokens) -> None:
    """What may have changed since is not in it."""
    token = tokens.issue_refresh(ALICE, "docker")
    assert tokens.verify_refresh(token) == Identity("alice", scheme="ldap", credential="c1")
    assert part(token, 1)["client_id"] == "docker"
    assert part(token, 1)["exp"] == NOW + 30 * 86400


def test_the_two_kinds_are_not_taken_for_each_other(tokens: Tokens) -> None:
    access, refresh = tokens.issue(ALICE)[0], tokens.issue_refresh(ALICE, "docker")
    assert "no access token" in refusal(tokens.verify, refresh)
    assert "no refresh token" in refusal(tokens.verify_refresh, access)
    tokens.verify(access)
    assert "no refresh token" in refusal(tokens.verify_refresh, access)  # remembered or not


def test_the_configured_names_and_times(directory: str, clock: Clock) -> None:
    tokens = Tokens(TokenConfig("hub", "https://hub.example.com", 60.0, 120.0), directory, clock=clock)
    token, seconds = tokens.issue(ALICE)
    claims = part(token, 1)
    assert (seconds, claims["aud"], claims["iss"], claims["exp"]) == (60, "hub", "https://hub.example.com", NOW + 60)
    assert part(tokens.issue_refresh(ALICE, ""), 1)["exp"] == NOW + 120
    assert tokens.service == "hub"
    other = Tokens(TokenConfig("hub", "other"), directory, clock=clock)
    assert "iss" in refusal(other.verify, token)
    assert "aud" in refusal(Tokens(TokenConfig(), directory, clock=clock).verify, token)


def test_expiry(tokens: Tokens, clock: Clock) -> None:
    """To the second, and remembered or not."""
    token, refresh = tokens.issue(ALICE)[0], tokens.issue_refresh(ALICE, "")
    for after in (0, 100, 299.9):
        clock.now = NOW + after
        assert tokens.verify(token) == ALICE
    clock.now = NOW + 300
    assert "expired" in refusal(tokens.verify, token)
    clock.now = NOW + 30 * 86400 - 1
    assert tokens.verify_refresh(refresh).name == "alice"
    clock.now += 1
    assert "expired" in refusal(tokens.verify_refresh, refresh)


def test_a_token_that_is_too_long_for_some_proxies(tokens: Tokens, caplog: pytest.LogCaptureFixture) -> None:
    groups = frozenset(f"cn=group {number},ou=groups,dc=example,dc=com" for number in range(200))
    token, _ = tokens.issue(Identity("alice\nadmin", groups, "ldap"))
    assert tokens.verify(token).groups == groups
    (record,) = caplog.records
    assert "'alice\\nadmin'" in record.getMessage()
    assert token not in record.getMessage()


# Forgeries


def test_the_forger_is_able(tokens: Tokens, directory: str) -> None:
    """Without a change, what the tests below forge is good."""
    tokens.issue(ALICE)
    assert tokens.verify(forged(directory)) == Identity("alice", scheme="ldap")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"header": {"alg": "none"}}, "signature"),
        ({"header": {"alg": "HS256"}}, "signature"),
        ({"header": {"alg": "ES256"}}, "signature"),
        ({"header": {"alg": None}}, "malformed"),
        ({"header": {"kid": "other"}}, "no key"),
        ({"header": {"kid": None}}, "no key"),
        ({"header": {"kid": 7}}, "malformed"),
        ({"header": {"crit": []}}, "extension"),
        ({"key": Ed25519PrivateKey.generate()}, "signature"),
        ({"exp": None}, "exp"),
        ({"exp": NOW}, "expired"),
        ({"nbf": NOW + 3600}, "nbf"),
        ({"aud": "other"}, "aud"),
        ({"iss": "other"}, "iss"),
        ({"use": None}, "no access token"),
        ({"use": "refresh"}, "no access token"),
        ({"use": ["access"]}, "no access token"),
        ({"sub": None}, "another version"),
        ({"sub": 7}, "another version"),
        ({"scheme": None}, "another version"),
        ({"groups": 7}, "another version"),
        ({"groups": [[]]}, "another version"),
        ({"credential": 7}, "another version"),
        ({"grants": [[7, []]]}, "another version"),
        ({"grants": 7}, "another version"),
        ({"grants": [7]}, "another version"),
        ({"grants": [["a"]]}, "another version"),
        ({"grants": [["a", ["fly"]]]}, "another version"),
        ({"grants": [["a", [[]]]]}, "another version"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),  # a key has no constant repr
)
def test_forgeries(tokens: Tokens, directory: str, changes: Json, reason: str) -> None:
    tokens.issue(ALICE)
    assert reason in refusal(tokens.verify, forged(directory, **changes))


def test_a_signature_for_something_else(tokens: Tokens) -> None:
    header, claims, signature = tokens.issue(ALICE)[0].split(".")
    root = b64(json.dumps(part(f".{claims}", 1) | {"sub": "root"}).encode())
    for text in (f"{header}.{root}.{signature}", f"{header}.{claims}.", f"{header}.{claims}.{b64(bytes(64))}"):
        assert "signature" in refusal(tokens.verify, text)
    for text in (
        "",
        "a",
        "..",
        f"{header}.{claims}",
        f"{header}.{claims}.{signature}.",
        f"{header}.{claims}.{signature}=",
    ):
        assert "malformed" in refusal(tokens.verify, text)


@settings(deadline=None)
@given(text=st.text() | st.lists(st.binary(), min_size=3, max_size=3).map(lambda parts: ".".join(map(b64, parts))))
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tokens = Tokens(TokenConfig(), str(tmp_path_factory.getbasetemp() / "any" / "auth"))
    for verify in (tokens.verify, tokens.verify_refresh):
        with suppress(CredentialsRefused):
            verify(text)
            pytest.fail("accepted")


# Keys


def test_the_keys_are_made_when_they_are_needed(tokens: Tokens, directory: str) -> None:
    """Not when the registry is only put together, by a command, say, that root runs."""
    assert not Path(directory).exists()
    assert list(tokens.signing_keys()) == []
    assert not Path(directory).exists()
    tokens.issue(ANONYMOUS)
    (key,) = tokens.signing_keys()
    assert (key.created, key.until) == (NOW, None)


def test_nobody_else_reads_the_keys(tokens: Tokens, directory: str) -> None:
    old = os.umask(0)
    try:
        tokens.issue(ANONYMOUS)
        tokens.rotate()
    finally:
        os.umask(old)
    assert stat.S_IMODE(Path(directory).stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(directory, "token-keys.json").stat().st_mode) == 0o600
    (old_key, key) = tokens.signing_keys()
    secret = stored(directory)[-1]["d"]
    assert secret not in repr(key) + repr(tokens) + str(old_key)


def test_another_worker_verifies(tokens: Tokens, directory: str, clock: Clock) -> None:
    other = Tokens(TokenConfig(), directory, clock=clock)
    assert other.verify(tokens.issue(ALICE)[0]) == ALICE
    assert tokens.verify(other.issue(CI)[0]) == CI


def issue_one(directory: str, gate: Any, results: Any) -> None:
    tokens = Tokens(TokenConfig(), directory)
    gate.wait()
    results.put(tokens.issue(ALICE)[0])


def test_workers_that_start_at_once_agree(directory: str) -> None:
    """Each makes the first key, and one key is made."""
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(6), context.Queue()
    workers = [context.Process(target=issue_one, args=(directory, gate, results)) for _ in range(6)]
    for worker in workers:
        worker.start()
    issued = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    tokens = Tokens(TokenConfig(), directory)
    assert [tokens.verify(token) for token in issued] == [ALICE] * 6
    assert len(stored(directory)) == 1


def test_rotation(tokens: Tokens, directory: str, clock: Clock) -> None:
    """The new key signs, in every worker; what the old one signed is good for as long as it would have been."""
    other = Tokens(TokenConfig(), directory, clock=clock)
    access, refresh = other.issue(ALICE)[0], other.issue_refresh(ALICE, "docker")
    old = stored(directory)[0]["kid"]
    new = tokens.rotate()
    assert part(other.issue(ALICE)[0], 0)["kid"] == new.kid != old
    assert other.verify(access) == ALICE
    clock.now = NOW + 30 * 86400 - 1
    assert other.verify_refresh(refresh).name == "alice"
    clock.now = NOW + 30 * 86400 + 3600
    assert [key.kid for key in tokens.signing_keys()] == [new.kid]
    assert "no key of ours" in refusal(other.verify_refresh, refresh)


def test_rotation_drops_what_is_over(tokens: Tokens, directory: str, clock: Clock) -> None:
    tokens.issue(ALICE)
    first = tokens.rotate()
    clock.now += 86400
    second = tokens.rotate()
    assert [key["kid"] for key in stored(directory)][1:] == [first.kid, second.kid]
    ends = [key["until"] for key in stored(directory)]
    assert ends[1] - ends[0] == 86400  # the second rotation prolongs nothing
    assert ends[2] is None
    clock.now = ends[0]
    third = tokens.rotate()
    assert [key["kid"] for key in stored(directory)] == [first.kid, second.kid, third.kid]


def test_revocation(tokens: Tokens, directory: str, clock: Clock) -> None:
    """At once, in every worker, and whatever is remembered."""
    other = Tokens(TokenConfig(), directory, clock=clock)
    access, refresh = other.issue(ALICE)[0], other.issue_refresh(ALICE, "docker")
    other.verify(access)
    new = tokens.rotate(revoke=True)
    for one in (tokens, other):
        assert "no key of ours" in refusal(one.verify, access)
        assert "no key of ours" in refusal(one.verify_refresh, refresh)
    assert [key["kid"] for key in stored(directory)] == [new.kid]
    assert other.verify(other.issue(ALICE)[0]) == ALICE


def test_rotation_before_the_first_start(tokens: Tokens, directory: str) -> None:
    key = tokens.rotate()
    assert part(tokens.issue(ALICE)[0], 0)["kid"] == key.kid
    assert len(stored(directory)) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys": []}',
        b'{"keys": [{}]}',
        b'{"keys": [7]}',
        b'{"keys": 7}',
        b'{"keys": [{"d": "AA", "created": 1, "until": null}]}',
        b'{"keys": [{"d": 7, "created": 1, "until": null}]}',
        b'{"keys": [{"d": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IDEyMzQ", "created": [], "until": null}]}',
        b'{"keys": [{"d": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IDEyMzQ", "created": 1, "until": 9}]}',
    ],
)
def test_a_damaged_file(directory: str, clock: Clock, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    """A worker that starts with it says so, and quotes nothing; a new key mends it, and nothing less does."""
    Path(directory).mkdir(parents=True)
    path = Path(directory, "token-keys.json")
    path.write_bytes(content)
    tokens = Tokens(TokenConfig(), directory, clock=clock)
    with pytest.raises(StoreUnavailable):
        tokens.verify("a.b.c")
    with pytest.raises(StoreUnavailable):
        tokens.issue(ALICE)
    assert "token rotate --revoke" in caplog.text
    assert "c2VjcmV0" not in caplog.text
    with pytest.raises(ValueError, match="damaged"):
        tokens.rotate()
    assert path.read_bytes() == content
    tokens.rotate(revoke=True)
    assert tokens.verify(tokens.issue(ALICE)[0]) == ALICE


def test_a_file_that_breaks_while_it_is_used(tokens: Tokens, directory: str, clock: Clock) -> None:
    """Who has the keys goes on with them; they are not written back over what somebody may want to mend."""
    token, _ = tokens.issue(ALICE)
    Path(directory, "token-keys.json").write_bytes(b"oops")
    assert tokens.verify(token) == ALICE
    with pytest.raises(ValueError, match="damaged"):
        tokens.rotate()
    Path(directory, "token-keys.json").unlink()
    assert tokens.verify(token) == ALICE


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="directory"):
        Tokens(TokenConfig(), str(tmp_path / "file" / "auth")).issue(ALICE)


# Speed


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_a_token_again_costs_next_to_nothing(tokens: Tokens) -> None:
    """The best of several runs, so that a busy machine does not matter; the bound is that of the design."""
    token, _ = tokens.issue(ALICE)
    tokens.verify(token)
    assert min(timed(lambda: tokens.verify(token)) for _ in range(300)) < 60e-6


def test_who_uses_no_tokens_pays_no_memory_for_them() -> None:
    """The libraries take 4 MB in each worker, so they are imported where a token is used, and not before."""
    script = (
        "import sys, registry, registry.auth.bearer, registry.auth.tokens, blueprints.token\n"
        "from registry.config import default_config\n"
        "registry.create_app(default_config())\n"
        "print([name for name in ('jwt', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
