"""The part of the configuration that says who may do what: `http.tls`, `http.auth`, `http.accessControl`, limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from marshmallow import ValidationError, post_load, validates_schema

from registry import config_values as values
from registry.auth.certificates import ATTRIBUTES
from registry.auth.identity import Action
from registry.auth.policy import AccessControl, Policy, RepositoryRules
from registry.config_fields import ListField, MapField, NotBuilt, Section, SectionField, ValueField
from registry.config_secrets import Secret, credentials, secret
from storage.globs import check_pattern

_LDAP_PORT = 389
_LDAPS_PORT = 636
_LONGEST_DELAY = 60
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_MAX_RATE = 1_000_000
_SHORTEST_TOKEN = 60.0  # seconds: docker takes less than a minute for a mistake ("Token Response Fields")
_LONGEST_TOKEN = 86400.0


@dataclass(frozen=True, slots=True)
class TLSConfig:
    """Name the files, in PEM: the certificate with its chain, its key, and who signs clients' certificates."""

    cert: str
    key: str
    ca_cert: str | None = None


@dataclass(frozen=True, slots=True)
class HtpasswdConfig:
    """Name the file of users and hashed passwords."""

    path: str


@dataclass(frozen=True, slots=True)
class LDAPConfig:
    """Describe a directory; without `bind_dn` it is searched anonymously, or users are bound directly."""

    address: str
    base_dn: str
    port: int = _LDAPS_PORT
    insecure: bool = False
    start_tls: bool = False
    skip_verify: bool = False
    subtree_search: bool = False
    bind_dn: str = ""
    bind_password: Secret | None = None
    user_attribute: str = "uid"
    user_filter: str = ""
    user_group_attribute: str = ""
    ca_cert: str | None = None


@dataclass(frozen=True, slots=True)
class BearerConfig:
    """Describe a foreign token server: where it is, for what service it must issue, by whose keys it signs."""

    realm: str
    service: str
    cert: str
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """Describe the registry's own tokens; times are in seconds. Without `issuer` it is the service."""

    service: str = "pierhead"
    issuer: str | None = None
    expiry: float = 300.0
    refresh_expiry: float = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class MTLSConfig:
    """Say what of a client certificate is its owner's name: the first of these that it has."""

    identity_attributes: tuple[str, ...] = ("commonname",)


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Hold the ways to say who one is; `fail_delay` is in seconds."""

    htpasswd: HtpasswdConfig | None = None
    ldap: LDAPConfig | None = None
    bearer: BearerConfig | None = None
    token: TokenConfig | None = None
    mtls: MTLSConfig | None = None
    apikey: bool = False
    fail_delay: int = 0

    @property
    def has_passwords(self) -> bool:
        """Tell whether anybody can log in by name and password."""
        return bool(self.htpasswd or self.ldap or self.apikey)

    @property
    def has_schemes(self) -> bool:
        """Tell whether anybody can say who they are in a request's header."""
        return self.has_passwords or self.bearer is not None


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """Bound requests per second and client: `rate` for all methods but those that have one of their own."""

    rate: float | None = None
    methods: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class TLSSection(Section):
    """Load `http.tls`."""

    makes = TLSConfig
    cert = ValueField(values.file, required=True)
    key = ValueField(values.file, required=True)
    ca_cert = ValueField(values.file, data_key="cacert")


class HtpasswdSection(Section):
    """Load `http.auth.htpasswd`."""

    makes = HtpasswdConfig
    path = ValueField(values.file, required=True)


