"""Tokens of a foreign token server: what is believed, what is refused, and that nothing but a refusal comes of it.

Tokens are put together by hand here, so that they can be wrong in every way.
"""

from __future__ import annotations

import hmac
import json
import os
import time
from base64 import b32encode, b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.auth.bearer import BearerVerifier
from registry.auth.identity import ALL, Action, CredentialsRefused, Grant, Identity
from registry.auth.signed import LEEWAY, LONGEST
from registry.config_auth import BearerConfig

SERVICE = "registry.example.com"
ISSUER = "auth.example.com"
NOW = 1_800_000_000

Json = dict[str, Any]
Key = Any

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
P521_KEY = ec.generate_private_key(ec.SECP521R1())
HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    """Sign as RFC 7518, section 3.4, has it: the two numbers side by side."""
    size = (key.curve.key_size + 7) // 8
    return b"".join(number.to_bytes(size) for number in decode_dss_signature(key.sign(message, ec.ECDSA(algorithm))))


def sign(key: Key, algorithm: str, message: bytes) -> bytes:
    digest = HASHES.get(algorithm[-3:], hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return raw_signature(key, message, digest)
    if algorithm.startswith("PS"):
        return bytes(key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest))
    return bytes(key.sign(message, padding.PKCS1v15(), digest))


