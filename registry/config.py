"""The configuration: JSON or YAML with zot's keys, validated as a whole, then frozen.

This is the one place that reads configuration files and the environment. The text becomes pairs (so that a key given
twice is seen), the pairs become plain objects with the schema's own spelling of each key, and marshmallow's schemas
turn those into dataclasses. Every problem of a file is reported at once, each with its path.
"""

import difflib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from marshmallow import ValidationError, validates_schema

from registry import config_values as values
from registry.auth.policy import AccessControl, grants_more_than_anonymous
from registry.config_auth import (
    AccessControlSection,
    AuthConfig,
    AuthSection,
    RateLimitConfig,
    RateLimitSection,
    TLSConfig,
    TLSSection,
    origins,
)
from registry.config_fields import ListField, MapField, NotBuilt, Section, SectionField, ValueField, ValuesField
from registry.config_text import Pairs, parse_json, parse_yaml
from storage.retention import ImmutableTags, KeepRule, Policy, Retention

ENVIRONMENT_VARIABLE = "PIERHEAD_CONFIG"
DIST_SPEC_VERSION = "1.1.1"

# zot's levels are zerolog's; logging has no finer level than DEBUG and no worse one than CRITICAL.
LOG_LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "trace": logging.DEBUG,
        "debug": logging.DEBUG,
        "info": logging.INFO,
        "warn": logging.WARNING,
        "error": logging.ERROR,
        "fatal": logging.CRITICAL,
        "panic": logging.CRITICAL,
    }
)

_SIZE_LIMIT = 256 * 1024
_DEFAULT_ROOT = "data"
_MAX_WORKERS = 1024
_MAX_THREADS = 65536
_MAX_COUNT = 1_000_000
_MAX_REPOSITORIES = 2**31 - 1
_SCRUB_SPEED = 20e6
_LONGEST_MEMORY = 60.0  # seconds that a verified password is remembered


@dataclass(frozen=True, slots=True)
class Problem:
    """Tell what is wrong at one place: `path` is like `http.port`, or the file's name if it is the file itself."""

    path: str
    message: str

    def __str__(self) -> str:
        """Give the problem as a line for a person."""
        return f"{self.path}: {self.message}"


class ConfigError(Exception):
    """Carry all problems of a configuration."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Take the problems in the order in which they are reported."""
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Describe one store; `root_directory` is absolute, times are in seconds."""

    root_directory: str
    dedupe: bool = True
    commit: bool = True
    gc: bool = True
    gc_delay: float = 3600.0
    gc_interval: float = 3600.0
    undo: float = 86400.0
    delete_referrers: bool = True
    retention: Retention | None = None
    immutable_tags: tuple[ImmutableTags, ...] = ()


@dataclass(frozen=True, slots=True)
class StorageConfig(StoreConfig):
    """Describe the default store and the substores by prefix, which is like `/a` or `/a/b`.

    `quotas` are bytes by the prefix of the repositories' names in all stores, such as `a/b`, or "" for all of them;
    `max_repos` is how many repositories there may be in all stores.
    """

    sub_paths: Mapping[str, StoreConfig] = field(default_factory=lambda: MappingProxyType({}))
    quotas: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    max_repos: int | None = None


@dataclass(frozen=True, slots=True)
class HTTPConfig:
    """Describe where the registry listens, the URL that clients know it by, and who may do what."""

    address: str = "127.0.0.1"
    port: int = 5000
    external_url: str | None = None
    realm: str = "Pierhead"
    allow_origin: tuple[str, ...] = ()
    tls: TLSConfig | None = None
    auth: AuthConfig = field(default_factory=AuthConfig)
    access_control: AccessControl | None = None
    ratelimit: RateLimitConfig | None = None
    read_only: bool = False

    @property
    def local_address(self) -> str:
        """The address by which clients on this machine reach it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)

    @property
    def has_identities(self) -> bool:
        """Tell whether anybody can be more than anonymous here."""
        return self.auth.has_schemes or bool(self.tls and self.tls.ca_cert)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Describe the log; `level` is a key of LOG_LEVELS, `output` is `stdout`, `stderr` or an absolute path.

    `format` is `text` or `json`; `audit` is the absolute path of the audit log.
    """

    level: str = "info"
    output: str = "stdout"
    format: str = "text"
    audit: str | None = None


def default_workers() -> int:
    """Give the number of worker processes that suits the cores this process may use: two to four."""
    return max(2, min(4, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Describe the worker processes; times are in seconds, `trusted_proxies` are addresses or networks."""

    workers: int = field(default_factory=default_workers)
    threads: int = 512
    stall_timeout: float = 60.0
    graceful_timeout: float = 300.0
    keepalive: float = 75.0
    auth_cache: float = 5.0
    trusted_proxies: tuple[str, ...] = ()
    sparse_indexes: bool = False


