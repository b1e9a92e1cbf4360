"""Certificate authorities, and the certificates that they sign, made for a test and good for an hour."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(hours=1)
#: What an authority's certificate is for. Python 3.13 verifies strictly: it wants this, and the identifiers below.
_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Pair:
    """Hold a certificate and its key as files, in PEM."""

    cert: Path
    key: Path

    @property
    def files(self) -> tuple[str, str]:
        """Give both paths, as `requests` and `ssl` want them."""
        return str(self.cert), str(self.key)

    def copy_to(self, other: Pair) -> None:
        """Put this one in the place of another, as tools do: one file after the other."""
        other.cert.write_bytes(self.cert.read_bytes())
        other.key.write_bytes(self.key.read_bytes())


class Authority:
    """Sign certificates; its own is the file `cert`."""

    def __init__(self, directory: Path, name: str = "Test CA", signed_by: Authority | None = None) -> None:
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        issuer = signed_by or self
        builder = issuer._begin(self.name, self._key, datetime.now(UTC), LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        self.certificate = builder.add_extension(_SIGNS, critical=True).sign(issuer._key, hashes.SHA256())
        self.cert = _write(directory / f"{name}.crt", self.certificate.public_bytes(serialization.Encoding.PEM))

    @classmethod
    def in_new(cls, directory: Path, name: str = "Test CA") -> Self:
        """Make one with a directory of its own."""
        directory.mkdir(parents=True)
        return cls(directory, name)

    def server(
        self,
        name: str = "server",
        *,
        hosts: Iterable[str] = ("localhost", "127.0.0.1"),
        begins: timedelta = timedelta(),
    ) -> Pair:
        """Make a server's certificate for these hosts; one that `begins` long ago has expired."""
        names = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        addresses = [_host(host) for host in hosts]
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue(name, subject=names, alternatives=addresses, usage=usage, begins=begins)

    def client(
        self,
        name: str,
        *,
        common_names: Iterable[str] | None = None,
        alternatives: Iterable[x509.GeneralName] = (),
        begins: timedelta = timedelta(),
        lifetime: timedelta = LIFETIME,
    ) -> Pair:
        """Make a client's certificate; `name` is the common name, too, unless others are given."""
        given = (name,) if common_names is None else common_names
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name) for common_name in given]
        return self._issue(
            name,
            subject=subject,
            alternatives=list(alternatives),
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
            begins=begins,
            lifetime=lifetime,
        )

    def _issue(  # noqa: PLR0913
        self,
        name: str,
        *,
        subject: list[x509.NameAttribute[str]],
        alternatives: list[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        begins: timedelta,
        lifetime: timedelta = LIFETIME,
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._begin(x509.Name(subject), key, datetime.now(UTC) + begins, lifetime)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=not subject)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Pair(
            _write(self.directory / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM)),
            _write(self.directory / f"{name}.key", private_pem(key)),
        )

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins - timedelta(minutes=5))
            .not_valid_after(begins + lifetime)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def private_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """Return a key in PEM, encrypted if there is a passphrase."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def trusting(authority: Authority, client: Pair | None = None) -> ssl.SSLContext:
    """Return what a client needs that trusts an authority, and shows a certificate if it has one."""
    context = ssl.create_default_context(cafile=str(authority.cert))
    if client is not None:
        context.load_cert_chain(*client.files)
    return context


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path
