"""How connections are encrypted: the settings of TLS, and certificates that are read again when their files change."""

from __future__ import annotations

import logging
import os
import ssl
import time
from functools import cache
from typing import TYPE_CHECKING, Literal, NoReturn

from registry.auth.policy import AccessControl
from registry.config_auth import TLSConfig

if TYPE_CHECKING:
    from registry.config import HTTPConfig

log = logging.getLogger(__name__)

ClientCertificates = Literal["none", "optional", "required"]

#: For TLS 1.2; those of 1.3 are all as good. Every one has forward secrecy and authenticates what it encrypts.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

_CHECK_SECONDS = 1.0
#: How long after a change files that do not fit each other may be about to: they are replaced one after the other.
_PATIENCE_NS = 2_000_000_000

_Stamp = tuple[int, int, int, int]


def client_certificates(http: HTTPConfig) -> ClientCertificates:
    """Tell whether clients are asked for a certificate, and whether one without is served.

    It is, as by zot, where there is another way to say who one is, or something for those who do not.
    """
    if http.tls is None or http.tls.ca_cert is None:
        return "none"
    if http.auth.has_schemes or _serves_anonymous(http.access_control):
        return "optional"
    return "required"


def _serves_anonymous(rules: AccessControl | None) -> bool:
    return rules is not None and any(entry.anonymous_policy for entry in rules.repositories.values())


def make_context(tls: TLSConfig, certificates: ClientCertificates) -> ssl.SSLContext:
    """Return what servers encrypt with; raise OSError or ValueError, which name the file, if it is no good."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Python would take a connection that was cut for one that was closed.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    _load_pair(context, tls)
    if tls.ca_cert is not None:
        _load_authorities(context, tls.ca_cert)
    _ask_clients(context, certificates)
    return context


def _ask_clients(context: ssl.SSLContext, certificates: ClientCertificates) -> None:
    context.verify_mode = _VERIFY[certificates]
    if certificates == "none":
        return
    # An authority that is itself signed by another is trusted by itself, as Go's servers do.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # A client that takes up an earlier session is not verified again.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _load_pair(context: ssl.SSLContext, tls: TLSConfig) -> None:
    for path in (tls.cert, tls.key):
        _check_readable(path)
    try:
        context.load_cert_chain(tls.cert, tls.key, _no_passphrase)
    except ssl.SSLError as error:
        raise ValueError(f"{tls.cert} and {tls.key} are no pair of certificate and key: {_words(error)}") from error


def _no_passphrase() -> NoReturn:
    raise ValueError("the key is encrypted, and nobody is there to type its passphrase: store it without")


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    _check_readable(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ValueError(f"{path} holds no certificates: {_words(error)}") from error


def _check_readable(path: str) -> None:
    """Raise OSError with the file's name, which OpenSSL's does not have."""
    with open(path, "rb"):  # noqa: PTH123
        pass


def _words(error: ssl.SSLError) -> str:
    return (error.reason or "malformed").replace("_", " ").lower()


class Contexts:
    """What new connections are encrypted with; changed files hold for those that come later.

    What was good stays in force while the files are no good, which is said once for each state of theirs. Used by one
    thread. The arbiter makes it and the workers inherit it, so that one that is started while the files are no good
    still has what was.
    """

    def __init__(self, tls: TLSConfig, certificates: ClientCertificates) -> None:
        """Read the files; raise OSError or ValueError, which name the file, if they are no good."""
        self._tls = tls
        self._certificates = certificates
        self._paths = [path for path in (tls.cert, tls.key, tls.ca_cert) if path is not None]
        self._stamps = self._look()
        self._context = make_context(tls, certificates)
        self._next_look = time.monotonic() + _CHECK_SECONDS
        self._settled = self._is_settled(self._stamps)
        self._news = False

    def get(self) -> ssl.SSLContext:
        """Return what the next connection is to use; the files are looked at once a second at most."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _CHECK_SECONDS
            self._renew()
        return self._context

    def _renew(self) -> None:
        """Read the files if they have changed, or have so lately that they may have again in the same instant."""
        stamps = self._look()
        if stamps == self._stamps and self._settled:
            return
        self._news = self._news or stamps != self._stamps
        self._stamps, self._settled = stamps, self._is_settled(stamps)
        try:
            self._context = make_context(self._tls, self._certificates)
        except (OSError, ValueError) as error:
            if self._settled:
                log.error("http.tls: %s; the certificate that was read before stays in force", error)
        else:
            if self._news:
                log.info("http.tls: the files have changed: new connections get what they say now")
            self._news = False

    def _look(self) -> list[_Stamp | None]:
        return [_stamp(path) for path in self._paths]

    @staticmethod
    def _is_settled(stamps: list[_Stamp | None]) -> bool:
        youngest = max((max(stamp[2], stamp[3]) for stamp in stamps if stamp), default=0)
        return time.time_ns() - youngest > _PATIENCE_NS


def _stamp(path: str) -> _Stamp | None:
    """Return what changes with a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def contexts_of(http: HTTPConfig) -> Contexts | None:
    """Return what all workers of this arbiter encrypt with, since it is the first to ask; None if nothing is to be.

    Raises OSError and ValueError, which name the file, if the files are no good.
    """
    return _contexts(http.tls, client_certificates(http)) if http.tls else None


@cache
def _contexts(tls: TLSConfig, certificates: ClientCertificates) -> Contexts:
    return Contexts(tls, certificates)
