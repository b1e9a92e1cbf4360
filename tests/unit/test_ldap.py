"""Users of a directory, with a real slapd: who gets in, who does not, and what happens when it is not there."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.auth import ldap as ldap_store
from registry.auth import ldap_connection, outage
from registry.auth.identity import Identity, StoreUnavailable
from registry.auth.ldap import LDAPMissing, LDAPStore
from registry.config_auth import LDAPConfig
from registry.config_secrets import Secret
from tests.support import slapd as support
from tests.support.server import free_port
from tests.support.slapd import BASE, PEOPLE, USERS, HangingServer, Slapd, User, group_dn

ALICE = USERS["alice"]
ONLY_ONES = [key for key in USERS if "twin" not in key and key != "locked"]
#: Bind results that a server without StartTLS gives to it (protocolError), and one that agrees.
REFUSES_TLS, AGREES_TO_TLS = (
    b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01" + code + b"\x04\x00\x04\x00" for code in (b"\2", b"\0")
)
BIND_SUCCESS = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00"

# One worker of pytest runs them all, so that they share a directory.
pytestmark = pytest.mark.xdist_group("ldap")

MakeDirectory = Callable[..., Slapd]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    """Give a directory that nobody changes."""
    support.require()
    with Slapd(tmp_path_factory.mktemp("ldap") / "slapd", access=support.OPEN_ACCESS) as running:
        yield running


@pytest.fixture
def make_directory(tmp_path: Path) -> Iterator[MakeDirectory]:
    """Give a function that starts directories that a test has for itself."""
    support.require()
    made: list[Slapd] = []

    def make(**options: Any) -> Slapd:
        running = Slapd(tmp_path / f"slapd{len(made)}", **options)
        made.append(running)
        running.start()
        return running

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pause after a failure."""
    support.require()
    monkeypatch.setattr(outage, "PAUSE", 0.5)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, short_pause: None) -> None:
    """Shorten that pause, and the time that an answer may take."""
    monkeypatch.setattr(ldap_connection, "TIMEOUT", 0.5)
    monkeypatch.setattr(ldap_store, "TIMEOUT", 0.5)


def config(port: int, **changes: Any) -> LDAPConfig:
    """Describe a directory on a port: searched in the clear with the service account."""
    keys: dict[str, Any] = {
        "address": "localhost",
        "port": port,
        "insecure": True,
        "subtree_search": True,
        "bind_dn": support.SERVICE_DN,
        "bind_password": Secret(support.SERVICE_PASSWORD),
        "base_dn": PEOPLE,
        "user_group_attribute": "memberOf",
        **changes,
    }
    return LDAPConfig(**keys)


def store_of(directory: Slapd, **changes: Any) -> LDAPStore:
    return LDAPStore(config(directory.port, **changes))


def direct(directory: Slapd, **changes: Any) -> LDAPStore:
    """Bind as the user at once, without a search."""
    return store_of(directory, subtree_search=False, bind_dn="", bind_password=None, **changes)


def logged_in(store: LDAPStore, user: User, name: str | None = None) -> Identity:
    found = store.verify(name or user.names[0], user.password)
    assert found is not None
    return found


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# who gets in


@pytest.mark.parametrize("key", ONLY_ONES)
def test_search_and_bind(directory: Slapd, key: str) -> None:
    store = store_of(directory)
    found = logged_in(store, USERS[key])
    assert (found.name, found.scheme, found.grants) == (USERS[key].names[0], "ldap", None)
    assert found.groups == {name for group in USERS[key].groups for name in (group, group_dn(group))}
    for wrong in ("wrong", USERS[key].password + " ", USERS[key].password[:-1], directory.path.name):
        assert store.verify(USERS[key].names[0], wrong) is None


@pytest.mark.parametrize("key", [key for key in ONLY_ONES if USERS[key].parent == "ou=people"])
def test_direct_bind(directory: Slapd, key: str) -> None:
    store = direct(directory)
    assert logged_in(store, USERS[key]).name == USERS[key].names[0]
    assert store.verify(USERS[key].names[0], "wrong") is None


