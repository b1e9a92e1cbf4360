"""Who a client certificate belongs to: its subject, or one of its alternative names, as the configuration says.

The certificate has been verified: whoever signed it vouches for all that it says. What is left to refuse is a name
that would not stand for one user only, or that could not be written into a log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from registry.auth.identity import CredentialsRefused, Identity

SCHEME = "certificate"

#: Where a request's environment has the verified certificate of its client, if there is one. No client can put
#: anything there: what headers say has names that begin with HTTP_.
CLIENT_CERTIFICATE = "pierhead.client_certificate"

_LONGEST_NAME = 256

#: RFC 4514, section 3, and RFC 2985; the keys are OpenSSL's names. What has no short name keeps the long one.
_SHORT = MappingProxyType(
    {
        "commonName": "CN",
        "localityName": "L",
        "stateOrProvinceName": "ST",
        "organizationName": "O",
        "organizationalUnitName": "OU",
        "countryName": "C",
        "streetAddress": "STREET",
        "domainComponent": "DC",
        "userId": "UID",
    }
)
_SPECIAL = frozenset('",+;<>\\')


def identity_of(certificate: Mapping[str, Any], attributes: Sequence[str]) -> Identity:
    """Return whose certificate it is, in the form of `ssl.SSLSocket.getpeercert`: the first attribute that it has.

    `attributes` are any of ATTRIBUTES. Raises CredentialsRefused.
    """
    for attribute in attributes:
        found = _READ[ATTRIBUTES[attribute.lower()]](certificate)
        if found is not None:
            return Identity(_checked(found, attribute), scheme=SCHEME)
    raise _refused(f"it has none of {', '.join(attributes)}")


def _common_name(certificate: Mapping[str, Any]) -> str | None:
    names = [value for part in _subject(certificate) for kind, value in part if kind == "commonName"]
    if len(names) > 1:
        raise _refused("it has several common names")
    return names[0] if names else None


def _distinguished_name(certificate: Mapping[str, Any]) -> str | None:
    """Return the whole subject as RFC 4514 writes it, the last part first; None if it is empty."""
    parts = [
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in part)
        for part in _subject(certificate)
    ]
    return ",".join(reversed(parts)) or None


def _escaped(value: str) -> str:
    """Escape what has a meaning in a distinguished name (RFC 4514, section 2.4)."""
    text = "".join(f"\\{char}" if char in _SPECIAL else char for char in value)
    if text.startswith(("#", " ")):
        text = "\\" + text
    if text.endswith(" ") and len(value) > 1:
        text = text[:-1] + "\\ "
    return text


def _subject(certificate: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], ...]]:
    yield from certificate.get("subject", ())


def _alternative(kind: str) -> Callable[[Mapping[str, Any]], str | None]:
    """Return what reads the first alternative name of a kind."""
    return lambda certificate: next((name for of, name in certificate.get("subjectAltName", ()) if of == kind), None)


_READ: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = MappingProxyType(
    {
        "CommonName": _common_name,
        "Subject": _distinguished_name,
        "URI": _alternative("URI"),
        "DNSName": _alternative("DNS"),
        "Email": _alternative("email"),
    }
)

#: What an identity can be read off: zot's spellings, in lower case, with the one name that each stands for.
ATTRIBUTES: Mapping[str, str] = MappingProxyType(
    {name.lower(): name for name in _READ}
    | {"cn": "CommonName", "dn": "Subject", "url": "URI", "dns": "DNSName", "rfc822name": "Email"}
)


def _checked(name: str, attribute: str) -> str:
    """Return a name that can be anybody's."""
    if not name or name != name.strip():
        raise _refused(f"its {attribute} is empty, or has spaces at an end")
    if len(name) > _LONGEST_NAME:
        raise _refused(f"its {attribute} has more than {_LONGEST_NAME} characters")
    if not name.isprintable():
        raise _refused(f"its {attribute} has characters that cannot be shown")
    return name


def _refused(reason: str) -> CredentialsRefused:
    return CredentialsRefused("the client certificate names no user", f"client certificate: {reason}")
