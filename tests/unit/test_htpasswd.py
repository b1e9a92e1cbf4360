"""Users in an htpasswd file: what Apache's program writes is right here, what is weak or broken is refused whole."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import bcrypt
import pytest

from registry.auth import hashes
from registry.auth.hashes import Hash, Scheme
from registry.auth.htpasswd import HtpasswdStore, check_name, read_lines

#: A hash that has the right form.
BCRYPT = "$2y$04$8SHm4c8ZpqKR9XuqaaGHsOGl0U1UdckUDVpYAuyqoQEmUSZrBfHDq"
SCHEMES = {
    "-B -C 4": (Scheme.BCRYPT, 4),
    "-B": (Scheme.BCRYPT, 5),
    "-2": (Scheme.SHA256, 5000),
    "-2 -r 1000": (Scheme.SHA256, 1000),
    "-5": (Scheme.SHA512, 5000),
    "-5 -r 20000": (Scheme.SHA512, 20000),
    "-m": (Scheme.APR1, 1000),
}
PASSWORDS = ["secret", "pässwörd ☃", " spaces around ", "x" * 71, "x" * 72, "x" * 100, "ü" * 100, "x" * 255, "a:b:c$d"]

Program = Callable[..., str]


@pytest.fixture
def htpasswd() -> Program:
    """Return Apache's program: it makes a line for `alice` with the options and the password given."""
    if shutil.which("htpasswd") is None:
        pytest.skip("htpasswd is not installed: apt-get install apache2-utils")

    def make(options: str, password: str) -> str:
        command = ["htpasswd", "-n", "-i", *options.split(), "alice"]
        done = subprocess.run(command, input=password.encode(), capture_output=True, timeout=60, check=True)
        return done.stdout.decode().strip() + "\n"

    return make


def store_of(path: Path, content: str | bytes) -> HtpasswdStore:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return HtpasswdStore(str(path))


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def refusal(path: Path, content: str | bytes) -> str:
    """Return what is said of a file that is refused."""
    with pytest.raises(ValueError, match=r"line|UTF") as caught:
        store_of(path, content)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("password", PASSWORDS, ids=lambda password: f"{password[:8]}-{len(password)}")
@pytest.mark.parametrize("options", SCHEMES)
def test_what_apaches_program_wrote(htpasswd: Program, tmp_path: Path, options: str, password: str) -> None:
    store = store_of(tmp_path / "users", htpasswd(options, password))
    identity = store.verify("alice", password)
    assert identity is not None
    assert (identity.name, identity.scheme, identity.groups, identity.grants) == (
        "alice",
        "htpasswd",
        frozenset(),
        None,
    )
    assert store.verify("alice", password[:-1] + "?" if len(password) <= 72 else "?" + password[1:]) is None
    assert store.verify("alice", password.upper() + "?") is None or len(password) > 72
    assert store.verify("Alice", password) is None


@pytest.mark.parametrize(("options", "expected"), SCHEMES.items(), ids=SCHEMES)
def test_scheme_and_cost(htpasswd: Program, options: str, expected: tuple[Scheme, int]) -> None:
    known = hashes.parse(htpasswd(options, "secret").strip().partition(":")[2])
    assert (known.scheme, known.cost) == expected


@pytest.mark.parametrize("options", ["-d", "-s", "-p"])
def test_weak_schemes_are_refused(htpasswd: Program, tmp_path: Path, options: str) -> None:
    """Plain text, bare SHA-1 and DES: the line and the user are named, the password and its hash are not."""
    line = htpasswd(options, "swordfish")
    message = refusal(tmp_path / "users", f"bob:{BCRYPT}\n\n{line}")
    assert 'line 3: user "alice": ' in message
    assert "pierhead user passwd" in message
    assert line.strip().partition(":")[2] not in message


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_the_variants_of_bcrypt(tmp_path: Path, prefix: str) -> None:
    store = store_of(tmp_path / "users", f"alice:{prefix}{hashed('secret')[4:]}")
    assert store.verify("alice", "secret")
    assert store.verify("alice", "secreT") is None