def test_subtrees_are_searched_only_when_told(directory: Slapd) -> None:
    assert store_of(directory, subtree_search=False).verify("bob", USERS["bob"].password) is None
    assert direct(directory).verify("bob", USERS["bob"].password) is None
    assert logged_in(store_of(directory, subtree_search=False), ALICE)
    assert logged_in(store_of(directory, subtree_search=False), USERS["twin"]).name == "twin"


def test_anonymous_search(directory: Slapd) -> None:
    store = store_of(directory, bind_dn="", bind_password=None)
    found = logged_in(store, USERS["bob"])
    assert found.groups == {"interns", group_dn("interns")}
    assert store.renew("bob", found.credential) == found


@pytest.mark.parametrize("typed", ["alice", "Alice", "ALICE", " alice ", "ａlice"])
@pytest.mark.parametrize("make", [store_of, direct])
def test_one_person_has_one_name(directory: Slapd, typed: str, make: Callable[[Slapd], LDAPStore]) -> None:
    """What the directory takes for the same name comes out in the directory's spelling."""
    found = make(directory).verify(typed, ALICE.password)
    assert found is None or found.name == "alice"
    assert found is not None or "ａ" in typed


def test_an_entry_with_two_names(directory: Slapd) -> None:
    store = store_of(directory)
    assert logged_in(store, USERS["carol"], "Caroline").name == "caroline"
    assert logged_in(store, USERS["carol"]).name == "carol"


def test_a_name_that_two_entries_have_is_nobodys(directory: Slapd, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(directory)
    assert store.verify("twin", "first") is None
    assert store.verify("twin", "second") is None
    assert "more than one entry" in caplog.text


def test_user_filter(directory: Slapd) -> None:
    for make in (store_of, direct):
        store = make(directory, user_filter=f"(memberOf={group_dn('developers')})")
        assert logged_in(store, ALICE)
        assert store.verify("carol", USERS["carol"].password) is None


def test_an_account_locked_by_hand_is_refused(directory: Slapd) -> None:
    assert store_of(directory).verify("locked", "locked") is None


# groups


def test_groups_of_plain_text(directory: Slapd) -> None:
    assert logged_in(store_of(directory, user_group_attribute="departmentNumber"), ALICE).groups == {"red", "blue"}


def test_no_groups_unless_told_where(directory: Slapd) -> None:
    assert logged_in(store_of(directory, user_group_attribute=""), ALICE).groups == frozenset()


def test_groups_by_direct_bind(directory: Slapd) -> None:
    assert "developers" in logged_in(direct(directory), ALICE).groups


def test_thousands_of_groups(make_directory: MakeDirectory) -> None:
    """An answer of more than what sockets hold arrives whole, through TLS too."""
    running = make_directory()
    groups = [f"{number:05}-{'x' * 100}" for number in range(6000)]
    running.modify(ALICE, "departmentNumber", groups)
    for changes in ({}, {"start_tls": True, "ca_cert": str(running.ca_file)}):
        store = store_of(running, user_group_attribute="departmentNumber", **changes)
        assert logged_in(store, ALICE).groups == set(groups)


def test_what_looks_like_a_dn_and_is_none(make_directory: MakeDirectory) -> None:
    running = make_directory()
    values = ["cn=", "cn=\\ff,dc=x", "ou=cooks,cn=kitchen", "cn=a+cn=b", "=", "CN=Team A,OU=Groups,DC=x", "ünïcödé"]
    running.modify(ALICE, "departmentNumber", values)
    groups = logged_in(store_of(running, user_group_attribute="departmentNumber"), ALICE).groups
    assert groups - set(values) <= {"Team A", "a", "b"}
    assert {"Team A", "ünïcödé"} <= groups
    assert "kitchen" not in groups


# hostile names and passwords

HOSTILE = [
    "*",
    "a*",
    "alice*",
    "alice)(uid=*",
    "*)(|(uid=*",
    "alice)(|(uid=*)",
    "*))(|(uid=*",
    "alice\0",
    "\0",
    "alice\\",
    "\\61lice",
    "\\2a",
    "#alice",
    "alice,ou=people,dc=example,dc=org",
    "alice+cn=alice",
    "bob,ou=interns",
    "alice\nbob",
    "alice/../bob",
    "uid=alice",
    "%00alice",
    "\udcffalice",
    "\ud800",
    "é" * 3000,
    "a" * 100_000,
    "(" * 4000,
    "\\" * 4000,
    " ",
    "",
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:20]))
@pytest.mark.parametrize("make", [store_of, direct])
def test_a_name_is_never_part_of_a_query(directory: Slapd, name: str, make: Callable[[Slapd], LDAPStore]) -> None:
    """No name finds somebody else's entry, and none is a failure of the directory."""
    store = make(directory)
    for user in (ALICE, USERS["bob"], USERS["carol"]):
        assert store.verify(name, user.password) is None
    assert logged_in(store, ALICE), "the store must be as before"


