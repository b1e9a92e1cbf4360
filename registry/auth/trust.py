"""Whom to believe: the keys and certificates by which a foreign token server signs, and their names in tokens.

They come from one file: PEM with certificates and public keys, or a JSON Web Key Set (RFC 7517).
"""

from __future__ import annotations

import re
from base64 import b32encode, b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson

from registry.auth.signed import SignedText, refused, strict_json

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_RSA_BITS = 2048
_MOST_KEYS = 64
_LONGEST_CHAIN = 6
_SHOWN = 80

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EDDSA = frozenset({"EdDSA", "Ed25519"})  # RFC 8037, and its name since RFC 9864
_JWK_KINDS = {("RSA", None), ("EC", "P-256"), ("EC", "P-384"), ("EC", "P-521"), ("OKP", "Ed25519")}
_THUMBPRINT_MEMBERS = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, the algorithms that it may be used with, and what tokens call it.

    A key that its set has named is for tokens with that name; others are tried for whatever name nobody has.
    """

    key: Any
    algorithms: frozenset[str]
    names: frozenset[str]
    is_named: bool = False
    certificate: Certificate | None = None

    def is_valid(self, now: datetime) -> bool:
        """Tell whether the key's certificate, if it came in one, is valid at a time."""
        if self.certificate is None:
            return True
        return self.certificate.not_valid_before_utc <= now <= self.certificate.not_valid_after_utc


class Trust:
    """The keys to check foreign tokens with."""

    def __init__(self, keys: Sequence[TrustedKey]) -> None:
        """Take at least one key; the certificates among them may vouch for others (`x5c`)."""
        from cryptography.x509.verification import Store  # noqa: PLC0415  # large: only where tokens are used
        from jwt.algorithms import get_default_algorithms  # noqa: PLC0415

        self._keys = keys
        self._verifiers = get_default_algorithms()
        anchors = [key.certificate for key in keys if key.certificate is not None]
        self._store = Store(anchors) if anchors else None

    def check(self, token: SignedText, now: float) -> None:
        """Raise CredentialsRefused unless one of the keys, or one that they vouch for, has signed the token.

        The key says which algorithms are for it, never the token: neither `none` nor an HMAC with a public key is.
        """
        moment = datetime.fromtimestamp(now, UTC)
        algorithm = str(token.header["alg"])
        candidates = [key for key in self._candidates(token, moment) if algorithm in key.algorithms]
        if not candidates:
            raise refused(f"its algorithm, {algorithm[:_SHOWN]!a}, does not fit the key")
        verifier = self._verifiers["EdDSA" if algorithm in _EDDSA else algorithm]
        if not any(verifier.verify(token.message, key.key, token.signature) for key in candidates):
            raise refused("its signature is wrong")

    def _candidates(self, token: SignedText, now: datetime) -> Sequence[TrustedKey]:
        if self._store is not None and "x5c" in token.header:
            return [self._vouched_for(token.header["x5c"], now)]
        name = token.header.get("kid")
        named = [key for key in self._keys if name is None or name in key.names]
        found = named or [key for key in self._keys if not key.is_named]
        if not found:
            raise refused(f"its key, {str(name)[:_SHOWN]!a}, is not trusted")
        valid = [key for key in found if key.is_valid(now)]
        if not valid:
            raise refused("the certificate of its key is not valid now")
        return valid

    def _vouched_for(self, chain: object, now: datetime) -> TrustedKey:
        """Return the key of the first certificate, if the chain leads to one that is trusted (RFC 7515, 4.1.6)."""
        from cryptography.x509 import BasicConstraints  # noqa: PLC0415
        from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder  # noqa: PLC0415

        certificates = _load_chain(chain)
        issuers = ExtensionPolicy.permit_all().require_present(BasicConstraints, Criticality.AGNOSTIC, None)
        assert self._store is not None
        # That whoever signs certificates is an authority, and when each is valid, is checked beside the policies.
        verifier = (
            PolicyBuilder()
            .store(self._store)
            .time(now)
            .max_chain_depth(_LONGEST_CHAIN)
            .extension_policies(ca_policy=issuers, ee_policy=ExtensionPolicy.permit_all())
            .build_client_verifier()
        )
        try:
            verifier.verify(certificates[0], certificates[1:])
            return _of_certificate(certificates[0])
        except _bad_certificate():
            raise refused("its chain of certificates (x5c) leads to none that is trusted and valid") from None


def parse_trust(data: bytes) -> Trust:
    """Read a file of certificates and public keys, in PEM or as a JSON Web Key Set; raise ValueError."""
    keys = list(_of_set(data) if data.lstrip().startswith(b"{") else _of_pem(data))
    if not keys:
        raise ValueError("holds no certificate and no public key that tokens could be checked with")
    if len(keys) > _MOST_KEYS:
        raise ValueError(f"holds more than {_MOST_KEYS} keys")
    return Trust(keys)


