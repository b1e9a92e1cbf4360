"""API keys: for whom they are good, for how long, that no process loses one, and that none can be read out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.auth.keys import KeyInfo, Keys
from registry.auth.policy import parse_grant

TREE = Path(__file__).parents[2]
SCOPES = (parse_grant("pull:team/*"), parse_grant("push:team/app"))


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "root" / ".pierhead" / "auth")


@pytest.fixture
def keys(directory: str) -> Keys:
    return Keys(directory)


def file_of(directory: str) -> Path:
    return Path(directory) / "keys.json"


def test_a_key_is_good_for_its_user(keys: Keys) -> None:
    key, info = keys.create("ci", SCOPES, None)
    identity = keys.verify("ci", key)
    assert identity is not None
    assert (identity.name, identity.scheme, identity.grants, identity.credential) == ("ci", "key", SCOPES, info.id)
    assert identity.groups == frozenset()
    assert Keys.is_key(key)


@pytest.mark.parametrize("user", ["alice", "CI", "", "ci ", "ci\0", "\ud800"])
def test_a_key_is_good_for_nobody_else(keys: Keys, user: str) -> None:
    key, info = keys.create("ci", None, None)
    assert keys.verify(user, key) is None
    assert keys.renew(user, info.id) is None


def test_without_scopes_nothing_limits(keys: Keys) -> None:
    key, _ = keys.create("ci", None, None)
    identity = keys.verify("ci", key)
    assert identity is not None
    assert identity.grants is None


def test_wrong_keys(keys: Keys) -> None:
    key, info = keys.create("ci", None, None)
    other, _ = keys.create("ci", None, None)
    mixed = f"pier_{info.id}_{other.rpartition('_')[2]}"
    last = "a" if key[-1] != "a" else "b"
    for wrong in (
        mixed,
        key[:-1],
        key[:-1] + last,
        key + "a",
        key.upper(),
        " " + key,
        key + "\n",
        "pier_",
        "",
        "x" * 10**6,
    ):
        assert keys.verify("ci", wrong) is None
    for odd in ("pier_\ud800", "pier_" + "ａ" * 8 + "_" + "a" * 40, "pier_\0", f"pier_{info.id}_{'a' * 40}"):
        assert keys.verify("ci", odd) is None
    assert keys.verify("ci", f"pier_{'a' * 8}_{'a' * 40}") is None


def test_shape(keys: Keys) -> None:
    """At least 160 random bits; one word for shells, URLs and double clicks; never the same."""
    made = {keys.create("ci", None, None)[0] for _ in range(20)}
    assert len(made) == 20
    for key in made:
        assert re.fullmatch(r"pier_[a-z2-7]{8}_[a-z2-7]{40}", key)
    assert len({key.split("_")[1] for key in made}) == 20


def test_ids_and_keys(keys: Keys) -> None:
    key, info = keys.create("ci", None, None)
    assert Keys.id_in(key) == info.id == Keys.id_in(info.id)
    assert Keys.id_in(key + "x") == key + "x"
    assert not Keys.is_key("swordfish")


def test_expiry(keys: Keys) -> None:
    key, info = keys.create("ci", None, time.time() + 1.5)
    forever, _ = keys.create("ci", None, None)
    over, past = keys.create("ci", None, time.time() - 1)
    assert keys.verify("ci", key)
    assert keys.verify("ci", over) is None
    assert keys.renew("ci", past.id) is None
    assert info.expires is not None
    while time.time() < info.expires:
        time.sleep(0.05)
    assert keys.verify("ci", key) is None
    assert keys.renew("ci", info.id) is None
    assert keys.verify("ci", forever)
    assert [item.expired(time.time()) for item in keys.list()] == [True, False, True]


def test_what_is_kept_and_read_again(keys: Keys, directory: str) -> None:
    before = time.time()
    made = [
        keys.create("ci", SCOPES, 4e9, "for the nightly builds ☃")[1],
        keys.create("o'hara \\", None, None)[1],
        keys.create("Пётр", (), None)[1],
    ]
    assert list(Keys(directory).list()) == made
    assert all(before <= info.created <= time.time() for info in made)
    assert made[0].scopes == SCOPES
    assert made[2].scopes == ()


def test_only_a_hash_is_kept(keys: Keys, directory: str) -> None:
    """The key is in no file and in no repr; the hash is in no repr either."""
    key, info = keys.create("ci", None, None)
    content = file_of(directory).read_text()
    secret = key.rpartition("_")[2]
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert digest in content
    for text in (secret, key):
        assert text not in content
    assert secret not in repr(info)
    assert secret not in repr(keys.verify("ci", key))
    assert digest not in repr(keys._file.get())


def test_modes(keys: Keys, directory: str) -> None:
    """Nobody but the owner may look, whatever the umask."""
    old = os.umask(0)
    try:
        keys.create("ci", None, None)
        keys.create("ci", None, None)
    finally:
        os.umask(old)
    assert stat.S_IMODE(Path(directory).stat().st_mode) == 0o700
    assert stat.S_IMODE(file_of(directory).stat().st_mode) == 0o600


def test_reading_makes_no_file(keys: Keys, directory: str) -> None:
    assert keys.list() == ()
    assert keys.verify("ci", f"pier_{'a' * 8}_{'a' * 40}") is None
    assert not Path(directory).exists()


def test_revoked_at_once(keys: Keys, directory: str) -> None:
    """Every process that looks sees it, also when file times are too coarse to show it."""
    worker = Keys(directory)
    for _ in range(20):
        key, info = keys.create("ci", None, None)
        other, _ = keys.create("ci", None, None)
        assert worker.verify("ci", key)
        keys.revoke(info.id)
        assert worker.verify("ci", key) is None
        assert worker.renew("ci", info.id) is None
        assert worker.verify("ci", other)


def test_renew(keys: Keys) -> None:
    key, info = keys.create("ci", SCOPES, time.time() + 1000)
    assert keys.renew("ci", info.id) == keys.verify("ci", key)
    assert keys.renew("ci", "") is None
    assert keys.renew("ci", "\ud800") is None


def test_revoking_several_is_all_or_nothing(keys: Keys) -> None:
    ids = [keys.create("ci", None, None)[1].id for _ in range(3)]
    with pytest.raises(LookupError, match="unknown"):
        keys.revoke(ids[0], "unknown")
    assert [info.id for info in keys.list()] == ids
    keys.revoke(ids[0], ids[2], ids[0])
    assert [info.id for info in keys.list()] == [ids[1]]


@pytest.mark.parametrize(
    ("user", "comment"), [("", ""), ("a:b", ""), ("a\nb", ""), ("ci", "a\nb"), ("ci", "\x1b[2J"), ("ci", "x" * 201)]
)
def test_names_and_comments_that_cannot_be_kept(keys: Keys, directory: str, user: str, comment: str) -> None:
    with pytest.raises(ValueError, match=r"the (name|comment)"):
        keys.create(user, None, None, comment)
    assert not file_of(directory).exists()


GOOD = {"id": "a" * 8, "sha256": "0" * 64, "user": "ci", "scopes": None, "created": 1.0, "expires": None, "comment": ""}
BROKEN = {
    "empty": "",
    "cut": '{"version": 1, "keys": [',
    "deep": "[" * 100_000,
    "binary": "\0\0",
    "list": "[]",
    "null": "null",
    "another version": '{"version": 2, "keys": []}',
    "no list": '{"version": 1, "keys": {}}',
    "a text": '{"version": 1, "keys": ["secret"]}',
    **{
        f"{field} {value!r}": json.dumps({"version": 1, "keys": [GOOD | {field: value}]})
        for field, value in [
            ("sha256", "secret"),
            ("sha256", 7),
            ("scopes", ["nonsense"]),
            ("scopes", 7),
            ("scopes", [7]),
            ("created", "x"),
            ("created", None),
            ("expires", "x"),
            ("expires", []),
        ]
    },
    "missing": json.dumps({"version": 1, "keys": [{"id": "a"}]}),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file(keys: Keys, directory: str, content: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused at the start; later what was known stays; it is never replaced by what is only remembered."""
    key, info = keys.create("ci", None, None)
    assert keys.verify("ci", key)
    file_of(directory).write_text(content)
    with pytest.raises(ValueError, match=r"keys\.json: ") as caught:
        Keys(directory)
    assert "secret" not in str(caught.value)
    assert keys.verify("ci", key)
    assert "stays in force" in caplog.text
    with pytest.raises(ValueError, match=r"expected|key 1"):
        keys.create("ci", None, None)
    with pytest.raises(ValueError, match=r"expected|key 1"):
        keys.revoke(info.id)
    assert file_of(directory).read_text() == content