def assemble(
    header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, signer: Callable[[bytes], bytes]
) -> str:
    """Put a token together from parts that may be anything."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    message = ".".join(b64(part) for part in parts)
    return f"{message}.{b64(signer(message.encode()))}"


def claims_of(**changes: Any) -> Json:
    """Return claims that are good, but for the changes; None leaves one out."""
    access = [{"type": "repository", "name": "team/app", "actions": ["pull"]}]
    claims = {"iss": ISSUER, "sub": "alice", "aud": SERVICE, "exp": NOW + 300, "nbf": NOW, "iat": NOW, "access": access}
    return {name: value for name, value in (claims | changes).items() if value is not None}


def token(key: Key = EC_KEY, algorithm: str = "ES256", header: Json | None = None, **changes: Any) -> str:
    """Return a token that is good, but for the changes to its header and claims."""
    fields = {"typ": "JWT", "alg": algorithm} | (header or {})
    return assemble(fields, claims_of(**changes), lambda message: sign(key, algorithm, message))


def pem(key: Key) -> bytes:
    encoded: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def jwk(key: Key, **members: Any) -> Json:
    kinds: list[tuple[type, Any]] = [
        (rsa.RSAPrivateKey, jwt.algorithms.RSAAlgorithm),
        (ec.EllipticCurvePrivateKey, jwt.algorithms.ECAlgorithm),
        (ed25519.Ed25519PrivateKey, jwt.algorithms.OKPAlgorithm),
    ]
    algorithm = next(algorithm for kind, algorithm in kinds if isinstance(key, kind))
    found: Json = algorithm.to_jwk(key.public_key(), as_dict=True)
    found.pop("key_ops", None)
    return found | members


def jwks(*keys: Json) -> bytes:
    return json.dumps({"keys": keys}).encode()


def certificate(  # noqa: PLR0913
    key: Key, issuer: Key | None = None, *, name: str = "leaf", by: str = "", ca: bool | None = None, days: float = 1
) -> x509.Certificate:
    """Issue a certificate that began two days before NOW and ends `days` after it; without an issuer, by itself."""
    now = datetime.fromtimestamp(NOW, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by or name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    signer = issuer or key
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def as_pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def x5c(*certificates: x509.Certificate) -> Json:
    return {"x5c": [b64encode(one.public_bytes(Encoding.DER)).decode() for one in certificates]}


def libtrust(key: Key) -> str:
    """Give a key's name as Docker's token servers do."""
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    letters = b32encode(sha256(der).digest()[:30]).decode().rstrip("=")
    return ":".join(letters[at : at + 4] for at in range(0, len(letters), 4))


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now: float = NOW

    def __call__(self) -> float:
        return self.now


MakeVerifier = Callable[..., BearerVerifier]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(tmp_path: Path, clock: Clock) -> MakeVerifier:
    """Give a function that makes a verifier of what a file of keys says."""

    def make(trusted: bytes, issuer: str | None = ISSUER) -> BearerVerifier:
        path = tmp_path / "trusted"
        path.write_bytes(trusted)
        config = BearerConfig("https://auth.example.com/token", SERVICE, str(path), issuer)
        return BearerVerifier(config, clock=clock)

    return make


def refusal(verifier: BearerVerifier, text: str) -> str:
    """Return why a token is refused; the client is not told."""
    with pytest.raises(CredentialsRefused) as caught:
        verifier.verify(text)
    assert caught.value.message == "the token is not valid, or no longer"
    return caught.value.reason


SIGNERS = [
    *((RSA_KEY, f"{kind}{size}") for kind in ("RS", "PS") for size in (256, 384, 512)),
    (EC_KEY, "ES256"),
    (P384_KEY, "ES384"),
    (P521_KEY, "ES512"),
    (ED_KEY, "EdDSA"),
    (ED_KEY, "Ed25519"),
]


@pytest.mark.parametrize(("key", "algorithm"), SIGNERS, ids=[algorithm for _, algorithm in SIGNERS])
@pytest.mark.parametrize("form", ["pem", "certificate", "jwks", "named jwks"])
def test_each_algorithm_from_each_kind_of_file(verifier: MakeVerifier, key: Key, algorithm: str, form: str) -> None:
    files = {
        "pem": lambda: pem(key),
        "certificate": lambda: as_pem(certificate(key)),
        "jwks": lambda: jwks(jwk(key)),
        "named jwks": lambda: jwks(jwk(key, kid="k1", use="sig", key_ops=["verify"])),
    }
    found = verifier(files[form]()).verify(token(key, algorithm, {"kid": "k1"} if "named" in form else {}))
    assert found == Identity("alice", scheme="bearer", grants=(Grant("team/app", frozenset({Action.READ})),))


def test_a_token_of_another_library(verifier: MakeVerifier) -> None:
    """What a library that many issuers use writes is understood."""
    text = jwt.encode(claims_of(aud=["x", SERVICE]), RSA_KEY, "RS256", {"kid": libtrust(RSA_KEY)})
    assert verifier(pem(RSA_KEY)).verify(text).name == "alice"


# Keys


def test_names_of_keys(verifier: MakeVerifier) -> None:
    """A key goes by its name in the set, else by its fingerprints; a name that nobody has is tried on nameless keys."""
    by_fingerprint = verifier(pem(EC_KEY) + pem(OTHER_EC_KEY))
    document = json.dumps(jwk(EC_KEY), sort_keys=True, separators=(",", ":"))
    for kid in (libtrust(EC_KEY), b64(sha256(document.encode()).digest()), "whatever the issuer calls it"):
        assert by_fingerprint.verify(token(header={"kid": kid})).name == "alice"
    assert "signature" in refusal(by_fingerprint, token(header={"kid": libtrust(OTHER_EC_KEY)}))
    by_name = verifier(jwks(jwk(EC_KEY, kid="a"), jwk(OTHER_EC_KEY, kid="b")))
    assert by_name.verify(token(header={"kid": "a"})).name == "alice"
    assert by_name.verify(token()).name == "alice"  # all are tried
    assert "signature" in refusal(by_name, token(header={"kid": "b"}))
    assert "not trusted" in refusal(by_name, token(header={"kid": "c"}))
    assert "not trusted" in refusal(by_name, token(header={"kid": libtrust(EC_KEY)}))


def test_a_key_serves_only_the_algorithm_and_the_use_that_its_set_gives_it(verifier: MakeVerifier) -> None:
    others = [jwk(EC_KEY, use="enc"), jwk(EC_KEY, key_ops=["deriveKey"]), jwk(RSA_KEY, alg="RSA-OAEP")]
    only = verifier(
        jwks(*others, {"kty": "OKP", "crv": "X25519", "x": "AA"}, {"kty": "new"}, jwk(RSA_KEY, alg="PS256"))
    )
    assert only.verify(token(RSA_KEY, "PS256")).name == "alice"
    assert "does not fit" in refusal(only, token(RSA_KEY, "RS256"))
    assert "does not fit" in refusal(only, token(EC_KEY, "ES256"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no certificate"),
        (b"{", "not valid JSON"),
        (b'{"keys": [], "keys": []}', "key twice"),
        (b'{"keys": {}}', "no JSON Web Key Set"),
        (b'{"keys": [1]}', "no JSON Web Key Set"),
        (jwks({"kty": "oct", "k": "c2VjcmV0"}), "secret key"),
        (jwks(jwk(EC_KEY) | {"d": "AA"}), "secret key"),
        (jwks(jwk(EC_KEY) | {"x": "AA"}), "malformed"),
        (jwks(jwk(EC_KEY) | {"x": 7}), "malformed"),
        (jwks(jwk(EC_KEY) | {"kid": 7}), "no string"),
        (jwks({"kty": "RSA", "n": "AQAB", "e": "AQAB"}), "malformed, too small"),
        (pem(rsa.generate_private_key(65537, 1024)), "2048 bits"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no good"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "holds a X509 CRL"),
        (b"".join(pem(ed25519.Ed25519PrivateKey.generate()) for _ in range(65)), "more than 64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # keys differ from run to run, ids must not
)
def test_files_that_are_no_good(verifier: MakeVerifier, content: bytes, problem: str) -> None:
    """A file that cannot be meant is refused when the registry starts, in words for its operator."""
    with pytest.raises(ValueError, match=problem):
        verifier(content)


def test_a_private_key_is_not_taken_for_a_public_one(verifier: MakeVerifier) -> None:
    secret = EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="private key") as caught:
        verifier(pem(EC_KEY) + secret)
    assert secret.splitlines()[1].decode() not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        BearerVerifier(BearerConfig("https://a/token", SERVICE, str(tmp_path / "missing")))


def test_the_file_may_change(verifier: MakeVerifier, tmp_path: Path) -> None:
    """New keys count at once, old ones no more, remembered or not; what is no good changes nothing."""
    subject = verifier(pem(EC_KEY))
    assert subject.verify(token()).name == "alice"
    (tmp_path / "trusted").write_bytes(b"nonsense")
    assert subject.verify(token()).name == "alice"
    (tmp_path / "trusted").write_bytes(pem(RSA_KEY))
    assert "does not fit" in refusal(subject, token())
    assert subject.verify(token(RSA_KEY, "RS256")).name == "alice"
    (tmp_path / "trusted").unlink()
    assert subject.verify(token(RSA_KEY, "RS256")).name == "alice"


# Certificates


CA_KEY, INTERMEDIATE_KEY = EC_KEY, P384_KEY
CA = certificate(CA_KEY, name="ca", ca=True)
INTERMEDIATE = certificate(INTERMEDIATE_KEY, CA_KEY, name="intermediate", by="ca", ca=True)
LEAF = certificate(RSA_KEY, INTERMEDIATE_KEY, by="intermediate", ca=False)


def chained(key: Key, algorithm: str, *certificates: x509.Certificate) -> str:
    return token(key, algorithm, x5c(*certificates))


def test_a_chain_that_leads_to_a_trusted_certificate(verifier: MakeVerifier) -> None:
    subject = verifier(as_pem(CA))
    assert subject.verify(chained(RSA_KEY, "RS256", LEAF, INTERMEDIATE)).name == "alice"
    assert subject.verify(chained(RSA_KEY, "RS256", LEAF, INTERMEDIATE, CA)).name == "alice"
    assert subject.verify(chained(CA_KEY, "ES256", CA)).name == "alice"


def test_a_certificate_that_is_trusted_itself(verifier: MakeVerifier) -> None:
    """Token servers often sign with a certificate that they issued to themselves."""
    own = certificate(RSA_KEY)
    assert verifier(as_pem(own)).verify(chained(RSA_KEY, "RS256", own)).name == "alice"
    assert verifier(as_pem(LEAF)).verify(chained(RSA_KEY, "RS256", LEAF)).name == "alice"
    expired = certificate(RSA_KEY, days=-1)
    assert "leads to none" in refusal(verifier(as_pem(expired)), chained(RSA_KEY, "RS256", expired))


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([certificate(RSA_KEY, name="ca", ca=True)], id="one that only has the right name"),
        pytest.param([LEAF], id="with a link missing"),
        pytest.param([certificate(RSA_KEY, CA_KEY, by="ca", days=-1), CA], id="expired"),
        pytest.param(
            [certificate(RSA_KEY, P521_KEY, by="leaf"), certificate(P521_KEY, CA_KEY, by="ca", ca=False)],
            id="issued by who is no authority",
        ),
        pytest.param(
            [certificate(RSA_KEY, P521_KEY, by="leaf"), certificate(P521_KEY, CA_KEY, by="ca")],
            id="issued by who is not said to be one",
        ),
        pytest.param(
            [
                certificate(RSA_KEY, P521_KEY, by="old"),
                certificate(P521_KEY, CA_KEY, name="old", by="ca", ca=True, days=-1),
            ],
            id="by an authority that expired",
        ),
        pytest.param([certificate(RSA_KEY, P521_KEY, name="leaf", by="ca")], id="with a signature of somebody else"),
    ],
)
def test_chains_that_lead_nowhere(verifier: MakeVerifier, chain: list[x509.Certificate]) -> None:
    assert "leads to none" in refusal(verifier(as_pem(CA)), chained(RSA_KEY, "RS256", *chain))


def test_a_chain_whose_root_expired(verifier: MakeVerifier, clock: Clock) -> None:
    subject = verifier(as_pem(CA))
    text = token(RSA_KEY, "RS256", x5c(LEAF, INTERMEDIATE), exp=NOW + 10**6)
    assert subject.verify(text).name == "alice"
    clock.now = NOW + 3 * 86400
    assert "leads to none" in refusal(subject, text)


def test_the_first_of_a_chain_has_to_have_signed(verifier: MakeVerifier) -> None:
    """Somebody else's certificate is no secret: who shows it must have its key."""
    subject = verifier(as_pem(CA))
    assert "does not fit" in refusal(subject, chained(OTHER_EC_KEY, "ES256", LEAF, INTERMEDIATE))
    assert "signature" in refusal(subject, chained(OTHER_EC_KEY, "ES256", CA))


