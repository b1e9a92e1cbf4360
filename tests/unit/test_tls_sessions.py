"""Sessions of TLS: whoever is asked for a certificate shows it each time, no cut connection passes for an end."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from registry import tls
from registry.config_auth import TLSConfig
from registry.tls import ClientCertificates, make_context
from tests.support.certificates import Authority, trusting

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def context_of(authority: Authority, certificates: ClientCertificates) -> ssl.SSLContext:
    return make_context(TLSConfig(*authority.server().files, str(authority.cert)), certificates)


class Pair:
    """A client and a server that talk in memory."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        """Shake hands."""
        self.to_client, self.to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname="localhost", session=session)
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)
        for side in (self.client, self.server, self.client, self.server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        self.server.write(b"hello")  # what is sent with it, such as tickets, is read with it
        assert self.client.read() == b"hello"


@VERSIONS
@pytest.mark.parametrize("certificates", ["optional", "required"])
def test_no_ticket_stands_for_a_certificate(
    authority: Authority, version: ssl.TLSVersion, certificates: ClientCertificates
) -> None:
    """A ticket would be good after the certificate has expired, and in workers that never saw it."""
    server, client = context_of(authority, certificates), trusting(authority)
    client.minimum_version = client.maximum_version = version
    client.load_cert_chain(*authority.client("alice").files)
    first = Pair(client, server)
    assert first.server.getpeercert()
    assert first.client.session is None or not first.client.session.has_ticket
    again = Pair(client, context_of(authority, certificates), first.client.session)
    assert not again.client.session_reused


def test_another_authority_alone_is_noticed(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose clients are no longer trusted is out though the registry's own certificate stays."""
    monkeypatch.setattr(tls, "_CHECK_SECONDS", 0.0)
    config = TLSConfig(*authority.server().files, str(authority.cert))
    for path in (config.cert, config.key, authority.cert):
        os.utime(path, ns=(10**18, 10**18))
    monkeypatch.setattr(tls, "_PATIENCE_NS", 0)
    contexts = tls.Contexts(config, "required")
    assert _names(contexts.get()) == {"CN=Test CA"}
    authority.cert.write_bytes(Authority.in_new(tmp_path / "other", "Other CA").cert.read_bytes())
    assert _names(contexts.get()) == {"CN=Other CA"}


def _names(context: ssl.SSLContext) -> set[str]:
    """Return the names of the authorities whose clients are let in."""
    found = context.get_ca_certs(binary_form=True)
    return {x509.load_der_x509_certificate(data).subject.rfc4514_string() for data in found}


@VERSIONS
def test_a_connection_that_is_cut_has_not_ended(authority: Authority, version: ssl.TLSVersion) -> None:
    client = trusting(authority)
    client.minimum_version = client.maximum_version = version
    server = context_of(authority, "none")
    assert not server.options & ssl.OP_IGNORE_UNEXPECTED_EOF  # which Python sets, and sockets go by
    pair = Pair(client, server)
    pair.client.write(b"half")
    assert pair.server.read() == b"half"
    pair.to_server.write_eof()
    with pytest.raises(ssl.SSLError, match=r"(?i)eof"):  # an SSLEOFError since Python 3.11.3
        pair.server.read()
