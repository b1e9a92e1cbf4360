"""The settings of TLS: what is wrong with files, when they are read again, who is asked for a certificate."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from registry import tls as tls_module
from registry.auth.identity import Action
from registry.auth.policy import AccessControl, RepositoryRules
from registry.config import HTTPConfig
from registry.config_auth import AuthConfig, BearerConfig, HtpasswdConfig, TLSConfig
from registry.tls import Contexts, client_certificates, contexts_of, make_context
from registry.tls_check import check
from registry.tls_only import TLSOnly
from tests.support.certificates import Authority, Pair, private_pem, trusting


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.server()


def config_of(pair: Pair, ca_cert: Path | None = None) -> TLSConfig:
    return TLSConfig(*pair.files, str(ca_cert) if ca_cert else None)


def shown_by(context: ssl.SSLContext, authority: Authority) -> str:
    """Return the common name of the certificate that a server with this context shows."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(authority).wrap_bio(to_client, to_server, server_hostname="localhost")
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    certificate: dict[str, Any] | None = client.getpeercert()
    assert certificate is not None
    name: str = certificate["subject"][0][0][1]
    return name


# what is wrong with the files


def test_what_is_good_is_not_complained_of(authority: Authority, pair: Pair) -> None:
    assert check(config_of(pair, authority.cert)) == []


Spoil = Callable[[Authority, Pair], Pair]


def unreadable(_: Authority, pair: Pair) -> Pair:
    return Pair(pair.cert, pair.key.with_name("missing"))


def swapped(_: Authority, pair: Pair) -> Pair:
    return Pair(pair.key, pair.cert)


def in_der(_: Authority, pair: Pair) -> Pair:
    pair.cert.write_bytes(ssl.PEM_cert_to_DER_cert(pair.cert.read_text()))
    return pair


def truncated(_: Authority, pair: Pair) -> Pair:
    pair.cert.write_bytes(pair.cert.read_bytes()[:300])
    return pair


def empty(_: Authority, pair: Pair) -> Pair:
    pair.key.write_bytes(b"")
    return pair


def encrypted(_: Authority, pair: Pair) -> Pair:
    pair.key.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"passphrase"))
    return pair


def of_another(authority: Authority, pair: Pair) -> Pair:
    return Pair(pair.cert, authority.server("other").key)


@pytest.mark.parametrize(
    ("spoil", "key", "words"),
    [
        (unreadable, "http.tls.key", "cannot be read: No such file"),
        (swapped, "http.tls.cert", "no certificate"),
        (in_der, "http.tls.cert", "not in PEM"),
        (truncated, "http.tls.cert", "no certificate"),
        (empty, "http.tls.key", "not in PEM"),
        (encrypted, "http.tls.key", "passphrase"),
        (of_another, "http.tls.key", "is not the key of"),
    ],
)
def test_what_nothing_can_be_encrypted_with(
    authority: Authority, pair: Pair, spoil: Spoil, key: str, words: str
) -> None:
    spoiled = config_of(spoil(authority, pair))
    findings = [finding for finding in check(spoiled) if finding.fatal]
    assert findings
    assert findings[0].path == key
    assert words in findings[0].message
    with pytest.raises((OSError, ValueError)) as raised:
        make_context(spoiled, "none")
    secret = pair.key.read_text().splitlines()[1:-1]
    assert not any(line in f"{raised.value}{findings}" for line in secret)


def test_an_authority_that_is_none(pair: Pair) -> None:
    (finding,) = check(config_of(pair, pair.key))
    assert (finding.path, finding.fatal) == ("http.tls.cacert", True)
    with pytest.raises(ValueError, match="no certificates"):
        make_context(config_of(pair, pair.key), "required")


@pytest.mark.parametrize(
    ("begins", "words"), [(timedelta(days=-2), "expired on"), (timedelta(days=2), "is not valid before")]
)
def test_a_date_is_worth_a_warning(authority: Authority, begins: timedelta, words: str) -> None:
    """It can be served with: some clients do not look, and a clock may be wrong."""
    (finding,) = check(config_of(authority.server(begins=begins)))
    assert not finding.fatal
    assert words in finding.message


def test_a_certificate_without_names_is_worth_a_warning(authority: Authority) -> None:
    (finding,) = check(config_of(authority.server(hosts=())))
    assert not finding.fatal
    assert "subject alternative name" in finding.message


def test_a_key_that_all_can_read_is_worth_a_warning(pair: Pair) -> None:
    pair.key.chmod(0o644)
    (finding,) = check(config_of(pair))
    assert not finding.fatal
    assert "every user" in finding.message


# modern defaults


def test_what_is_spoken(pair: Pair) -> None:
    context = make_context(config_of(pair), "none")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    old = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    assert old
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "POLY1305" in name) for name in old)
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF


# certificates that change


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files each time, and take every state of theirs for the last."""
    monkeypatch.setattr(tls_module, "_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(tls_module, "_PATIENCE_NS", -(10**12))


def test_files_are_looked_at_once_a_second(authority: Authority, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = Contexts(config_of(pair), "none")
    before = contexts.get()
    authority.server("renewed").copy_to(pair)
    assert contexts.get() is before
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    assert shown_by(contexts.get(), authority) == "renewed"


@pytest.mark.usefixtures("impatient")
def test_a_pair_that_does_not_fit_heals(authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    contexts = Contexts(config_of(pair), "none")
    renewed = authority.server("renewed")
    pair.cert.write_bytes(renewed.cert.read_bytes())
    assert shown_by(contexts.get(), authority) == "server"
    pair.key.write_bytes(renewed.key.read_bytes())
    assert shown_by(contexts.get(), authority) == "renewed"
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.INFO]


def test_files_in_the_middle_of_a_change_are_no_error(
    authority: Authority, pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second of two files may be about to come; an error is what lasts."""
    monkeypatch.setattr(tls_module, "_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(tls_module, "_PATIENCE_NS", 3600 * 10**9)
    contexts = Contexts(config_of(pair), "none")
    renewed = authority.server("renewed")
    pair.cert.write_bytes(renewed.cert.read_bytes())
    for _ in range(3):
        assert shown_by(contexts.get(), authority) == "server"
    assert not caplog.records
    monkeypatch.setattr(tls_module, "_PATIENCE_NS", -1)
    for _ in range(3):
        contexts.get()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("data", [b"", b"nonsense", None], ids=["empty", "nonsense", "deleted"])
def test_a_broken_file_is_told_once(pair: Pair, data: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    contexts = Contexts(config_of(pair), "none")
    before = contexts.get()
    if data is None:
        pair.cert.unlink()
    else:
        pair.cert.write_bytes(data)
    for _ in range(3):
        assert contexts.get() is before
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert str(pair.cert) in record.getMessage()


@pytest.mark.usefixtures("impatient")
def test_links_that_are_turned_are_followed(authority: Authority, tmp_path: Path) -> None:
    """As certbot and Kubernetes do it."""
    first, second = authority.server("first"), authority.server("second")
    live = Pair(tmp_path / "live.crt", tmp_path / "live.key")
    live.cert.symlink_to(first.cert)
    live.key.symlink_to(first.key)
    contexts = Contexts(config_of(live), "none")
    assert shown_by(contexts.get(), authority) == "first"
    for link, target in ((live.cert, second.cert), (live.key, second.key)):
        fresh = link.with_suffix(".new")
        fresh.symlink_to(target)
        os.replace(fresh, link)
    assert shown_by(contexts.get(), authority) == "second"


@pytest.mark.usefixtures("impatient")
def test_unchanged_files_are_not_read_again(pair: Pair) -> None:
    contexts = Contexts(config_of(pair), "none")
    assert contexts.get() is contexts.get()


# who is asked for a certificate

ANONYMOUS = AccessControl(
    repositories=MappingProxyType({"**": RepositoryRules(anonymous_policy=frozenset({Action.READ}))})
)
NAMED = AccessControl(repositories=MappingProxyType({"**": RepositoryRules(default_policy=frozenset({Action.READ}))}))


@pytest.mark.parametrize(
    ("auth", "rules", "expected"),
    [
        (AuthConfig(), None, "required"),
        (AuthConfig(), NAMED, "required"),
        (AuthConfig(), ANONYMOUS, "optional"),
        (AuthConfig(htpasswd=HtpasswdConfig("/users")), None, "optional"),
        (AuthConfig(apikey=True), NAMED, "optional"),
        (AuthConfig(bearer=BearerConfig("https://auth.test/token", "registry", "/cert")), None, "optional"),
    ],
)
def test_whether_a_certificate_is_required(auth: AuthConfig, rules: AccessControl | None, expected: str) -> None:
    http = HTTPConfig(tls=TLSConfig("cert", "key", "ca"), auth=auth, access_control=rules)
    assert client_certificates(http) == expected
    assert client_certificates(replace(http, tls=TLSConfig("cert", "key"))) == "none"
    assert client_certificates(replace(http, tls=None)) == "none"


def test_workers_share_what_they_encrypt_with(pair: Pair) -> None:
    http = HTTPConfig(tls=config_of(pair))
    assert contexts_of(http) is contexts_of(http)
    assert contexts_of(replace(http, tls=None)) is None


# a server that does not know


@pytest.mark.parametrize(("scheme", "status"), [("http", "400 Bad Request"), ("https", "200 OK")])
def test_what_came_in_clear_is_refused(scheme: str, status: str, caplog: pytest.LogCaptureFixture) -> None:
    answers = []

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    guarded = TLSOnly(app)
    for _ in range(2):
        parts = list(guarded({"wsgi.url_scheme": scheme}, lambda status, _headers: answers.append(status)))  # type: ignore[arg-type]
    assert answers == [status] * 2
    if scheme == "http":
        assert b"registry.worker.Worker" in parts[0]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