@pytest.mark.parametrize("value", [[], "MIIB", [7], ["!"], ["AAAA"], [None], {}, None, ["MA=="] * 7, [["a"]]])
def test_chains_that_are_none(verifier: MakeVerifier, value: object) -> None:
    assert "x5c" in refusal(verifier(as_pem(CA)), token(header={"x5c": value}))


def test_a_chain_means_nothing_where_no_certificate_is_trusted(verifier: MakeVerifier) -> None:
    """An issuer may send one beside a key that is known by name."""
    subject = verifier(jwks(jwk(RSA_KEY, kid="k")))
    assert subject.verify(token(RSA_KEY, "RS256", {"kid": "k"} | x5c(LEAF))).name == "alice"
    assert "not trusted" in refusal(subject, token(EC_KEY, "ES256", {"kid": "other"} | x5c(CA)))


def test_the_dates_of_a_certificate_hold_for_its_key_too(verifier: MakeVerifier) -> None:
    subject = verifier(as_pem(certificate(EC_KEY, days=-1)))
    assert "not valid now" in refusal(subject, token(header={"kid": libtrust(EC_KEY)}))


# Forgeries


def test_unsigned(verifier: MakeVerifier) -> None:
    subject = verifier(pem(EC_KEY))
    for algorithm in ("none", "None", "NONE", ""):
        assert "does not fit" in refusal(subject, assemble({"alg": algorithm}, claims_of(), lambda _: b""))
    assert "signature" in refusal(subject, assemble({"alg": "ES256"}, claims_of(), lambda _: b""))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_no_password(verifier: MakeVerifier, algorithm: str) -> None:
    """Who takes HS256 for a key of RSA would accept what anybody can sign: the public key is public."""
    names = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
    for secret in (pem(RSA_KEY), pem(RSA_KEY).strip(), b""):
        for trusted in (pem(RSA_KEY), as_pem(certificate(RSA_KEY)), jwks(jwk(RSA_KEY))):
            text = assemble(
                {"alg": algorithm},
                claims_of(),
                lambda m, secret=secret: hmac.digest(secret, m, names[algorithm]),  # type: ignore[misc]
            )
            assert "does not fit" in refusal(verifier(trusted), text)