@pytest.mark.parametrize("password", ["", "\0", "\0wonderland", "wonderland\0", "\udcff", "w" * 100_000, "*", " "])
@pytest.mark.parametrize("make", [store_of, direct])
def test_hostile_passwords(directory: Slapd, password: str, make: Callable[[Slapd], LDAPStore]) -> None:
    store = make(directory)
    assert store.verify("alice", password) is None
    assert logged_in(store, ALICE)


@pytest.mark.parametrize(("user", "password"), [("alice", ""), ("", "x"), ("", ""), ("alice", "\0"), ("a\0", "x")])
def test_what_binds_anonymously_is_not_even_sent(user: str, password: str) -> None:
    support.require()
    with HangingServer() as server:
        assert LDAPStore(config(server.port)).verify(user, password) is None
        assert server.heard == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(), max_size=40), password=st.text(st.characters(), max_size=20))
def test_any_name_and_password(directory: Slapd, name: str, password: str) -> None:
    for make in (store_of, direct):
        assert make(directory).verify(name, password) is None


def test_an_unknown_user_takes_as_long_as_a_wrong_password(directory: Slapd) -> None:
    """Its hash takes the server long; a name that nobody has has none."""
    store = store_of(directory)

    def seconds(name: str) -> float:
        began = time.monotonic()
        assert store.verify(name, "wrong") is None
        return time.monotonic() - began

    wrong = min(seconds("tortoise") for _ in range(3))
    assert min(seconds("nobody"), seconds("twin")) > wrong / 2
    assert direct(directory).verify("tortoise", "wrong") is None


# TLS


@pytest.mark.parametrize("kind", ["ldaps", "starttls"])
@pytest.mark.parametrize("address", ["localhost", "127.0.0.1"])
def test_tls(directory: Slapd, kind: str, address: str) -> None:
    store = LDAPStore(tls_config(directory, kind, address=address))
    assert logged_in(store, ALICE)
    assert store.verify("alice", "wrong") is None


def tls_config(directory: Slapd, kind: str, **changes: Any) -> LDAPConfig:
    keys = {"insecure": False, "start_tls": kind == "starttls", "ca_cert": str(directory.ca_file), **changes}
    return config(directory.port if kind == "starttls" else directory.tls_port, **keys)


