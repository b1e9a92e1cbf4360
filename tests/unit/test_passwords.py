"""Names and passwords: who is asked, what is remembered and for how long, and what keeps it from stopping all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.auth.guessing import Guesses
from registry.auth.identity import CredentialsRefused, Identity, StoreUnavailable
from registry.auth.keys import Keys
from registry.auth.passwords import Passwords
from registry.errors import RequestRefused
from tests.support.users import basic

HERE = "192.0.2.1"
PATIENCE = 30


class Store:
    """Know some passwords, and count how often they are asked for; `hold` keeps an answer back."""

    def __init__(self, scheme: str = "htpasswd", **passwords: str) -> None:
        self.scheme = scheme
        self.passwords = passwords
        self.asked: list[str] = []
        self.state = 0
        self.hold = threading.Event()
        self.hold.set()
        self.fault: Exception | None = None

    def verify(self, user: str, password: str) -> Identity | None:
        self.asked.append(user)
        assert self.hold.wait(PATIENCE)
        if self.fault:
            raise self.fault
        return Identity(user, scheme=self.scheme) if self.passwords.get(user) == password else None

    def knows(self, user: str) -> bool:
        return self.scheme == "htpasswd" and user in self.passwords

    def version(self) -> object:
        return self.state

    def renew(self, name: str, credential: str) -> Identity | None:
        return Identity(name, scheme=self.scheme) if name in self.passwords else None


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Passwords]:
    """Give a function that puts stores together."""

    def make_it(
        *stores: Store, keys: Keys | None = None, slots: int = 4, remember: float = 60, fail_delay: float = 0
    ) -> Passwords:
        guesses = Guesses(str(tmp_path / "limits"))
        return Passwords(stores, keys, guesses, slots=slots, remember=remember, fail_delay=fail_delay)

    return make_it


def refused(passwords: Passwords, user: str, password: str, address: str = HERE) -> bool:
    try:
        passwords.identity(user, password, address)
    except CredentialsRefused:
        return True
    return False


def test_stores_are_asked_in_order(make: Callable[..., Passwords]) -> None:
    first, second = Store("htpasswd", alice="a"), Store("ldap", alice="b", bob="b")
    passwords = make(first, second)
    assert passwords.identity("alice", "a", HERE).scheme == "htpasswd"
    assert not second.asked
    assert passwords.identity("alice", "b", HERE).scheme == "ldap"
    assert passwords.identity("bob", "b", HERE).scheme == "ldap"
    assert refused(passwords, "bob", "a")


def test_users_of_the_first_store_need_not_the_second(make: Callable[..., Passwords]) -> None:
    down = Store("ldap")
    down.fault = StoreUnavailable("the directory does not answer")
    passwords = make(Store(alice="a"), down)
    assert passwords.identity("alice", "a", HERE).name == "alice"
    with pytest.raises(StoreUnavailable):
        passwords.identity("bob", "b", HERE)


def test_what_was_right_is_remembered(make: Callable[..., Passwords]) -> None:
    store = Store(alice="a")
    passwords = make(store)
    for _ in range(3):
        assert passwords.identity("alice", "a", HERE).name == "alice"
    assert store.asked == ["alice"]
    assert refused(passwords, "alice", "b")


def header(user: str, password: str) -> str:
    return basic(user, password)["Authorization"]


def test_a_header_is_known_once_its_password_was_right(make: Callable[..., Passwords]) -> None:
    store = Store(alice="a")
    passwords = make(store)
    right, wrong = header("alice", "a"), header("alice", "b")
    assert passwords.recall_basic(right, HERE) is None
    passwords.identity("alice", "a", HERE)
    for address in (HERE, "192.0.2.2"):
        for _ in range(3):
            known = passwords.recall_basic(right, address)
            assert known
            assert known.name == "alice"
            assert passwords.recall_basic(wrong, address) is None
    assert store.asked == ["alice"]
    store.state += 1
    assert passwords.recall_basic(right, HERE) is None


def test_a_header_is_known_no_longer_than_its_password(make: Callable[..., Passwords]) -> None:
    passwords = make(Store(alice="a"), remember=0.2)
    began = time.monotonic()
    passwords.identity("alice", "a", HERE)
    while passwords.recall_basic(header("alice", "a"), HERE):
        assert time.monotonic() < began + PATIENCE
    assert time.monotonic() >= began + 0.2


def test_a_header_that_is_known_is_refused_while_its_user_is_locked_out(
    make: Callable[..., Passwords], tmp_path: Path
) -> None:
    passwords, another_worker = make(Store(alice="a")), Guesses(str(tmp_path / "limits"))
    passwords.identity("alice", "a", HERE)
    assert passwords.recall_basic(header("alice", "a"), HERE)
    for _ in range(10):
        another_worker.failed("alice", HERE)
    with pytest.raises(RequestRefused):
        passwords.recall_basic(header("alice", "a"), HERE)
    assert passwords.recall_basic(header("alice", "a"), "192.0.2.2")


@pytest.mark.parametrize(
    "text", ["", "Basic", "Basic ", "Basic  YTpi", "Basic YTpi ", "BASIC YTpi", "Basic YTpi=", "Basic /zr/", "Bearer a"]
)
def test_a_header_that_is_not_plain_is_of_nobody_who_is_known(make: Callable[..., Passwords], text: str) -> None:
    assert make(Store(a="b")).recall_basic(text, HERE) is None


def test_what_was_right_is_forgotten_in_time(make: Callable[..., Passwords]) -> None:
    store = Store(alice="a")
    passwords = make(store, remember=0.05)
    passwords.identity("alice", "a", HERE)
    store.passwords["alice"] = "b"
    deadline = time.monotonic() + PATIENCE
    while not refused(passwords, "alice", "a", f"2001:db8:{len(store.asked)}::1"):
        assert time.monotonic() < deadline


def test_what_was_right_is_forgotten_when_the_store_changes(make: Callable[..., Passwords]) -> None:
    store = Store(alice="a")
    passwords = make(store)
    passwords.identity("alice", "a", HERE)
    store.passwords["alice"] = "b"
    store.state += 1
    assert refused(passwords, "alice", "a")


def test_a_change_while_a_password_is_verified_counts(make: Callable[..., Passwords]) -> None:
    """What the old file said is not remembered as what the new one says."""
    store = Store(alice="a")
    passwords = make(store)
    store.hold.clear()
    thread = threading.Thread(target=passwords.identity, args=("alice", "a", HERE))
    thread.start()
    wait_until(lambda: store.asked == ["alice"])
    store.state += 1
    store.hold.set()
    thread.join(PATIENCE)
    store.passwords["alice"] = "b"
    assert refused(passwords, "alice", "a")


def test_a_wrong_password_that_has_become_right_is_right(make: Callable[..., Passwords]) -> None:
    store = Store()
    passwords = make(store)
    assert refused(passwords, "alice", "a")
    store.passwords["alice"] = "a"
    store.state += 1
    assert passwords.identity("alice", "a", HERE).name == "alice"


def test_the_same_wrong_password_is_one_guess(make: Callable[..., Passwords]) -> None:
    """One command of a client may send it dozens of times."""
    store = Store(alice="a")
    passwords = make(store)
    for _ in range(50):
        assert refused(passwords, "alice", "x")
    assert store.asked == ["alice"]
    assert passwords.identity("alice", "a", HERE).name == "alice"


@pytest.mark.parametrize(("user", "password"), [("", "a"), ("alice", ""), ("a" * 5000, "a"), ("alice", "a" * 5000)])
def test_what_no_store_can_know_is_asked_of_none(make: Callable[..., Passwords], user: str, password: str) -> None:
    store = Store(alice="")
    assert refused(make(store), user, password)
    assert not store.asked


def test_names_and_passwords_do_not_run_together(make: Callable[..., Passwords]) -> None:
    passwords = make(Store(ab="c"))
    passwords.identity("ab", "c", HERE)
    assert refused(passwords, "a", "bc")


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_same_credentials_at_once_are_verified_once(make: Callable[..., Passwords]) -> None:
    store = Store(alice="a")
    passwords = make(store, slots=8)
    store.hold.clear()
    found: list[Identity] = []
    threads = [threading.Thread(target=lambda: found.append(passwords.identity("alice", "a", HERE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: passwords._slots._value == 0)
    store.hold.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [identity.name for identity in found] == ["alice"] * 8
    assert store.asked == ["alice"]


def test_more_than_the_slots_are_refused_at_once(make: Callable[..., Passwords]) -> None:
    store = Store(alice="a", bob="b")
    passwords = make(store, slots=2)
    passwords.identity("alice", "a", HERE)
    store.hold.clear()
    threads = [threading.Thread(target=refused, args=(passwords, f"user{n}", "x")) for n in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(store.asked) == 3)
    with pytest.raises(RequestRefused) as caught:
        passwords.identity("bob", "b", HERE)
    assert (caught.value.status, caught.value.code, caught.value.headers) == (
        429,
        "TOOMANYREQUESTS",
        {"Retry-After": "1"},
    )
    assert passwords.identity("alice", "a", HERE).name == "alice"
    store.hold.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert passwords.identity("bob", "b", HERE).name == "bob"


def test_a_failure_holds_its_slot_while_it_is_delayed(make: Callable[..., Passwords]) -> None:
    store = Store(bob="b")
    passwords = make(store, slots=1, fail_delay=2)
    thread = threading.Thread(target=refused, args=(passwords, "alice", "x"))
    thread.start()
    wait_until(lambda: store.asked == ["alice"])
    with pytest.raises(RequestRefused):
        passwords.identity("bob", "b", HERE)
    thread.join(PATIENCE)


def test_guesses_lock_the_pair_out_and_nobody_else(make: Callable[..., Passwords]) -> None:
    passwords = make(Store(alice="a", bob="b"))
    for number in range(10):
        assert refused(passwords, "alice", f"x{number}")
    with pytest.raises(RequestRefused) as caught:
        passwords.identity("alice", "a", HERE)
    assert caught.value.status == 429
    assert passwords.identity("alice", "a", "192.0.2.2").name == "alice"
    assert passwords.identity("bob", "b", HERE).name == "bob"


def test_a_store_that_is_down_is_no_guess(make: Callable[..., Passwords]) -> None:
    store = Store("ldap", alice="a")
    passwords = make(store)
    store.fault = StoreUnavailable("the directory does not answer")
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            passwords.identity("alice", "a", HERE)
    store.fault = None
    assert passwords.identity("alice", "a", HERE).name == "alice"


def test_a_guess_is_counted_though_the_next_store_is_down(make: Callable[..., Passwords]) -> None:
    """Else whoever keeps the directory from answering could guess at the file's users for ever."""
    down = Store("ldap")
    down.fault = StoreUnavailable("the directory does not answer")
    passwords = make(Store(alice="a"), down)
    for number in range(10):
        with pytest.raises(StoreUnavailable):
            passwords.identity("alice", f"x{number}", HERE)
    with pytest.raises(RequestRefused):
        passwords.identity("alice", "a", HERE)


