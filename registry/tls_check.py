"""What is wrong with the files of `http.tls`, in words for whoever made them: for `verify`, and for the start."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from registry.config_auth import TLSConfig
from registry.tls import make_context

_SOON_DAYS = 14


@dataclass(frozen=True, slots=True)
class Finding:
    """Tell what is wrong with a file: `path` is the key that names it; what is not fatal can be served with."""

    path: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        """Give the finding as a line for a person."""
        return f"{self.path}: {self.message}"


class _Wrong(Exception):
    """Carry the message about a file of which nothing more can be said."""


def check(tls: TLSConfig) -> list[Finding]:
    """Return everything that is wrong, fatal or worth a warning."""
    findings: list[Finding] = []
    chain: list[x509.Certificate] = []
    public: bytes | None = None
    try:
        chain = _certificates(tls.cert)
    except _Wrong as error:
        findings.append(Finding("http.tls.cert", str(error)))
    try:
        public = _public_key(tls.key)
    except _Wrong as error:
        findings.append(Finding("http.tls.key", str(error)))
    if chain and public is not None:
        findings.extend(_about_pair(tls, chain[0], public))
    if chain:
        findings.extend(_about_certificate(tls.cert, chain[0]))
    if public is not None:
        findings.extend(_about_permissions(tls.key))
    if tls.ca_cert is not None:
        findings.extend(_about_authorities(tls.ca_cert))
    if not any(finding.fatal for finding in findings):
        findings.extend(_about_context(tls))
    return findings


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _Wrong(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error


def _certificates(path: str) -> list[x509.Certificate]:
    data = _read(path)
    if b"-----BEGIN" not in data:
        raise _Wrong(f'{path} is not in PEM: expected "-----BEGIN CERTIFICATE-----"')
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise _Wrong(f"{path} holds no certificate that can be read") from error


def _public_key(path: str) -> bytes:
    """Return the public half of the key in a file, in a form that compares."""
    data = _read(path)
    if b"-----BEGIN" not in data:
        raise _Wrong(f'{path} is not in PEM: expected "-----BEGIN PRIVATE KEY-----"')
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError as error:
        raise _Wrong(f"{path} is encrypted, and nobody is there to type its passphrase: store it without") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _Wrong(f"{path} holds no private key that can be read") from error
    return _comparable(key.public_key())


def _comparable(key: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    data: bytes = key.public_bytes(serialization.Encoding.DER, form)  # type: ignore[attr-defined]
    return data


def _about_pair(tls: TLSConfig, certificate: x509.Certificate, public: bytes) -> Iterator[Finding]:
    if _comparable(certificate.public_key()) != public:
        yield Finding("http.tls.key", f"{tls.key} is not the key of the first certificate in {tls.cert}")


def _about_certificate(path: str, certificate: x509.Certificate) -> Iterator[Finding]:
    yield from _about_dates("http.tls.cert", path, certificate)
    try:
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        yield Finding(
            "http.tls.cert",
            f"{path} has no subject alternative name: docker and others do not look for the host anywhere else",
            fatal=False,
        )


def _about_dates(key: str, path: str, certificate: x509.Certificate) -> Iterator[Finding]:
    now = datetime.now(UTC)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        yield Finding(key, f"{path} is not valid before {begins:%Y-%m-%d %H:%M} UTC", fatal=False)
    elif now > ends:
        yield Finding(key, f"{path} expired on {ends:%Y-%m-%d %H:%M} UTC", fatal=False)
    elif (ends - now).days < _SOON_DAYS and (ends - now) < (ends - begins) / 3:
        yield Finding(key, f"{path} expires on {ends:%Y-%m-%d %H:%M} UTC", fatal=False)


def _about_permissions(path: str) -> Iterator[Finding]:
    with suppress(OSError):
        if os.stat(path).st_mode & stat.S_IROTH:
            yield Finding("http.tls.key", f"{path} can be read by every user of this machine", fatal=False)


def _about_authorities(path: str) -> Iterator[Finding]:
    try:
        authorities = _certificates(path)
    except _Wrong as error:
        yield Finding("http.tls.cacert", str(error))
        return
    for authority in authorities:
        yield from _about_dates("http.tls.cacert", path, authority)


def _about_context(tls: TLSConfig) -> Iterator[Finding]:
    """Ask OpenSSL itself, which also refuses what is too weak."""
    try:
        make_context(tls, "none")
    except (OSError, ValueError) as error:
        yield Finding("http.tls", str(error))