@pytest.mark.parametrize("kind", ["ldaps", "starttls"])
def test_a_certificate_of_an_unknown_authority(
    directory: Slapd, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    support.write_certificates(tmp_path, ["localhost"])
    before = directory.log().count(" BIND dn=")
    for authority in (str(tmp_path / "ca.pem"), None):
        with pytest.raises(StoreUnavailable):
            LDAPStore(tls_config(directory, kind, ca_cert=authority)).verify("alice", "wonderland")
    assert "the certificate cannot be trusted" in caplog.text
    assert directory.log().count(" BIND dn=") == before, "no password may have been sent"
    assert logged_in(LDAPStore(tls_config(directory, kind, ca_cert=None, skip_verify=True)), ALICE)


@pytest.mark.parametrize("kind", ["ldaps", "starttls"])
def test_a_certificate_of_another_host(make_directory: MakeDirectory, kind: str) -> None:
    running = make_directory(names=["ldap.example.org"])
    with pytest.raises(StoreUnavailable):
        LDAPStore(tls_config(running, kind)).verify("alice", "wonderland")
    assert logged_in(LDAPStore(tls_config(running, kind, skip_verify=True)), ALICE)


def test_start_tls_is_asked_for_whatever_insecure_says(directory: Slapd, tmp_path: Path) -> None:
    """What zot calls insecure is no ldaps: with startTLS nothing goes in the clear all the same."""
    support.write_certificates(tmp_path, ["localhost"])
    with pytest.raises(StoreUnavailable):
        store_of(directory, start_tls=True, ca_cert=str(tmp_path / "ca.pem")).verify("alice", "wonderland")
    assert logged_in(store_of(directory, start_tls=True, ca_cert=str(directory.ca_file)), ALICE)


def test_the_file_of_authorities_may_change(directory: Slapd, tmp_path: Path, short_pause: None) -> None:
    support.write_certificates(tmp_path, ["localhost"])
    authorities = tmp_path / "ca.pem"
    store = LDAPStore(tls_config(directory, "ldaps", ca_cert=str(authorities)))
    with pytest.raises(StoreUnavailable):
        store.verify("alice", "wonderland")
    authorities.write_bytes(directory.ca_file.read_bytes())
    wait_until_available(store)
    authorities.write_text("nothing")
    assert logged_in(store, ALICE), "what it said before stays in force"


@pytest.mark.parametrize(
    "says",
    [
        REFUSES_TLS,
        AGREES_TO_TLS,
        AGREES_TO_TLS + BIND_SUCCESS * 3,
        BIND_SUCCESS,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x00",
        b"\x30\x04\x02\x01\x01\x78",
        b"\x30\x05\x02\x01\x01\x78\xff",
        b"\x30",
    ],
)
@pytest.mark.parametrize("kind", ["ldaps", "starttls"])
@pytest.mark.parametrize("then_close", [True, False])
@pytest.mark.usefixtures("impatient")
def test_no_password_is_sent_without_tls(says: bytes, kind: str, then_close: bool) -> None:
    """Neither a server that refuses TLS nor somebody between who answers for it gets to see one."""
    with HangingServer(says, then_close=then_close) as server:
        store = LDAPStore(config(server.port, insecure=False, start_tls=kind == "starttls"))
        with pytest.raises(StoreUnavailable):
            store.verify("alice", "wonderland")
    assert len(server.heard) == 1
    assert b"wonderland" not in server.heard[0]
    assert support.SERVICE_PASSWORD.encode() not in server.heard[0]


# what goes wrong


@pytest.mark.parametrize(
    "says",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x30\x84\xff\xff\xff\xff", b"\x30", BIND_SUCCESS[:8], BIND_SUCCESS],
)
@pytest.mark.parametrize("then_close", [True, False])
@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_not_what_it_should_be(says: bytes, then_close: bool) -> None:
    with HangingServer(says, then_close=then_close) as server:
        store = LDAPStore(config(server.port))
        with pytest.raises(StoreUnavailable):
            store.verify("alice", "wonderland")
        with pytest.raises(StoreUnavailable):
            store.renew("alice", "credential")
        assert len(server.heard) == 1, "the second is refused without asking"


def test_nobody_is_asked_in_place_of_a_server_that_hung_up(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libldap would connect again by itself, in the clear."""
    monkeypatch.setenv("LDAPURI", "ldap://127.0.0.1:1")
    with HangingServer(BIND_SUCCESS, then_close=True) as server:
        with pytest.raises(StoreUnavailable):
            LDAPStore(config(server.port)).verify("alice", "wonderland")
        assert len(server.heard) == 1


@pytest.mark.parametrize("kind", ["ldap", "ldaps", "starttls"])
def test_a_hanging_server_does_not_take_all_threads(impatient: None, kind: str) -> None:
    """Few wait for it at once, none for long, and after that nobody does for a while."""
    with HangingServer() as server, ThreadPoolExecutor(60) as pool:
        store = LDAPStore(config(server.port, insecure=kind == "ldap", start_tls=kind == "starttls"))
        errors = list(pool.map(lambda number: outcome(store, f"user{number}"), range(60)))
        assert len(server.heard) <= 20, "those who waited together, and whoever tried again"
        assert all(isinstance(error, StoreUnavailable) and error.retry_after >= 1 for error in errors)
    assert not [thread for thread in threading.enumerate() if thread.name == "ldap-relay"]


def outcome(store: LDAPStore, name: str) -> Identity | StoreUnavailable | None:
    try:
        return store.verify(name, "wonderland")
    except StoreUnavailable as error:
        return error


def wait_until_available(store: LDAPStore) -> Identity:
    """Log in as alice as soon as the directory can be asked again."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = outcome(store, "alice")
        if isinstance(found, Identity):
            return found
        time.sleep(0.05)
    pytest.fail("it does not get available again")


def test_dead_and_back(make_directory: MakeDirectory, short_pause: None, caplog: pytest.LogCaptureFixture) -> None:
    """An outage is two lines in the log, however many notice it, and no word of what was sent."""
    running = make_directory()
    store = store_of(running)
    assert logged_in(store, ALICE)
    running.stop()
    for _ in range(5):
        for _ in range(3):
            assert isinstance(outcome(store, "alice"), StoreUnavailable)
        time.sleep(0.2)
    running.start()
    assert wait_until_available(store).name == "alice"
    lines = [record.getMessage() for record in caplog.records if record.name == "registry.auth.outage"]
    assert [line.split(": ")[0] for line in lines] == [
        f"the LDAP server localhost:{running.port}",
        f"the LDAP server localhost:{running.port} works again",
    ]
    assert "refused" in lines[0]
    assert "wonderland" not in caplog.text


def test_frozen_and_thawed(make_directory: MakeDirectory, impatient: None) -> None:
    running = make_directory()
    store = store_of(running)
    running.freeze()
    assert isinstance(outcome(store, "alice"), StoreUnavailable)
    running.thaw()
    assert wait_until_available(store)


def test_one_tries_while_it_is_out(impatient: None) -> None:
    """When the pause is over not everybody runs into it again."""
    with HangingServer() as server:
        store = LDAPStore(config(server.port))
        assert isinstance(outcome(store, "first"), StoreUnavailable)
        time.sleep(0.6)
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda number: outcome(store, f"user{number}"), range(20)))
        assert 2 <= len(server.heard) <= 5