def test_a_file_that_is_gone_holds_no_keys(keys: Keys, directory: str) -> None:
    key, _ = keys.create("ci", None, None)
    assert keys.verify("ci", key)
    file_of(directory).unlink()
    assert keys.verify("ci", key) is None


CREATE = """
import sys
from registry.auth.keys import Keys
keys = Keys(sys.argv[1])
for number in range(int(sys.argv[2])):
    print(keys.create("ci", None, None, str(number))[0], flush=True)
"""


def creator(directory: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CREATE, directory, str(count)]
    return subprocess.Popen(command, cwd=TREE, stdout=subprocess.PIPE, text=True)


def test_processes_lose_none(directory: str) -> None:
    processes = [creator(directory, 10) for _ in range(4)]
    made = [key for process in processes for key in process.communicate(timeout=120)[0].split()]
    assert len(set(made)) == 40
    keys = Keys(directory)
    assert all(keys.verify("ci", key) for key in made)
    assert len(keys.list()) == 40


def test_a_kill_breaks_nothing(directory: str) -> None:
    """Whenever the process is killed, the file is whole, and it has each key that was given out."""
    made: list[str] = []
    for _ in range(6):
        process = creator(directory, 10_000)
        assert process.stdout is not None
        made.append(process.stdout.readline().strip())
        time.sleep(random.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        made.extend(line.strip() for line in process.stdout if line.endswith("\n"))
        process.stdout.close()
        process.wait(timeout=60)
        keys = Keys(directory)
        assert all(keys.verify("ci", key) for key in made)
    assert keys.create("ci", None, None)


def test_info_is_plain() -> None:
    assert KeyInfo("a", "ci", None, 1.0, 5.0).expired(5.0)
    assert not KeyInfo("a", "ci", None, 1.0, 5.0).expired(4.9)