WEAK = {
    "plain": "hunter2",
    "nothing": "",
    "locked": "!",
    "starred": "*",
    "sha1": "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "ssha": "{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "des": "n0GFyCb9gELYw",
    "md5-crypt": "$1$abcdefgh$StHgqYp9F7J/uhmtQ6unc.",
    "yescrypt": "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7",
    "argon2": "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4dWRWJTmaaJObG",
    "bcrypt-x": "$2x$" + BCRYPT[4:],
    "bcrypt-cut": BCRYPT[:-1],
    "bcrypt-long": BCRYPT + "a",
    "bcrypt-stray-bits": BCRYPT[:28] + "9" + BCRYPT[29:],
    "bcrypt-31": BCRYPT.replace("$04$", "$31$"),
    "bcrypt-16": BCRYPT.replace("$04$", "$16$"),
    "bcrypt-03": BCRYPT.replace("$04$", "$03$"),
    "bcrypt-99": BCRYPT.replace("$04$", "$99$"),
    "sha-rounds": "$5$rounds=999999999$pierhead$" + "a" * 43,
    "sha-more-rounds": "$6$rounds=" + "9" * 5000 + "$pierhead$" + "a" * 86,
    "sha-few-rounds": "$6$rounds=10$pierhead$" + "a" * 86,
    "sha-zero": "$6$rounds=05000$pierhead$" + "a" * 86,
    "sha-short": "$6$pierhead$" + "a" * 43,
    "sha-no-salt": "$5$$" + "a" * 43,
    "apr1-cut": "$apr1$abcdefgh$abc",
    "non-ascii": "pässword",
    "nul": "\0",
}


@pytest.mark.parametrize("secret", WEAK.values(), ids=WEAK)
def test_other_hashes_are_refused(tmp_path: Path, secret: str) -> None:
    """What is weak, unknown, damaged or absurdly slow refuses the file, and is not shown."""
    message = refusal(tmp_path / "users", f"bob:{BCRYPT}\nalice:{secret}\n")
    assert 'line 2: user "alice": ' in message
    assert len(secret) < 3 or secret not in message
    assert len(message) < 600


@pytest.mark.parametrize("cost", [hashes.BCRYPT_COSTS[0], hashes.BCRYPT_COSTS[-1]])
def test_costs_within_reason(cost: int) -> None:
    assert hashes.parse(BCRYPT.replace("$04$", f"${cost:02}$")).cost == cost


@pytest.mark.parametrize("rounds", [hashes.SHA_ROUNDS[0], hashes.SHA_ROUNDS[-1]])
def test_rounds_within_reason(rounds: int) -> None:
    assert hashes.parse(f"$5$rounds={rounds}$pierhead${'a' * 43}").cost == rounds


@pytest.mark.parametrize(
    "content",
    [
        f"# users\n\n   \n\talice:{BCRYPT}  \n# more\n",
        f"# users\r\n\r\nalice:{BCRYPT}\r\n",
        f"\ufeffalice:{BCRYPT}\n",
        f"\ufeff# users\nalice:{BCRYPT}",
        f"alice:{BCRYPT}:the comment that nginx allows: yes\n",
        f"# p\xe4ssw\xf6rter\nalice:{BCRYPT}\n".encode("latin-1"),
        f"#bob:hunter2\nalice:{BCRYPT}\n",
        f"bob:{BCRYPT}\ralice:{BCRYPT}",
    ],
    ids=["blank", "crlf", "bom", "bom-comment", "nginx", "latin-1 comment", "commented out", "cr"],
)
def test_forms_of_files(tmp_path: Path, content: str | bytes) -> None:
    store = store_of(
        tmp_path / "users",
        content.replace(BCRYPT, hashed("secret"))
        if isinstance(content, str)
        else content.replace(BCRYPT.encode(), hashed("secret").encode()),
    )
    assert store.verify("alice", "secret")
    assert store.verify("alice", "Secret") is None
    assert store.verify("#bob", "hunter2") is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"alice:{BCRYPT}\n# x\nalice:{BCRYPT}\n", 'line 3: user "alice" is already in line 1'),
        (f"alice:{BCRYPT}\nhunter2\n", "line 2: expected NAME:HASH"),
        (f":{BCRYPT}\n", "line 1: the name is empty"),
        (f"alice :{BCRYPT}\n", "line 1: the name begins or ends with a space"),
        (f"al\x07ice:{BCRYPT}\n", "line 1: the name has a character"),
        (f"al\u2028ice:{BCRYPT}\n", "line 1: the name has a character"),
        (f"al\u202eice:{BCRYPT}\n", "line 1: the name has a character"),
        (f"{'x' * 256}:{BCRYPT}\n", "line 1: the name is longer"),
        (f"fran\xe7ois:{BCRYPT}\n".encode("latin-1"), "line 1: the name is not text in UTF-8"),
        (f"alice:{BCRYPT}\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: str | bytes, expected: str) -> None:
    message = refusal(tmp_path / "users", content)
    assert expected in message
    assert "hunter2" not in message
    assert BCRYPT not in message


def test_several_problems_are_reported_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path / "users", "".join(f"user{number}:plain\n" for number in range(100)))
    assert all(f"line {number}: " in message for number in range(1, 6))
    assert "and 95 more" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["a b", "o'hara", "me@example.com", "Пётр", "-x", "a/b", "\\", "@"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    check_name(name)
    store = store_of(tmp_path / "users", f"{name}:{hashed('secret')}\n")
    identity = store.verify(name, "secret")
    assert identity is not None
    assert identity.name == name


@pytest.mark.parametrize(
    "password", ["", "\0", "secret\0", "\0secret", "x" * 512, "x" * 10**6, "\ud800", "secret\udcff"], ids=repr
)
@pytest.mark.parametrize("user", ["alice", "nobody", "", "\ud800", "x" * 10**5], ids=lambda user: repr(user)[:12])
def test_passwords_that_no_hash_can_have(tmp_path: Path, user: str, password: str) -> None:
    """They are wrong, and no error."""
    content = f"alice:{hashed('secret')}\nempty:{hashed('')}\n"
    store = store_of(tmp_path / "users", content)
    assert store.verify(user, password) is None
    assert store.verify("empty", password) is None


def test_a_file_without_users(tmp_path: Path) -> None:
    store = store_of(tmp_path / "users", b"")
    assert store.verify("alice", "secret") is None
    assert store.renew("alice", "") is None


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        HtpasswdStore(str(tmp_path / "users"))


def replace(path: Path, content: str) -> None:
    """Replace a file as an editor does."""
    new = path.with_name("new")
    new.write_text(content)
    new.rename(path)


def test_a_change_is_noticed(tmp_path: Path) -> None:
    """A new user is known, a removed one is not, a new password replaces the old: at once, and the version changes."""
    path = tmp_path / "users"
    store = store_of(path, f"alice:{hashed('one')}\nbob:{hashed('bob')}\n")
    versions = [store.version(), store.version()]
    assert versions[0] == versions[1]
    assert store.verify("alice", "one")
    replace(path, f"alice:{hashed('two')}\ncarol:{hashed('carol')}\n")
    assert store.version() != versions[0]
    assert store.verify("alice", "one") is None
    assert store.verify("alice", "two")
    assert store.verify("bob", "bob") is None
    assert store.verify("carol", "carol")


def test_a_change_of_the_same_length_in_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "users"
    store = store_of(path, f"alice:{hashed('one')}\n")
    for password in ("two", "three", "four"):
        path.write_text(f"alice:{hashed(password)}\n")
        assert store.verify("alice", password)
        assert store.verify("alice", "one") is None


def test_a_broken_new_file_is_refused_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The old users stay, and the log names line and user once, without a secret; a mended file takes over."""
    path = tmp_path / "users"
    store = store_of(path, f"alice:{hashed('secret')}\n")
    version = store.version()
    with caplog.at_level(logging.ERROR):
        replace(path, "alice:hunter2\n")
        for _ in range(3):
            assert store.verify("alice", "secret")
    assert store.version() == version
    assert store.verify("alice", "hunter2") is None
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert 'line 1: user "alice"' in record.getMessage()
    assert "hunter2" not in caplog.text
    path.unlink()
    assert store.verify("alice", "secret")
    replace(path, f"alice:{hashed('mended')}\n")
    assert store.verify("alice", "mended")


def test_the_credential_is_the_passwords(tmp_path: Path) -> None:
    """It stays with the hash, whatever else changes, and ends with it, even if the new password is the same."""
    path = tmp_path / "users"
    kept = hashed("secret")
    store = store_of(path, f"alice:{kept}\n")
    first = store.verify("alice", "secret")
    assert first is not None
    replace(path, f"# hello\r\nbob:{kept}\r\nalice:{kept}:comment\r\n")
    assert store.renew("alice", first.credential) == first
    assert store.renew("bob", first.credential) is None
    assert store.renew("alice", "ü") is None
    replace(path, f"alice:{hashed('secret')}\n")
    assert store.renew("alice", first.credential) is None
    second = store.verify("alice", "secret")
    assert second is not None
    assert store.renew("alice", second.credential) == second
    replace(path, "")
    assert store.renew("alice", second.credential) is None
    assert kept not in repr(first)


def test_hashes_are_not_shown(tmp_path: Path) -> None:
    secret = hashed("secret")
    (line,) = read_lines(f"alice:{secret}:note\n".encode())
    assert secret not in repr(line)
    assert secret not in repr(hashes.parse(secret))


def took(store: HtpasswdStore, user: str, password: str) -> float:
    def once() -> float:
        start = time.thread_time()
        assert store.verify(user, password) is None
        return time.thread_time() - start

    return median(once() for _ in range(15))


@pytest.mark.parametrize("made", [hashed("secret", 8), None], ids=["bcrypt", "sha512-crypt"])
def test_unknown_users_take_the_time_that_wrong_passwords_take(tmp_path: Path, made: str | None) -> None:
    made = made or hashes.sha_crypt_in_python(b"secret", "$6$rounds=30000$pierhead")
    store = store_of(tmp_path / "users", "".join(f"user{number}:{made}\n" for number in range(20)))
    wrong = took(store, "user7", "wrong")
    assert 0.5 * wrong < took(store, "nobody", "wrong") < 2 * wrong
    assert 0.5 * wrong < took(store, "nobody", "secret") < 2 * wrong


def test_unknown_users_spread_over_the_costs_that_users_have(tmp_path: Path) -> None:
    """In a file of two costs some unknown users take the one and some the other, each always the same."""
    users = [f"slow{number}:{hashed('x', 8)}\nquick{number}:{hashed('x', 4)}\n" for number in range(3)]
    store = store_of(tmp_path / "users", "".join(users))
    slow, quick = took(store, "slow1", "wrong"), took(store, "quick1", "wrong")
    assert slow > 4 * quick
    times = {name: took(store, name, "wrong") for name in map(str, range(24))}
    limit = (slow * quick) ** 0.5
    assert {taken > limit for taken in times.values()} == {True, False}
    again = HtpasswdStore(str(tmp_path / "users"))
    assert all((taken > limit) == (took(again, name, "wrong") > limit) for name, taken in list(times.items())[:4])


@pytest.fixture
def long_turns() -> Iterator[None]:
    """Let threads that run Python keep the interpreter's lock for 100 ms where others wait for it."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.1)
    yield
    sys.setswitchinterval(usual)


SLOW = {
    "bcrypt": lambda: hashed("secret", 11),
    "sha512-crypt": lambda: hashes.sha_crypt_in_python(b"secret", "$6$rounds=300000$pierhead"),
    "sha256-crypt": lambda: hashes.sha_crypt_in_python(b"secret", "$5$rounds=300000$pierhead"),
}


@pytest.mark.parametrize("make", SLOW.values(), ids=SLOW)
@pytest.mark.usefixtures("long_turns")
def test_verifying_does_not_hold_the_interpreter(tmp_path: Path, make: Callable[[], str]) -> None:
    """While passwords are verified, other threads run: the interpreter's lock is not held, and no lock of ours."""
    if hashes.system_crypt() is None:
        pytest.skip("the system has no crypt that knows SHA-crypt")
    store = store_of(tmp_path / "users", f"alice:{make()}\n")
    threads = [threading.Thread(target=store.verify, args=("alice", "wrong")) for _ in range(2)]
    for thread in threads:
        thread.start()
    ticks = [time.perf_counter()]
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.001)
        ticks.append(time.perf_counter())
    pauses = [after - before for before, after in pairwise(ticks)]
    assert len(pauses) > 10
    assert median(pauses) < 0.05


