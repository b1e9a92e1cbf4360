"""`pierhead user`: what it changes in an htpasswd file, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registry.auth.htpasswd import HtpasswdStore, read_lines
from registry.commands.users import user

TREE = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from registry.commands.users import user; user()"]
HASH = b"$2y$04$8SHm4c8ZpqKR9XuqaaGHsOGl0U1UdckUDVpYAuyqoQEmUSZrBfHDq"
SERVICE = 12345  #: the id of a user that nobody is
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for others")


def run(command: str, path: Path, *rest: str, password: str | bytes = "secret\n") -> Result:
    cost = ["--cost", "4"] if command in ("add", "passwd") and "--cost" not in rest else []
    return CliRunner().invoke(user, [command, "--htpasswd", str(path), *cost, *rest], input=password)


def knows(path: Path, name: str, password: str) -> bool:
    return HtpasswdStore(str(path)).verify(name, password) is not None


@pytest.fixture
def users(tmp_path: Path) -> Path:
    return tmp_path / "users"


@pytest.fixture
def file(users: Path) -> Path:
    """Return a file as people leave it: comments, blank lines, a comment behind a hash."""
    users.write_bytes(b"# ours\n\nalice:" + HASH + b":first\n  # indented\n\tbob:" + HASH + b" \n")
    return users


def test_add_makes_the_file(users: Path) -> None:
    done = run("add", users, "alice")
    assert (done.exit_code, done.stdout) == (0, "")
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    assert knows(users, "alice", "secret")
    assert str(users) in done.stderr
    assert "secret" not in done.output


def test_add_keeps_everything_else(file: Path) -> None:
    before = file.read_bytes()
    assert run("add", file, "carol").exit_code == 0
    assert file.read_bytes().startswith(before)
    assert file.read_bytes().count(b"\n") == before.count(b"\n") + 1
    assert knows(file, "carol", "secret")


def test_passwd_changes_one_line(file: Path) -> None:
    before = file.read_bytes().splitlines(keepends=True)
    assert run("passwd", file, "alice").exit_code == 0
    after = file.read_bytes().splitlines(keepends=True)
    assert [new == old for new, old in zip(after, before, strict=True)] == [True, True, False, True, True]
    assert after[2].endswith(b":first\n")
    assert knows(file, "alice", "secret")


def test_remove_removes_one_line(file: Path) -> None:
    before = file.read_bytes().splitlines(keepends=True)
    assert run("remove", file, "alice").exit_code == 0
    assert file.read_bytes() == b"".join(before[:2] + before[3:])
    assert run("remove", file, "bob").exit_code == 0
    assert file.read_bytes() == b"# ours\n\n  # indented\n"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_add_to_a_file_whose_last_line_has_no_end(users: Path, ending: bytes) -> None:
    users.write_bytes(b"\xef\xbb\xbf# ours" + ending + b"alice:" + HASH)
    assert run("add", users, "bob").exit_code == 0
    content = users.read_bytes()
    assert content.startswith(b"\xef\xbb\xbf# ours" + ending + b"alice:" + HASH + ending + b"bob:")
    assert content.endswith(ending)
    assert run("passwd", users, "bob", password="new").exit_code == 0
    assert users.read_bytes().endswith(ending)
    assert knows(users, "bob", "new")


def test_a_link_stays_and_so_does_the_mode(users: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "file"
    target.write_bytes(b"")
    target.chmod(0o640)
    users.symlink_to(target)
    assert run("add", users, "alice").exit_code == 0
    assert users.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert knows(target, "alice", "secret")


BAD = {
    "colon": ("add", "a:b", "secret\n"),
    "no name": ("add", "", "secret\n"),
    "hash": ("add", "#alice", "secret\n"),
    "line": ("add", "eve\nmallory", "secret\n"),
    "long": ("add", "x" * 256, "secret\n"),
    "spaces": ("add", " eve", "secret\n"),
    "there already": ("add", "alice", "secret\n"),
    "unknown": ("passwd", "carol", "secret\n"),
    "unknown to remove": ("remove", "carol", ""),
    "no password": ("add", "carol", ""),
    "empty password": ("passwd", "alice", "\nsecret\n"),
    "long password": ("add", "carol", "x" * 73 + "\n"),
    "very long password": ("add", "carol", "x" * 100_000 + "\n"),
    "NUL": ("add", "carol", "sec\0ret\n"),
    "latin-1": ("add", "carol", "sécret\n".encode("latin-1")),
}


@pytest.mark.parametrize(("command", "name", "password"), BAD.values(), ids=BAD)
def test_bad_input_changes_nothing(file: Path, command: str, name: str, password: str | bytes) -> None:
    before = (file.read_bytes(), file.stat().st_ino)
    done = run(command, file, "--", name, password=password)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert "secret" not in done.stderr
    assert (file.read_bytes(), file.stat().st_ino) == before


@pytest.mark.parametrize(
    "arguments", [["--cost", "3"], ["--cost", "31"], ["--cost", "x"], ["--password", "x"], ["extra"]]
)
def test_bad_options(file: Path, arguments: list[str]) -> None:
    before = file.read_bytes()
    assert run("add", file, *arguments, "carol").exit_code == 2
    assert file.read_bytes() == before


@pytest.mark.parametrize("command", ["passwd", "remove", "list"])
def test_a_missing_file(users: Path, command: str) -> None:
    done = run(command, users, *([] if command == "list" else ["alice"]))
    assert done.exit_code == 2
    assert str(users) in done.stderr
    assert not list(users.parent.iterdir())


def test_a_missing_directory(tmp_path: Path) -> None:
    """A directory is not made: its name is mistyped more often than it is new."""
    assert run("add", tmp_path / "etc" / "users", "alice").exit_code == 2
    assert not list(tmp_path.iterdir())


def test_not_text(users: Path) -> None:
    users.write_bytes(b"alice:x\n".decode().encode("utf-16"))
    before = users.read_bytes()
    done = run("add", users, "bob")
    assert done.exit_code == 2
    assert "UTF-16" in done.stderr
    assert users.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "password"), [("pass word\n", "pass word"), ("pässwörd\r\n", "pässwörd"), (" x ", " x ")]
)
def test_the_password_is_one_line(users: Path, line: str, password: str) -> None:
    assert run("add", users, "alice", password=line + ("" if line == password else "more\n")).exit_code == 0
    assert knows(users, "alice", password)


@pytest.mark.parametrize("password", ["x" * 72, "ü" * 36])
def test_the_longest_password(users: Path, password: str) -> None:
    assert run("add", users, "alice", password=password).exit_code == 0
    assert knows(users, "alice", password)
    assert not knows(users, "alice", password[:-1])


def test_the_cost(users: Path) -> None:
    done = CliRunner().invoke(user, ["add", "--htpasswd", str(users), "alice"], input="secret\n")
    assert done.exit_code == 0
    assert run("add", users, "--cost", "6", "bob").exit_code == 0
    known = [line.hash.cost for line in read_lines(users.read_bytes()) if line.hash]
    assert known == [10, 6]


def test_list(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"carol:$6$pierhead$" + b"a" * 86 + b"\n")
    done = run("list", file)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "alice\tbcrypt\nbob\tbcrypt\ncarol\tsha512-crypt\n"
    assert json.loads(run("list", file, "--json").stdout) == [
        {"name": "alice", "scheme": "bcrypt", "cost": 4},
        {"name": "bob", "scheme": "bcrypt", "cost": 4},
        {"name": "carol", "scheme": "sha512-crypt", "cost": 5000},
    ]


def test_what_the_registry_refuses_can_be_mended(users: Path) -> None:
    """Old files have plain text and users twice; it is said what is wrong, and `passwd` and `remove` mend it."""
    users.write_bytes(b"alice:hunter2\nbob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\nalice:" + HASH + b"\ncarol:\n")
    listed = run("list", users)
    assert listed.exit_code == 0
    assert listed.stdout.splitlines()[:2] == ["alice\tnot accepted", "bob\tnot accepted"]
    assert len(listed.stderr.splitlines()) == 4
    assert "hunter2" not in listed.output
    assert json.loads(run("list", users, "--json").stdout)[1] == {"name": "bob", "scheme": None, "cost": None}
    changed = run("passwd", users, "alice", password="new\n")
    assert changed.exit_code == 0
    assert 'line 2: user "bob"' in changed.stderr
    assert run("remove", users, "carol").exit_code == 0
    assert run("passwd", users, "bob").stderr == ""
    assert run("list", users).stdout == "alice\tbcrypt\nbob\tbcrypt\n"
    assert knows(users, "alice", "new")


def test_apaches_program_agrees(users: Path) -> None:
    """What is written here is right there, and both keep what the other wrote."""
    if shutil.which("htpasswd") is None:
        pytest.skip("htpasswd is not installed: apt-get install apache2-utils")

    def theirs(*arguments: str, password: str) -> int:
        command = ["htpasswd", "-i", *arguments]
        return subprocess.run(command, input=password.encode(), capture_output=True, timeout=60, check=False).returncode

    assert run("add", users, "alice", password="pässword").exit_code == 0
    assert theirs("-v", str(users), "alice", password="pässword") == 0
    assert theirs("-v", str(users), "alice", password="wrong") != 0
    assert theirs("-5", str(users), "bob", password="theirs") == 0
    assert run("passwd", users, "alice", password="new").exit_code == 0
    assert theirs("-v", str(users), "bob", password="theirs") == 0
    assert theirs("-v", str(users), "alice", password="new") == 0
    assert knows(users, "bob", "theirs")


def start(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *arguments], cwd=TREE, **options)  # type: ignore[call-overload, no-any-return]


def on_a_terminal(answers: list[str], *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal, answering each prompt; give its exit code and all that the terminal showed."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    shown = b""
    try:
        while chunk := os.read(ours, 1024):
            shown += chunk
            if chunk.endswith(b": ") and answers:
                os.write(ours, answers.pop(0).encode() + b"\n")
    except OSError:  # Linux says so when nobody has the terminal any more
        pass
    finally:
        watchdog.cancel()
        os.close(ours)
    return process.wait(timeout=60), shown.decode()


def test_a_terminal_is_asked_twice(users: Path) -> None:
    """What is typed is not shown; two different answers are asked for again."""
    answers = ["swordfish", "swordfisch", "swordfish", "swordfish"]
    code, shown = on_a_terminal(answers, "add", "--htpasswd", str(users), "--cost", "4", "alice")
    assert (code, answers) == (0, [])
    assert "fis" not in shown
    assert knows(users, "alice", "swordfish")


def test_an_unknown_user_is_refused_before_the_question(file: Path) -> None:
    code, shown = on_a_terminal([], "passwd", "--htpasswd", str(file), "carol")
    assert code == 2
    assert "Password" not in shown


def test_two_at_once_lose_none(file: Path) -> None:
    names = [f"user{number}" for number in range(8)]
    processes = [
        start("add", "--htpasswd", str(file), "--cost", "4", name, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for name in names
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"secret\n")
        process.stdin.close()
    assert [process.wait(timeout=120) for process in processes] == [0] * len(names)
    known = [line.name for line in read_lines(file.read_bytes()) if line.name]
    assert sorted(known) == sorted(["alice", "bob", *names])
    assert {path.name for path in file.parent.iterdir()} == {"users", "users.lock"}


def test_no_room_for_a_new_file(file: Path) -> None:
    """A refusal of the system is one line, and changes nothing."""
    before = file.read_bytes()
    (file.parent / "users.lock").mkdir()
    done = run("add", file, "carol")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {file}.lock: ")
    assert file.read_bytes() == before


@pytest.fixture
def service() -> Iterator[Path]:
    """Return a directory of a service's user, which that user can reach."""
    with tempfile.TemporaryDirectory(prefix="pierhead-") as directory:
        os.chown(directory, SERVICE, SERVICE)
        Path(directory).chmod(0o755)
        yield Path(directory)


@ROOT_ONLY
def test_root_makes_the_file_for_the_service(service: Path) -> None:
    users = service / "users"
    assert run("add", users, "alice").exit_code == 0
    assert run("passwd", users, "alice").exit_code == 0
    assert {path.name: path.stat().st_uid for path in service.iterdir()} == {"users": SERVICE, "users.lock": SERVICE}
    assert subprocess.run(["cat", users], user=SERVICE, capture_output=True, check=False).returncode == 0
    assert os.geteuid() == 0


@ROOT_ONLY
def test_root_leaves_the_file_to_the_service(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_bytes(b"")
    os.chown(users, SERVICE, SERVICE)
    assert run("add", users, "alice").exit_code == 0
    assert (users.stat().st_uid, users.stat().st_gid) == (SERVICE, SERVICE)


@ROOT_ONLY
def test_root_is_not_led_astray(service: Path, tmp_path: Path) -> None:
    """A link in a directory of somebody else's does not make root replace what only root may."""
    precious = tmp_path / "precious"
    precious.write_text("precious\n")
    precious.chmod(0o600)
    (service / "users").symlink_to(precious)
    done = run("add", service / "users", "alice")
    assert (done.exit_code, done.stdout) == (1, "")
    assert precious.read_text() == "precious\n"