def test_keys_that_are_none_any_more_go_to_no_store(make: Callable[..., Passwords], tmp_path: Path) -> None:
    keys = Keys(str(tmp_path / "auth"))
    text, info = keys.create("ci", None, None)
    keys.revoke(info.id)
    store = Store("ldap")
    assert refused(make(store, keys=keys), "ci", text)
    assert not store.asked


def test_keys_are_passwords_that_cost_nothing(make: Callable[..., Passwords], tmp_path: Path) -> None:
    keys = Keys(str(tmp_path / "auth"))
    text, info = keys.create("ci", None, None)
    store = Store()
    passwords = make(store, keys=keys)
    identity = passwords.identity("ci", text, HERE)
    assert (identity.name, identity.scheme) == ("ci", "key")
    assert not store.asked
    keys.revoke(info.id)
    assert refused(passwords, "ci", text)


def test_wrong_keys_are_guesses(make: Callable[..., Passwords], tmp_path: Path) -> None:
    keys = Keys(str(tmp_path / "auth"))
    text, _ = keys.create("ci", None, None)
    passwords = make(keys=keys)
    for number in range(10):
        assert refused(passwords, "ci", text[:-4] + f"aaa{number}")
    with pytest.raises(RequestRefused):
        passwords.identity("ci", text, HERE)


def test_a_renewed_identity_is_its_own_stores(make: Callable[..., Passwords], tmp_path: Path) -> None:
    keys = Keys(str(tmp_path / "auth"))
    passwords = make(Store("htpasswd", alice="a"), Store("ldap", alice="b", bob="b"), keys=keys)
    assert passwords.renewed(Identity("bob", scheme="htpasswd")) is None
    found = passwords.renewed(Identity("bob", scheme="ldap"))
    assert found is not None
    assert found.scheme == "ldap"
    assert passwords.renewed(Identity("bob", scheme="certificate")) is None