def test_keys_that_a_token_brings_along_are_not_believed(verifier: MakeVerifier) -> None:
    subject = verifier(pem(EC_KEY))
    for header in ({"jwk": jwk(OTHER_EC_KEY)}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/x"}):
        assert "signature" in refusal(subject, token(OTHER_EC_KEY, header=header))


@pytest.mark.parametrize("field", ["crit", "b64"])
def test_extensions_that_change_the_meaning(verifier: MakeVerifier, field: str) -> None:
    assert "extension" in refusal(verifier(pem(EC_KEY)), token(header={field: ["exp"]}))


def test_an_algorithm_of_another_kind_of_key(verifier: MakeVerifier) -> None:
    subject = verifier(pem(RSA_KEY))
    for key, algorithm in ((EC_KEY, "ES256"), (ED_KEY, "EdDSA")):
        assert "does not fit" in refusal(subject, token(key, algorithm))
    subject = verifier(pem(EC_KEY))
    for algorithm in ("ES384", "ES512", "RS256", "ES256K", "es256"):
        assert "does not fit" in refusal(subject, token(EC_KEY, algorithm))


def test_changed_claims_and_changed_signatures(verifier: MakeVerifier) -> None:
    subject = verifier(pem(EC_KEY))
    header, _, signature = token().split(".")
    assert "signature" in refusal(subject, f"{header}.{b64(json.dumps(claims_of(sub='root')).encode())}.{signature}")
    for forged in (b"", b"\0" * 64, EC_KEY.sign(b"x", ec.ECDSA(hashes.SHA256())), os.urandom(64)):
        assert "signature" in refusal(subject, assemble({"alg": "ES256"}, claims_of(), lambda _, f=forged: f))  # type: ignore[misc]


# Malformed


GOOD = b'{"alg": "ES256"}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "é.é.é",
        "\ud800.a.b",
        f"{b64(GOOD)}=.e30.AA",
        f"{b64(GOOD)}.e3 0.AA",
        f"{b64(GOOD)}.e30\n.AA",
        f"{b64(GOOD)}.A.AA",
        f"{b64(GOOD)}.e31.AA",  # the same bytes, otherwise spelled
        f"{b64(GOOD)}.e30.A+/A",
        f"{b64(b'[]')}.e30.AA",
        f"{b64(b'7')}.e30.AA",
        f"{b64(b'{}')}.e30.AA",
        f"{b64(b'nope')}.e30.AA",
        f"{b64(b'{' + bytes([255]) + b'}')}.e30.AA",
        f"{b64('{}'.encode('utf-16'))}.e30.AA",
        f"""{b64(b'{"alg": 7}')}.e30.AA""",
        f"""{b64(b'{"alg": "ES256", "alg": "ES256"}')}.e30.AA""",
        f"""{b64(b'{"alg": "ES256", "kid": {}}')}.e30.AA""",
        f"""{b64(b'{"alg": "ES256", "kid": null}')}.e30.AA""",
        f"""{b64(b'{"alg": "ES256", "x": NaN}')}.e30.AA""",
        f"""{b64(b'{"alg": "ES256", "x": ' + b"[" * 9000)}.e30.AA""",
        f"""{b64(b'{"alg": "ES256", "x": ' + b"9" * 9000 + b"}")}.e30.AA""",
        "a" * (LONGEST + 1),
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_what_is_no_token(verifier: MakeVerifier, text: str) -> None:
    assert refusal(verifier(pem(EC_KEY)), text).startswith("token: ")


@pytest.mark.parametrize(
    "claims", [b"", b"[]", b"7", b"{", b'{"exp": 1, "exp": 2}', b'{"a": ' + b"[" * 9000, b'{"exp": NaN}', b"\xff"]
)
def test_claims_that_are_none(verifier: MakeVerifier, claims: bytes) -> None:
    """Signed nonsense is nonsense."""
    text = assemble(GOOD, claims, lambda message: sign(EC_KEY, "ES256", message))
    assert "malformed claims" in refusal(verifier(pem(EC_KEY)), text)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": None}, "no exp"),
        ({"exp": NOW}, "expired"),
        ({"exp": NOW - 0.5}, "expired"),
        ({"exp": -(10**400)}, "expired"),
        ({"exp": "9999999999"}, "no time"),
        ({"exp": True}, "no time"),
        ({"exp": [NOW + 9]}, "no time"),
        ({"exp": float("1e308") * 10}, "malformed"),
        ({"nbf": NOW + LEEWAY + 1}, "nbf"),
        ({"nbf": "now"}, "no time"),
        ({"iat": NOW + LEEWAY + 1}, "iat"),
        ({"aud": None}, "aud"),
        ({"aud": "other"}, "aud"),
        ({"aud": [SERVICE + "x"]}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": {"a": SERVICE}}, "aud"),
        ({"aud": [{}, 7]}, "aud"),
        ({"iss": None}, "iss"),
        ({"iss": "other"}, "iss"),
        ({"iss": [ISSUER]}, "iss"),
        ({"sub": 7}, "sub"),
        ({"sub": "a\nb"}, "sub"),
        ({"sub": "\ud800"}, "sub"),
        ({"sub": "a\0"}, "sub"),
        ({"access": "team/app"}, "access"),
        ({"access": {"type": "repository"}}, "access"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_claims_that_are_wrong(verifier: MakeVerifier, changes: Json, reason: str) -> None:
    assert reason in refusal(verifier(pem(EC_KEY)), token(**changes))


def test_an_infinite_time(verifier: MakeVerifier) -> None:
    """1e999 is a number to JSON, and infinite to Python."""
    claims = json.dumps(claims_of()).replace(str(NOW + 300), "1e999").encode()
    text = assemble(GOOD, claims, lambda message: sign(EC_KEY, "ES256", message))
    assert "no time" in refusal(verifier(pem(EC_KEY)), text)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW + 0.5},
        {"exp": 10**400},
        {"nbf": NOW + LEEWAY},
        {"nbf": None, "iat": None},
        {"aud": ["other", SERVICE, 7]},
        {"sub": "Ürsula O'Neil, dept. 7"},
        {"unknown": {"a": [1, None]}},
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_claims_that_are_good(verifier: MakeVerifier, changes: Json) -> None:
    assert verifier(pem(EC_KEY)).verify(token(**changes)).name == changes.get("sub", "alice")


def test_any_issuer_will_do_if_none_is_configured(verifier: MakeVerifier) -> None:
    assert verifier(pem(EC_KEY), issuer=None).verify(token(iss=None)).name == "alice"


# What is granted


def access(*entries: object) -> Json:
    return {"access": list(entries)}


def entry(name: object, *actions: object, kind: object = "repository") -> Json:
    return {"type": kind, "name": name, "actions": list(actions)}


READ, PUSH, DELETE = (
    frozenset({Action.READ}),
    frozenset({Action.CREATE, Action.UPDATE}),
    frozenset({Action.DELETE}),
)


@pytest.mark.parametrize(
    ("changes", "grants"),
    [
        ({"access": None}, ()),
        (access(), ()),
        (access(entry("a", "pull")), (Grant("a", READ),)),
        (access(entry("a/b", "push")), (Grant("a/b", PUSH),)),
        (access(entry("a", "delete")), (Grant("a", DELETE),)),
        (access(entry("a", "*")), (Grant("a", ALL),)),
        (access(entry("a", "pull", "push")), (Grant("a", READ | PUSH),)),
        (
            access(entry("a", "pull"), entry("a", "delete"), entry("b", "pull")),
            (Grant("a", READ | DELETE), Grant("b", READ)),
        ),
        (access(entry("a", "pull", kind="repository(plugin)")), (Grant("a", READ),)),
        (access(entry("a")), ()),
        (access(entry("a", "PULL", "admin", 7, None, ["pull"])), ()),
        (access(entry("*", "pull"), entry("**", "*"), entry("team/*", "pull"), entry("", "*"), entry("A", "*")), ()),
        (access(entry("a?", "*"), entry("[a]", "*"), entry("a/../b", "*"), entry(7, "*"), entry(None, "*")), ()),
        (access(entry("catalog", "*", kind="registry")), ()),
        (access(entry("a", "*", kind="repositoryx"), entry("a", "*", kind="")), ()),
        (access(entry("a", "*", kind=None), entry("a", "*", kind=["repository"])), ()),
        (access({"name": "a", "actions": ["pull"]}, {"type": "repository", "actions": ["pull"]}, {}), ()),
        (access({"type": "repository", "name": "a", "actions": "pull"}), ()),
        (access({"type": "repository", "name": "a"}, 7, None, [], "repository:a:pull"), ()),
    ],
    ids=lambda value: ascii(value)[:60] if isinstance(value, dict) else "",  # a set has no constant order
)
def test_grants(verifier: MakeVerifier, changes: Json, grants: tuple[Grant, ...]) -> None:
    """A token grants what its claim says of repositories by their whole names, and nothing besides."""
    assert verifier(pem(EC_KEY)).verify(token(**changes)).grants == grants


def test_a_token_of_nobody_in_particular(verifier: MakeVerifier) -> None:
    for changes in ({"sub": ""}, {"sub": None}):
        found = verifier(pem(EC_KEY)).verify(token(**changes))
        assert (found.name, found.scheme, found.grants) == ("", "bearer", (Grant("team/app", READ),))


# Remembering


def test_what_is_remembered_expires(verifier: MakeVerifier, clock: Clock) -> None:
    subject = verifier(pem(EC_KEY))
    text = token(exp=NOW + 100)
    for after in (0, 30, 70, 99):
        clock.now = NOW + after
        assert subject.verify(text).name == "alice"
    clock.now = NOW + 100
    assert "expired" in refusal(subject, text)


def test_an_expired_certificate_is_noticed_within_a_minute(verifier: MakeVerifier, clock: Clock) -> None:
    subject = verifier(as_pem(certificate(EC_KEY, days=10 / 86400)))
    text = token(header={"kid": libtrust(EC_KEY)})
    assert subject.verify(text).name == "alice"
    clock.now = NOW + 61
    assert "not valid now" in refusal(subject, text)


def test_a_token_again_costs_next_to_nothing(verifier: MakeVerifier) -> None:
    """The best of several runs, so that a busy machine does not matter; the bound is that of the design."""
    subject = verifier(pem(RSA_KEY))
    text = token(RSA_KEY, "RS256")
    subject.verify(text)
    best = min(timed(lambda: subject.verify(text)) for _ in range(300))
    assert best < 60e-6


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_more_tokens_than_are_remembered(verifier: MakeVerifier) -> None:
    subject = verifier(pem(ED_KEY))
    texts = [token(ED_KEY, "EdDSA", jti=str(number), sub=f"u{number}") for number in range(1100)]
    assert [subject.verify(text).name for text in [*texts, *texts]] == [f"u{number}" for number in range(1100)] * 2


# Anything at all

PATIENT = settings(deadline=None)

TRUSTED = pem(EC_KEY) + as_pem(CA)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=6), below, max_size=4),
    max_leaves=8,
)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "x5c", "typ", "jwk", "crit", "zip", "x"]), VALUES)
CLAIMS = st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "access", "x"]), VALUES)