def _of_pem(data: bytes) -> Iterator[TrustedKey]:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415

    for block in _PEM.finditer(data):
        label = block[1].decode()
        if "PRIVATE" in label:
            raise ValueError("holds a private key: only certificates and public keys belong here")
        try:
            if label == "CERTIFICATE":
                yield _of_certificate(load_pem_x509_certificate(block[0]))
            elif label in ("PUBLIC KEY", "RSA PUBLIC KEY"):
                key = load_pem_public_key(block[0])
                yield TrustedKey(key, _algorithms(key), _fingerprints(key))
            else:
                raise ValueError(f"holds a {label}: only certificates and public keys belong here")
        except _bad_certificate() as error:
            raise ValueError(f"holds a {label} that is no good: {error}") from None


def _of_certificate(certificate: Certificate) -> TrustedKey:
    key = certificate.public_key()
    return TrustedKey(key, _algorithms(key), _fingerprints(key), certificate=certificate)


def _load_chain(chain: object) -> list[Certificate]:
    from cryptography.x509 import load_der_x509_certificate  # noqa: PLC0415

    if not isinstance(chain, list) or not 0 < len(chain) <= _LONGEST_CHAIN:
        raise refused(f"its x5c is no list of up to {_LONGEST_CHAIN} certificates")
    try:
        return [load_der_x509_certificate(b64decode(link, validate=True)) for link in chain]
    except _bad_certificate():
        raise refused("its x5c has something that is no certificate") from None


def _bad_certificate() -> tuple[type[Exception], ...]:
    """Return what cryptography raises for certificates and keys that it cannot read, or that are not as they should."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.x509.verification import VerificationError  # noqa: PLC0415

    own = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, VerificationError)
    return (ValueError, TypeError, UnsupportedAlgorithm, *own)


def _of_set(data: bytes) -> Iterator[TrustedKey]:
    document = strict_json(data)
    found = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ValueError('is no JSON Web Key Set: an object whose "keys" is a list of objects')
    for item in found:
        if "d" in item or item.get("kty") == "oct":
            raise ValueError("holds a secret key: only public ones belong here")
        if _is_for_tokens(item):
            key = _of_jwk(item)
            if key.algorithms:
                yield key


def _is_for_tokens(item: dict[str, Any]) -> bool:
    """Tell whether a key is of a kind that is known here, and for signatures; a set may hold others."""
    operations = item.get("key_ops", ["verify"])
    kind = (item.get("kty"), item.get("crv") if item.get("kty") != "RSA" else None)
    return (
        all(isinstance(part, str | None) for part in kind)
        and kind in _JWK_KINDS
        and item.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    )


def _of_jwk(item: dict[str, Any]) -> TrustedKey:
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm  # noqa: PLC0415
    from jwt.exceptions import PyJWTError  # noqa: PLC0415

    kinds: dict[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    name, algorithm = item.get("kid"), item.get("alg")
    if not isinstance(name, str | None) or not isinstance(algorithm, str | None):
        raise ValueError('holds a key whose "kid" or "alg" is no string')
    try:
        key = kinds[item["kty"]].from_jwk(item)
        algorithms = _algorithms(key)
    except (PyJWTError, ValueError, TypeError):
        raise ValueError(f"holds a key that is malformed, too small or not on its curve: {name!a}") from None
    if algorithm is not None:
        algorithms &= _EDDSA if algorithm in _EDDSA else {algorithm}
    return TrustedKey(key, algorithms, frozenset({name}) if name else _fingerprints(key), is_named=name is not None)


def _algorithms(key: object) -> frozenset[str]:
    """Return the signature algorithms that a public key is for (RFC 7518, section 3; RFC 8037); raise ValueError."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415

    if isinstance(key, RSAPublicKey) and key.key_size >= _RSA_BITS:
        return _RSA
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return frozenset({_CURVES[key.curve.name]})
    if isinstance(key, Ed25519PublicKey):
        return _EDDSA
    raise ValueError(f"expected a key of RSA with {_RSA_BITS} bits or more, P-256, P-384, P-521 or Ed25519")


def _fingerprints(key: Any) -> frozenset[str]:
    """Return what issuers call a key that has no name: libtrust's fingerprint, and the thumbprint of RFC 7638."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    letters = b32encode(sha256(spki).digest()[:30]).decode()
    return frozenset({":".join(re.findall("....", letters)), thumbprint(_public_jwk(key))})


def _public_jwk(key: Any) -> dict[str, Any]:
    from jwt.algorithms import get_default_algorithms  # noqa: PLC0415

    algorithm = min(_algorithms(key) & {"RS256", "ES256", "ES384", "ES512", "EdDSA"})
    return get_default_algorithms()[algorithm].to_jwk(key, as_dict=True)


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return the thumbprint of a public key (RFC 7638)."""
    members = {name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]}
    return urlsafe_b64encode(sha256(orjson.dumps(members, option=orjson.OPT_SORT_KEYS)).digest()).rstrip(b"=").decode()