def test_many_threads_while_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "users"
    store = store_of(path, f"alice:{hashed('secret')}\n")
    failures: list[object] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            if not store.verify("alice", "secret") or store.verify("alice", "wrong"):
                failures.append(store.version())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        replace(path, f"alice:{hashed('secret')}\n")
    done.set()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    "setting", ["$5$pierhead", "$6$pierhead", "$5$rounds=1000$a", "$6$rounds=5000$abcdefghijklmnop"]
)
@pytest.mark.parametrize("password", [b"x", "pä☃".encode(), b"y" * hashes.LONGEST_PASSWORD])
def test_python_and_the_system_agree(setting: str, password: bytes) -> None:
    """Where the system has no crypt, or another, Python is used, and finds the same."""
    crypt = hashes.system_crypt()
    if crypt is None:
        pytest.skip("the system has no crypt that knows SHA-crypt")
    made = hashes.sha_crypt_in_python(password, setting)
    theirs = crypt(password, setting.encode())
    assert theirs is not None
    assert theirs.decode().rpartition("$")[2] == made.rpartition("$")[2]


def test_without_the_systems_crypt(monkeypatch: pytest.MonkeyPatch) -> None:
    made = hashes.sha_crypt_in_python(b"secret", "$6$rounds=5000$pierhead")
    monkeypatch.setattr(hashes, "system_crypt", lambda: None)
    assert Hash(Scheme.SHA512, 5000, made).matches("secret")
    assert not Hash(Scheme.SHA512, 5000, made).matches("Secret")
    monkeypatch.setattr(hashes, "system_crypt", lambda: lambda password, setting: None)
    assert not Hash(Scheme.SHA512, 5000, made).matches("secret")