@pytest.fixture(scope="module")
def any_verifier(tmp_path_factory: pytest.TempPathFactory) -> BearerVerifier:
    path = tmp_path_factory.mktemp("any") / "trusted"
    path.write_bytes(TRUSTED)
    return BearerVerifier(BearerConfig("https://a/token", SERVICE, str(path)), clock=Clock())


def withstands(verifier: BearerVerifier, text: str) -> None:
    """Check that a token is good or refused, and nothing else happens."""
    with suppress(CredentialsRefused):
        assert isinstance(verifier.verify(text), Identity)


@PATIENT
@given(text=st.text() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_any_text(any_verifier: BearerVerifier, text: str) -> None:
    withstands(any_verifier, text)


@PATIENT
@given(parts=st.tuples(st.binary(), st.binary(), st.binary()))
def test_any_bytes(any_verifier: BearerVerifier, parts: tuple[bytes, bytes, bytes]) -> None:
    withstands(any_verifier, ".".join(map(b64, parts)))


@PATIENT
@given(header=HEADERS, claims=CLAIMS)
def test_any_header_and_claims(any_verifier: BearerVerifier, header: Json, claims: Json) -> None:
    """Whatever stands in a token that is signed by the right key."""
    withstands(
        any_verifier, assemble({"alg": "ES256"} | header, claims, lambda message: sign(EC_KEY, "ES256", message))
    )
    changed = claims_of() | claims
    withstands(any_verifier, assemble({"alg": "ES256"}, changed, lambda message: sign(EC_KEY, "ES256", message)))


@PATIENT
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_any_damage_to_a_certificate(any_verifier: BearerVerifier, at: int, byte: int) -> None:
    """One byte of a certificate, anything else: it is refused, or the byte did not matter."""
    der = bytearray(INTERMEDIATE.public_bytes(Encoding.DER))
    der[at % len(der)] = byte
    chain = [LEAF.public_bytes(Encoding.DER), bytes(der)]
    for links in (chain, chain[::-1]):
        withstands(any_verifier, token(RSA_KEY, "RS256", {"x5c": [b64encode(link).decode() for link in links]}))