class LDAPSection(Section):
    """Load `http.auth.ldap`."""

    makes = LDAPConfig
    address = ValueField(values.address, required=True)
    port = ValueField(values.port)
    insecure = ValueField(values.boolean)
    start_tls = ValueField(values.boolean, data_key="startTLS")
    skip_verify = ValueField(values.boolean)
    subtree_search = ValueField(values.boolean)
    bind_dn = ValueField(values.text, data_key="bindDN")
    bind_password = ValueField(secret)
    credentials_file = ValueField(credentials)
    base_dn = ValueField(values.text, required=True, data_key="baseDN")
    user_attribute = ValueField(values.attribute)
    user_filter = ValueField(values.ldap_filter)
    user_group_attribute = ValueField(values.attribute)
    ca_cert = ValueField(values.file)

    @validates_schema
    def is_consistent(self, data: Mapping[str, Any], **kwargs: Any) -> None:
        """Refuse keys that contradict each other, or that would have no effect."""
        if "credentials_file" in data and ("bind_dn" in data or "bind_password" in data):
            raise ValidationError("expected it or bindDN with bindPassword, not both", "credentialsFile")
        if ("bind_dn" in data) != ("bind_password" in data):
            raise ValidationError("expected bindDN and bindPassword together", "bindDN")
        encrypted = not data.get("insecure") or data.get("start_tls")
        for key, name in (("skip_verify", "skipVerify"), ("ca_cert", "caCert")):
            if data.get(key) and not encrypted:
                raise ValidationError("has no effect without TLS: insecure is true and startTLS is not", name)

    @post_load
    def make(self, data: dict[str, Any], **kwargs: Any) -> object:
        """Fill in the port of the kind of connection, and the credentials that lie in a file."""
        plain = data.get("insecure") or data.get("start_tls")
        data.setdefault("port", _LDAP_PORT if plain else _LDAPS_PORT)
        if "credentials_file" in data:
            data["bind_dn"], data["bind_password"] = data.pop("credentials_file")
        return LDAPConfig(**data)


class BearerSection(Section):
    """Load `http.auth.bearer`."""

    makes = BearerConfig
    realm = ValueField(values.external_url, required=True)
    service = ValueField(values.quotable, required=True)
    cert = ValueField(values.file, required=True)
    issuer = ValueField(values.quotable)


class TokenSection(Section):
    """Load `http.auth.token`, which zot does not have."""

    makes = TokenConfig
    service = ValueField(values.quotable)
    issuer = ValueField(values.quotable)
    expiry = ValueField(values.duration_between(_SHORTEST_TOKEN, _LONGEST_TOKEN))
    refresh_expiry = ValueField(values.positive_duration)


class MTLSSection(Section):
    """Load `http.auth.mtls`."""

    makes = MTLSConfig
    identity_attributes = ValueField(values.list_of("attributes", values.one_of(ATTRIBUTES)))
    url_san_pattern = NotBuilt(data_key="uriSanPattern")
    url_san_index = NotBuilt(data_key="uriSanIndex")
    dns_san_index = NotBuilt(data_key="dnsSanIndex")
    email_san_index = NotBuilt(data_key="emailSanIndex")


class AuthSection(Section):
    """Load `http.auth`."""

    makes = AuthConfig
    htpasswd = SectionField(HtpasswdSection)
    ldap = SectionField(LDAPSection)
    bearer = SectionField(BearerSection)
    token = SectionField(TokenSection)
    mtls = SectionField(MTLSSection)
    apikey = ValueField(values.boolean)
    fail_delay = ValueField(values.number_up_to(_LONGEST_DELAY))
    openid = NotBuilt()
    session_keys_file = NotBuilt()
    session_driver = NotBuilt()

    @validates_schema
    def is_consistent(self, data: Mapping[str, Any], **kwargs: Any) -> None:
        """Refuse keys that contradict each other, or that would have no effect."""
        passwords = bool(data.get("htpasswd") or data.get("ldap"))
        if "token" in data and "bearer" in data:
            raise ValidationError("expected token or bearer: a client can be sent to one token server only", "token")
        if "token" in data and not (passwords or data.get("apikey")):
            raise ValidationError("needs users to issue tokens to: htpasswd, ldap or apikey", "token")
        if data.get("fail_delay") and not (passwords or data.get("apikey")):
            raise ValidationError("has no effect without htpasswd, ldap or apikey", "failDelay")


_ACTIONS = values.list_of("actions", values.one_of_exactly(tuple(Action)))
_NAMES = values.list_of("names", values.principal)