@dataclass(frozen=True, slots=True)
class ScrubConfig:
    """Describe the check of all contents on schedule: `interval` in seconds, `speed` in bytes a second (0: any)."""

    interval: float
    enable: bool = True
    speed: float = _SCRUB_SPEED


@dataclass(frozen=True, slots=True)
class ExtensionsConfig:
    """Describe what a registry need not do."""

    scrub: ScrubConfig | None = None

    @property
    def scrub_speed(self) -> float:
        """How many bytes a scrub reads in a second, unless it is told otherwise."""
        return self.scrub.speed if self.scrub else _SCRUB_SPEED


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Hold a whole valid configuration."""

    storage: StorageConfig
    http: HTTPConfig = field(default_factory=HTTPConfig)
    log: LogConfig = LogConfig()
    server: ServerConfig = field(default_factory=ServerConfig)
    extensions: ExtensionsConfig = ExtensionsConfig()
    dist_spec_version: str = DIST_SPEC_VERSION
    source: str | None = field(default=None, compare=False)  #: the file that all this was read from

    @property
    def stores(self) -> Mapping[str, StoreConfig]:
        """The stores by the prefix of their repositories' names; the default store has the prefix ""."""
        return {"": self.storage} | {path.strip("/"): store for path, store in self.storage.sub_paths.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """List what is worth a line in the log but no reason to refuse the configuration."""
        return tuple(_warnings(self))


def _warnings(config: Config) -> Iterator[str]:
    http, auth = config.http, config.http.auth
    if config.dist_spec_version != DIST_SPEC_VERSION:
        yield f"distSpecVersion: is {config.dist_spec_version}, but this registry follows {DIST_SPEC_VERSION}"
    if not _is_local(http.address) and not http.has_identities and http.access_control is None:
        yield f"http.address: whoever reaches {http.address} may push and delete: see http.auth and http.accessControl"
    if http.access_control and not http.has_identities:
        yield "http.accessControl: nobody can log in, so that anonymousPolicy alone decides: see http.auth"
    if auth.has_passwords and _in_clear(config):
        yield "http.auth: passwords cross the network in clear: set http.tls, or a proxy with TLS and http.externalUrl"
    if auth.ldap and (auth.ldap.skip_verify or (auth.ldap.insecure and not auth.ldap.start_tls)):
        yield "http.auth.ldap: whoever is between here and the directory can read every password"
    if http.external_url and not config.server.trusted_proxies and (auth.has_passwords or http.ratelimit):
        yield (
            "server.trustedProxies: is empty, so that all who come through the proxy of http.externalUrl have one "
            "address, and share its rate limit and its failed logins"
        )
    if auth.has_passwords and not (auth.token or auth.bearer) and _anonymous_may_some(http.access_control):
        yield (
            "http.accessControl: docker does not log in where anonymous is served: with passwords alone it is asked "
            "for one even to pull; set http.auth.token to let docker pull anonymously"
        )


def _in_clear(config: Config) -> bool:
    http = config.http
    behind_tls = (http.external_url or "").startswith("https:")
    return not (http.tls or behind_tls or _is_local(http.address))


def _is_local(address: str) -> bool:
    return address in ("localhost", "::1") or address.startswith("127.")


def _anonymous_may_some(rules: AccessControl | None) -> bool:
    """Tell whether anonymous is served something, and others more."""
    if rules is None:
        return False
    return any(entry.anonymous_policy for entry in rules.repositories.values()) and grants_more_than_anonymous(rules)


class KeepUntaggedSection(Section):
    """Load `storage.retention.policies[].keepUntagged`."""

    makes = KeepRule
    most_recently_pushed_count = ValueField(values.whole_number(_MAX_COUNT))
    most_recently_pulled_count = ValueField(values.whole_number(_MAX_COUNT))
    pushed_within = ValueField(values.positive_duration)
    pulled_within = ValueField(values.positive_duration)


class KeepTagsSection(KeepUntaggedSection):
    """Load an entry of `storage.retention.policies[].keepTags`."""

    patterns = ValueField(values.patterns)


class PolicySection(Section):
    """Load an entry of `storage.retention.policies`."""

    makes = Policy
    repositories = ValueField(values.globs, required=True)
    delete_referrers = ValueField(values.boolean)
    delete_untagged = ValueField(values.boolean)
    keep_tags = ListField(KeepTagsSection)
    keep_untagged = SectionField(KeepUntaggedSection)

    @validates_schema
    def has_effect(self, data: Mapping[str, Any], **kwargs: Any) -> None:
        """Refuse a rule for what stays anyway."""
        if "keep_untagged" in data and not data.get("delete_untagged"):
            raise ValidationError({"keepUntagged": ["has no effect without deleteUntagged: true"]})


class RetentionSection(Section):
    """Load `storage.retention`."""

    makes = Retention
    dry_run = ValueField(values.boolean)
    delay = ValueField(values.parse_duration)
    warn_within = ValueField(values.parse_duration)
    policies = ListField(PolicySection)


class ImmutableTagsSection(Section):
    """Load an entry of `storage.immutableTags`."""

    makes = ImmutableTags
    repositories = ValueField(values.globs, required=True)
    patterns = ValueField(values.patterns)


class SubPathSection(Section):
    """Load an entry of `storage.subPaths`."""

    makes = StoreConfig
    root_directory = ValueField(values.directory, required=True)
    dedupe = ValueField(values.boolean)
    commit = ValueField(values.boolean)
    gc = ValueField(values.boolean)
    gc_delay = ValueField(values.positive_duration)
    gc_interval = ValueField(values.positive_duration)
    undo = ValueField(values.parse_duration)
    delete_referrers = ValueField(values.boolean)
    retention = SectionField(RetentionSection)
    immutable_tags = ListField(ImmutableTagsSection)
    storage_driver = NotBuilt()
    cache_driver = NotBuilt()
    remote_cache = NotBuilt()


class StorageSection(SubPathSection):
    """Load `storage`."""

    makes = StorageConfig
    root_directory = ValueField(values.directory, load_default=lambda: values.directory(_DEFAULT_ROOT))
    sub_paths = MapField(values.prefix, SubPathSection)
    quotas = ValuesField(values.quota_prefix, values.size)
    max_repos = ValueField(values.whole_number(_MAX_REPOSITORIES))
    gc_time_window = NotBuilt()
    redirect_blob_url = NotBuilt(data_key="redirectBlobURL")
    fast_restart = NotBuilt()

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def roots_are_apart(self, data: Any, original: Mapping[str, Any], **kwargs: Any) -> None:
        """Refuse a root that equals another, or lies in it: one store would serve the other's files."""
        errors = {}
        seen: list[tuple[str, str]] = []
        for path, root in _named_roots(original):
            clash = next((other for other, taken in seen if _overlap(root, taken)), None)
            if clash:
                errors[path] = {"rootDirectory": [f"expected a directory apart from that of {clash}"]}
            seen.append((f'storage.subPaths["{path}"]' if path else "storage", root))
        if errors:
            raise ValidationError({"subPaths": errors})


def _named_roots(storage: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the valid roots with their prefix, symbolic links resolved; the default store has the prefix ""."""
    sub_paths = storage.get("subPaths")
    stores = {"": {"rootDirectory": _DEFAULT_ROOT, **storage}, **(sub_paths if isinstance(sub_paths, Mapping) else {})}
    for path, store in stores.items():
        try:
            yield path, os.path.realpath(values.directory(store["rootDirectory"]))
        except (ValueError, KeyError, TypeError):
            continue  # its own field reports it


def _overlap(one: str, other: str) -> bool:
    return os.path.commonpath([one, other]) in (one, other)


class HTTPSection(Section):
    """Load `http`."""

    makes = HTTPConfig
    address = ValueField(values.address)
    port = ValueField(values.port)
    external_url = ValueField(values.external_url)
    realm = ValueField(values.quotable)
    allow_origin = ValueField(origins)
    tls = SectionField(TLSSection)
    auth = SectionField(AuthSection)
    access_control = SectionField(AccessControlSection)
    ratelimit = SectionField(RateLimitSection)
    read_only = ValueField(values.boolean)
    allow_read_access = NotBuilt()
    compat = NotBuilt()
    read_timeout = NotBuilt()
    write_timeout = NotBuilt()

    @validates_schema
    def has_effect(self, data: Mapping[str, Any], **kwargs: Any) -> None:
        """Refuse what says how a client certificate is read where none is asked for."""
        tls = data.get("tls")
        if data.get("auth", AuthConfig()).mtls and not (tls and tls.ca_cert):
            raise ValidationError({"auth": {"mtls": ["has no effect without http.tls.cacert"]}})


class LogSection(Section):
    """Load `log`."""

    makes = LogConfig
    level = ValueField(values.one_of(LOG_LEVELS))
    output = ValueField(values.log_output)
    format = ValueField(values.one_of(("text", "json")))
    audit = ValueField(values.output_file)


class ServerSection(Section):
    """Load `server`, the section that zot does not have."""

    makes = ServerConfig
    workers = ValueField(values.whole_number(_MAX_WORKERS))
    threads = ValueField(values.whole_number(_MAX_THREADS))
    stall_timeout = ValueField(values.positive_duration)
    graceful_timeout = ValueField(values.positive_duration)
    keepalive = ValueField(values.parse_duration, data_key="keepAlive")
    auth_cache = ValueField(values.duration_between(0.0, _LONGEST_MEMORY))
    trusted_proxies = ValueField(values.networks)
    sparse_indexes = ValueField(values.boolean)


class ScrubSection(Section):
    """Load `extensions.scrub`."""

    makes = ScrubConfig
    enable = ValueField(values.boolean)
    interval = ValueField(values.positive_duration, required=True)
    speed = ValueField(values.speed)


class ExtensionsSection(Section):
    """Load `extensions`."""

    makes = ExtensionsConfig
    scrub = SectionField(ScrubSection)
    search = NotBuilt()
    metrics = NotBuilt()
    lint = NotBuilt()
    sync = NotBuilt()
    ui = NotBuilt()
    mgmt = NotBuilt()
    trust = NotBuilt()
    events = NotBuilt()


class ConfigSection(Section):
    """Load the whole configuration."""

    makes = Config
    dist_spec_version = ValueField(values.version)
    storage = SectionField(StorageSection, load_default=lambda: StorageSection().load({}))
    http = SectionField(HTTPSection)
    log = SectionField(LogSection)
    server = SectionField(ServerSection)
    extensions = SectionField(ExtensionsSection)
    scheduler = NotBuilt()
    cluster = NotBuilt()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_SIZE_LIMIT + 1)
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}")]) from error
    except ValueError as error:
        raise ConfigError([Problem(repr(str(path)), "is no path of a file")]) from error
    if len(content) > _SIZE_LIMIT:
        raise ConfigError([Problem(str(path), f"is larger than {_SIZE_LIMIT // 1024} KiB: not a configuration")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), "is not text in UTF-8")]) from error


def _parse(path: Path) -> Pairs:
    """Read a file as an object.

    Raises ConfigError with one problem: nothing more can be said about what does not parse.
    """
    text = _read(path)
    if not text.strip():
        raise ConfigError([Problem(str(path), "expected an object, got an empty file")])
    try:
        document = parse_json(text) if _is_json(path, text) else parse_yaml(text)
    except ValueError as error:
        raise ConfigError([Problem(str(path), str(error))]) from error
    if not isinstance(document, Pairs):
        raise ConfigError([Problem(str(path), f"expected an object, got {values.show(document)}")])
    return document


def _is_json(path: Path, text: str) -> bool:
    return path.suffix == ".json" or (path.suffix not in (".yaml", ".yml") and text.lstrip().startswith("{"))


class _Names:
    """Give each key its schema's spelling, and collect unknown keys and those given twice."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def settle(self, value: object, field_or_section: object, path: str = "") -> object:
        """Turn the value of a field, or of a schema, into one that the schema can load."""
        if isinstance(field_or_section, ListField) and values.is_list(value):
            section = field_or_section.section
            return [self.settle(item, section, f"{path}[{number}]") for number, item in enumerate(value)]
        if not isinstance(value, Pairs):
            return value
        if isinstance(field_or_section, Section):
            return self._section(value, field_or_section, path)
        if isinstance(field_or_section, SectionField):
            return self._section(value, field_or_section.section, path)
        if isinstance(field_or_section, MapField):
            return self._map(value, field_or_section.section, path)
        return value

    def _section(self, pairs: Pairs, section: Section, path: str) -> dict[str, object]:
        spelling = {key.lower(): key for key in section.keys if key != Section.OWN_KEYS}
        settled: dict[str, object] = {}
        own = Pairs()
        for key, value in self._strings(pairs, path):
            name = spelling.get(key.lower())
            if name is None and Section.OWN_KEYS in section.keys and not re.search("[A-Z]", key):
                own.append((key, value))
            elif name is None:
                self._refuse(_join(path, key), _unknown(key, section))
            elif name in settled:
                self._refuse(_join(path, key), "is given twice (upper and lower case make no difference)")
            else:
                settled[name] = self.settle(value, section.keys[name], _join(path, name))
        if own:
            settled[Section.OWN_KEYS] = self.settle(own, section.keys[Section.OWN_KEYS], path)
        return settled

    def _map(self, pairs: Pairs, section: Section, path: str) -> dict[str, object]:
        settled: dict[str, object] = {}
        for key, value in self._strings(pairs, path):
            if key in settled:
                self._refuse(_join(path, key), "is given twice")
            else:
                settled[key] = self.settle(value, section, _join(path, key))
        return settled

    def _strings(self, pairs: Pairs, path: str) -> Iterator[tuple[str, object]]:
        for key, value in pairs:
            if isinstance(key, str):
                yield key, value
            else:
                self._refuse(_join(path, values.show(key)), "expected a string as a key")

    def _refuse(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))


def _unknown(key: str, section: Section) -> str:
    built = (name for name, field in section.keys.items() if not isinstance(field, NotBuilt))
    names = {name.lower(): name for name in built if name != Section.OWN_KEYS}
    close = difflib.get_close_matches(key.lower(), names, n=1)
    if close:
        return f'unknown key, did you mean "{names[close[0]]}"?'
    return f"unknown key, expected one of {', '.join(names.values())}"


def _join(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not re.fullmatch("[A-Za-z][A-Za-z0-9]*", key):
        return f"{path}[{values.show(key)}]"
    return f"{path}.{key}" if path else key


def _flatten(errors: object, path: str = "") -> Iterator[Problem]:
    """Yield the problems in marshmallow's tree of messages."""
    if isinstance(errors, Mapping):
        for key, inner in errors.items():
            yield from _flatten(inner, path if key in ("_schema", Section.OWN_KEYS) else _join(path, key))
    elif isinstance(errors, list):
        for message in errors:
            yield Problem(path, message)


def _validated(document: Pairs, source: str | None = None) -> Config:
    names = _Names()
    section = ConfigSection()
    settled = names.settle(document, section)
    try:
        config: Config = section.load(settled)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError([*names.problems, *_flatten(error.messages)]) from error
    if names.problems:
        raise ConfigError(names.problems)
    return replace(config, source=source)


def load(path: str | None) -> Config:
    """Read and validate a JSON or YAML file; without a path give the defaults.

    Raises ConfigError with every problem of the file.
    """
    return default_config() if path is None else _validated(_parse(Path(path)), os.path.abspath(path))


def default_config() -> Config:
    """Give the configuration of a registry that has no file: 127.0.0.1:5000, data in `./data`."""
    return _validated(Pairs())


def load_from_environment() -> Config:
    """Read the file that PIERHEAD_CONFIG names; without one give the defaults.

    Raises ConfigError with every problem of the file.
    """
    return load(os.environ.get(ENVIRONMENT_VARIABLE) or None)