def test_nothing_listens(caplog: pytest.LogCaptureFixture) -> None:
    support.require()
    store = LDAPStore(config(free_port()))
    with pytest.raises(StoreUnavailable) as caught:
        store.verify("alice", "wonderland")
    assert 1 <= caught.value.retry_after <= 10
    assert "localhost" not in caught.value.message, "clients need not know where users are kept"


def test_an_unknown_host() -> None:
    support.require()
    with pytest.raises(StoreUnavailable):
        LDAPStore(config(389, address="ldap.invalid")).verify("alice", "wonderland")


def test_a_wrong_service_password(directory: Slapd, caplog: pytest.LogCaptureFixture) -> None:
    """It is not the user's fault, and tried rarely: it would get the account locked."""
    store = store_of(directory, bind_password=Secret("not the secret"))
    with pytest.raises(StoreUnavailable) as caught:
        store.verify("alice", "wonderland")
    assert caught.value.retry_after > 10
    before = directory.log().count(" BIND dn=")
    assert isinstance(outcome(store, "alice"), StoreUnavailable)
    assert directory.log().count(" BIND dn=") == before
    assert "the service account cn=registry,dc=example,dc=org is refused: Invalid credentials" in caplog.text
    assert "not the secret" not in caplog.text


def test_anonymous_search_that_is_forbidden(make_directory: MakeDirectory) -> None:
    running = make_directory(directives=["require authc"])
    with pytest.raises(StoreUnavailable):
        store_of(running, bind_dn="", bind_password=None).verify("alice", "wonderland")


def test_a_base_that_is_not_there(directory: Slapd, caplog: pytest.LogCaptureFixture) -> None:
    """That is logged once, and each time it is asked anew: it may be there soon."""
    store = store_of(directory, base_dn=f"ou=nowhere,{BASE}")
    for _ in range(3):
        before = directory.log().count("SRCH base")
        assert isinstance(outcome(store, "alice"), StoreUnavailable)
        assert directory.log().count("SRCH base") == before + 1
    assert caplog.text.count("No such object") == 1