def _actions(value: object) -> frozenset[Action]:
    return frozenset(map(Action, _ACTIONS(value)))


def _names(value: object) -> frozenset[str]:
    return frozenset(_NAMES(value))


class PolicySection(Section):
    """Load an entry of `policies`, or `adminPolicy`."""

    makes = Policy
    users = ValueField(_names)
    groups = ValueField(_names)
    actions = ValueField(_actions, required=True)


class RepositoryRulesSection(Section):
    """Load what holds for the repositories that one glob matches."""

    makes = RepositoryRules
    policies = ListField(PolicySection)
    default_policy = ValueField(_actions)
    anonymous_policy = ValueField(_actions)


class GroupSection(Section):
    """Load a group of `http.accessControl.groups`."""

    makes = frozenset
    users = ValueField(_names, required=True)

    @post_load
    def make(self, data: dict[str, Any], **kwargs: Any) -> object:
        """Give the names alone."""
        return data["users"]


class MetricsSection(GroupSection):
    """Load `http.accessControl.metrics`."""


class AccessControlSection(Section):
    """Load `http.accessControl`, in the shape of zot 1.4 (globs beside the keys) or of today (`repositories`)."""

    makes = AccessControl
    repositories = MapField(check_pattern, RepositoryRulesSection)
    admin_policy = SectionField(PolicySection)
    groups = MapField(values.principal, GroupSection)
    metrics = SectionField(MetricsSection)
    globs = MapField(check_pattern, RepositoryRulesSection, data_key=Section.OWN_KEYS)

    @validates_schema
    def has_one_shape(self, data: Mapping[str, Any], **kwargs: Any) -> None:
        """Refuse both shapes at once: nobody could tell which of them decides."""
        if "repositories" in data and "globs" in data:
            shown = ", ".join(map(values.show, data["globs"]))
            raise ValidationError(f"expected globs in repositories or beside it, not both: {shown}", "repositories")

    @post_load
    def make(self, data: dict[str, Any], **kwargs: Any) -> object:
        """Build the rules, which know where in the file they stand."""
        where = "http.accessControl.repositories" if "repositories" in data else "http.accessControl"
        return AccessControl(
            repositories=data.get("repositories") or data.get("globs") or MappingProxyType({}),
            groups=data.get("groups") or MappingProxyType({}),
            admin_policy=data.get("admin_policy"),
            metrics_users=data.get("metrics") or frozenset(),
            path=where,
        )


class MethodRateSection(Section):
    """Load an entry of `http.ratelimit.methods`."""

    makes = dict
    method = ValueField(values.one_of_exactly(_METHODS), required=True)
    rate = ValueField(values.positive_number(_MAX_RATE), required=True)


class RateLimitSection(Section):
    """Load `http.ratelimit`."""

    makes = RateLimitConfig
    rate = ValueField(values.positive_number(_MAX_RATE))
    methods = ListField(MethodRateSection)

    @post_load
    def make(self, data: dict[str, Any], **kwargs: Any) -> object:
        """Key the methods' rates by method; refuse one that is given twice, and a section that limits nothing."""
        methods = {entry["method"]: entry["rate"] for entry in data.get("methods", ())}
        if len(methods) < len(data.get("methods", ())):
            raise ValidationError("a method is given twice", "methods")
        if not methods and "rate" not in data:
            raise ValidationError("expected rate or methods")
        return RateLimitConfig(data.get("rate"), MappingProxyType(methods))


def origins(value: object) -> tuple[str, ...]:
    """Take `http.allowOrigin`: origins with commas between them, or `*` for all."""
    if value == "*":
        return ("*",)
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    if not parts or not all(map(_is_origin, parts)):
        raise values.expected('"*", or origins such as "https://example.com,https://example.org:8443"', value)
    return tuple(part.lower() for part in parts)


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(re.fullmatch(r"https?://[A-Za-z0-9.\-:\[\]]+", text) and parts.hostname and parts.port != 0)
    except ValueError:
        return False
