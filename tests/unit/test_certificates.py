"""Whose client certificate it is: each attribute, their order, and names that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from registry.auth.certificates import ATTRIBUTES, identity_of
from registry.auth.identity import CredentialsRefused, Identity

# In the form of ssl.SSLSocket.getpeercert.
CERTIFICATE: dict[str, Any] = {
    "subject": (
        (("countryName", "DE"),),
        (("organizationName", "Team, Inc."),),
        (("commonName", "alice"),),
    ),
    "subjectAltName": (
        ("email", "alice@example.com"),
        ("email", "second@example.com"),
        ("DNS", "build.example.com"),
        ("URI", "spiffe://example.com/ns/team/sa/build"),
        ("IP Address", "192.0.2.1"),
    ),
}


def subject(*names: str) -> dict[str, Any]:
    return {"subject": tuple((("commonName", name),) for name in names)}


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        (["CommonName"], "alice"),
        (["CN"], "alice"),
        (["commonname"], "alice"),
        (["Subject"], r"CN=alice,O=Team\, Inc.,C=DE"),
        (["DN"], r"CN=alice,O=Team\, Inc.,C=DE"),
        (["Email"], "alice@example.com"),
        (["rfc822name"], "alice@example.com"),
        (["DNSName"], "build.example.com"),
        (["DNS"], "build.example.com"),
        (["URI"], "spiffe://example.com/ns/team/sa/build"),
        (["URL"], "spiffe://example.com/ns/team/sa/build"),
        (["URI", "CommonName"], "spiffe://example.com/ns/team/sa/build"),
    ],
)
def test_each_attribute(attributes: list[str], name: str) -> None:
    assert identity_of(CERTIFICATE, attributes) == Identity(name, scheme="certificate")


def test_the_first_that_it_has_counts() -> None:
    assert identity_of(subject("bob"), ["URI", "Email", "DNSName", "CommonName"]).name == "bob"


def test_all_spellings_are_known() -> None:
    assert set(ATTRIBUTES) == {
        *("commonname", "cn", "subject", "dn", "uri", "url", "dnsname", "dns", "email", "rfc822name")
    }


@pytest.mark.parametrize(
    "name",
    ["", " ", "alice ", " alice", "alice\n", "alice\0", "ali\x1bce", "ali\u202ece", "a" * 257],
    ids=["empty", "space", "space after", "space before", "line", "NUL", "escape", "right to left", "long"],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(CredentialsRefused) as refused:
        identity_of(subject(name), ["CommonName", "Subject"])
    assert not name.strip() or name not in refused.value.reason


def test_a_bad_name_is_not_passed_over() -> None:
    """Whoever may choose one name in a certificate must not choose which other one counts."""
    with pytest.raises(CredentialsRefused):
        identity_of({**subject("a\nb"), "subjectAltName": (("DNS", "good.example.com"),)}, ["CN", "DNSName"])


@pytest.mark.parametrize(
    "certificate",
    [
        {},
        {"subject": (), "subjectAltName": ()},
        subject("alice", "bob"),
        {"subject": ((("commonName", "alice"), ("commonName", "bob")),)},
    ],
    ids=["nothing", "no names", "two common names", "two in one part"],
)
def test_certificates_that_are_refused(certificate: dict[str, Any]) -> None:
    with pytest.raises(CredentialsRefused):
        identity_of(certificate, ["CommonName"])


def test_a_subject_cannot_be_made_to_look_like_another() -> None:
    forged = {"subject": ((("commonName", "alice,O=Admins"),),)}
    true = {"subject": ((("organizationName", "Admins"),), (("commonName", "alice"),))}
    assert identity_of(true, ["Subject"]).name == "CN=alice,O=Admins"
    assert identity_of(forged, ["Subject"]).name == r"CN=alice\,O\=Admins".replace(r"\=", "=")