def test_a_server_that_wants_tls(make_directory: MakeDirectory, caplog: pytest.LogCaptureFixture) -> None:
    running = make_directory(directives=["security simple_bind=128"])
    with pytest.raises(StoreUnavailable):
        store_of(running).verify("alice", "wonderland")
    with pytest.raises(StoreUnavailable):
        direct(running).verify("alice", "wonderland")
    assert "Confidentiality required" in caplog.text
    assert logged_in(LDAPStore(tls_config(running, "starttls")), ALICE)


def test_users_who_may_not_read_their_own_entry(
    make_directory: MakeDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it their name's spelling is not known, nor whether userFilter lets them in."""
    running = make_directory(access=["to * by anonymous auth by * none"])
    assert direct(running).verify("alice", "wonderland") is None
    assert "may not read" in caplog.text


def test_it_leaves_nothing_open(directory: Slapd) -> None:
    stores = [
        store_of(directory),
        LDAPStore(tls_config(directory, "ldaps")),
        LDAPStore(tls_config(directory, "starttls")),
    ]
    for store in stores:
        logged_in(store, ALICE)
    before = open_descriptors()
    for _ in range(10):
        for store in stores:
            logged_in(store, ALICE)
            assert store.verify("alice", "wrong") is None
    assert open_descriptors() <= before
    assert not [thread for thread in threading.enumerate() if thread.name == "ldap-relay"]


def test_many_at_once_are_not_confused(directory: Slapd) -> None:
    stores = [store_of(directory), LDAPStore(tls_config(directory, "starttls"))]
    keys = [key for key in ONLY_ONES if key != "tortoise"] * 20

    def log_in(number: int) -> bool:
        user, store = USERS[keys[number]], stores[number % 2]
        return logged_in(store, user).name == user.names[0] and store.verify(user.names[0], "wrong") is None

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(log_in, range(len(keys))))


# is somebody still there?


def test_renew(make_directory: MakeDirectory) -> None:
    running = make_directory()
    store = store_of(running)
    first = logged_in(store, ALICE)
    assert store.renew("alice", first.credential) == first
    assert store.renew("alice", "something else") is None
    assert store.renew("alice", "") is None
    assert store.renew("Alice", first.credential) is None
    assert store.renew("carol", first.credential) is None
    assert store.renew("nobody", first.credential) is None
    assert store.renew("a*", first.credential) is None


def test_a_changed_password_ends_what_it_began(make_directory: MakeDirectory) -> None:
    running = make_directory()
    store = store_of(running)
    first = logged_in(store, ALICE)
    running.set_password(ALICE, "looking glass")
    assert store.verify("alice", "wonderland") is None
    assert store.renew("alice", first.credential) is None
    again = store.verify("alice", "looking glass")
    assert again is not None
    assert store.renew("alice", again.credential) == again


def test_other_changes_end_nothing_where_the_directory_tells(make_directory: MakeDirectory) -> None:
    running = make_directory()
    store = store_of(running, user_group_attribute="departmentNumber")
    running.set_password(ALICE, "looking glass")
    first = store.verify("alice", "looking glass")
    assert first is not None
    running.modify(ALICE, "departmentNumber", ["green"])
    renewed = store.renew("alice", first.credential)
    assert renewed is not None
    assert renewed.groups == {"green"}


def test_any_change_ends_it_where_the_directory_keeps_no_time_of_the_password(make_directory: MakeDirectory) -> None:
    running = make_directory(policy=False)
    store = store_of(running)
    first = logged_in(store, ALICE)
    assert store.renew("alice", first.credential) == first
    time.sleep(1.1)  # the directory's times are whole seconds
    running.set_password(ALICE, "looking glass")
    assert store.renew("alice", first.credential) is None


def test_nothing_is_renewed_where_the_directory_hides_it(make_directory: MakeDirectory) -> None:
    shown = "to attrs=entry,uid by * read"
    running = make_directory(access=[support.OPEN_ACCESS[0], shown, "to attrs=objectClass by * read", "to * by * none"])
    store = store_of(running)
    first = logged_in(store, ALICE)
    assert first.credential == ""
    assert store.renew("alice", first.credential) is None


def test_deleted_and_made_anew(make_directory: MakeDirectory) -> None:
    running = make_directory()
    store = store_of(running)
    first = logged_in(store, USERS["carol"])
    running.delete(USERS["carol"])
    assert store.renew("carol", first.credential) is None
    assert store.verify("carol", USERS["carol"].password) is None
    running.add(USERS["carol"])
    assert logged_in(store, USERS["carol"])
    assert store.renew("carol", first.credential) is None


def test_no_renewal_without_a_search(directory: Slapd) -> None:
    store = direct(directory)
    first = logged_in(store, ALICE)
    assert first.credential == ""
    assert store.renew("alice", "anything") is None


@pytest.mark.parametrize(
    ("attribute", "locked", "free"),
    [
        ("userAccountControl", "514", "512"),
        ("nsAccountLock", "TRUE", "FALSE"),
        ("pwdAccountLockedTime", "000001010000Z", ""),
    ],
)
def test_a_locked_account_is_not_renewed(make_directory: MakeDirectory, attribute: str, locked: str, free: str) -> None:
    running = make_directory()
    store = store_of(running)
    running.modify(ALICE, "pwdLastSet", ["133713371337"])
    first = logged_in(store, ALICE)
    running.modify(ALICE, attribute, [locked])
    assert store.renew("alice", first.credential) is None
    running.modify(ALICE, attribute, [free] if free else [])
    assert store.renew("alice", first.credential) == first


def test_active_directorys_attributes(make_directory: MakeDirectory) -> None:
    running = make_directory()
    running.modify(ALICE, "sAMAccountName", ["Alice.Liddell"])
    running.modify(ALICE, "pwdLastSet", ["133713371337"])
    store = store_of(running, user_attribute="sAMAccountName")
    first = logged_in(store, ALICE, "alice.liddell")
    assert first.name == "Alice.Liddell"
    running.modify(ALICE, "pwdLastSet", ["133713371338"])
    assert store.renew("Alice.Liddell", first.credential) is None


def test_version_is_constant(directory: Slapd) -> None:
    store = store_of(directory)
    before = store.version()
    logged_in(store, ALICE)
    assert store.version() == before


# the start


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ldap", None)
    with pytest.raises(LDAPMissing, match=r"pip install 'pierhead\[ldap\]'"):
        LDAPStore(config(389))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"user_filter": "(&(a=b)"}, "userFilter"),
        ({"user_filter": "(a=b))(c=d"}, "userFilter"),
        ({"user_filter": "(nonsense)"}, "userFilter"),
        ({"base_dn": "example.org"}, "baseDN"),
        ({"base_dn": "user@example.org"}, "baseDN"),
        ({"bind_dn": "registry"}, "bindDN"),
        ({"bind_password": None}, "bindPassword"),
        ({"bind_password": Secret("")}, "bindPassword"),
        ({"ca_cert": __file__}, "certificates"),
        ({"ca_cert": "/dev/null"}, "certificates"),
        ({"ca_cert": "/nonexistent"}, "No such file"),
        ({"address": f"{'a' * 64}.example.org"}, "label"),
    ],
)
def test_a_configuration_that_can_never_work(changes: dict[str, Any], problem: str) -> None:
    support.require()
    with pytest.raises(ValueError, match=problem) as caught:
        LDAPStore(config(389, insecure=False, **changes))
    assert support.SERVICE_PASSWORD not in str(caught.value)


@pytest.mark.parametrize("account", ["registry@example.org", "EXAMPLE\\registry", support.SERVICE_DN])
def test_names_of_service_accounts(account: str) -> None:
    support.require()
    assert LDAPStore(config(389, bind_dn=account, user_filter="(&(a=b)(!(c:1.2.840.113556.1.4.803:=2)))"))


def test_nothing_secret_is_shown(directory: Slapd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = store_of(directory)
    for name in ("alice", "nobody", "twin"):
        store.verify(name, "wonderland")
    shown = caplog.text + repr(store) + repr(vars(store))
    assert "wonderland" not in shown
    assert support.SERVICE_PASSWORD not in shown


def test_hanging_server_hears() -> None:
    """The support itself: what tests conclude from `heard` is right."""
    with HangingServer(b"hello") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(b"question")
            assert connection.recv(100) == b"hello"
        assert server.heard == [b"question"]
