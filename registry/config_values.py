"""The values of a configuration: a function each, which raises ValueError saying what was expected."""

import ipaddress
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import TypeGuard
from urllib.parse import urlsplit

from registry.config_text import Pairs
from storage.errors import NameInvalid
from storage.globs import check_pattern
from storage.names import check_name

_SHOWN_CHARACTERS = 60
_SHOWN_BITS = 64  # Python refuses to write out a number of thousands of digits
_MAX_PORT = 65535

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(f"(?:{_DURATION_PART.pattern})+")
_LONGEST_DURATION = (2**63 - 1) / 1e9  # Go counts nanoseconds in 64 bits

_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?(B|[KMGTPE]i?B)?", re.IGNORECASE)
_SIZE_UNITS = {"b": 1} | {
    unit.lower() + suffix: base**power
    for power, unit in enumerate("KMGTPE", 1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_LARGEST_SIZE = 2**63 - 1  # of what file systems count in

_HOST_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# The last label begins with a letter, as top-level domains do: "1.2.3" is a mistyped address, not a name.
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_HOST_LABEL}\.)*(?=[A-Za-z]){_HOST_LABEL}")
_VERSION = re.compile(r"v?[0-9]+\.[0-9]+(\.[0-9]+)?(-[0-9A-Za-z.-]+)?")


def parse_duration(value: object) -> float:
    """Turn a Go duration ("1h30m", "1.5h", "300ms", "0") into seconds.

    Raises ValueError if it is none, is negative, or is longer than Go can hold.
    """
    if value == "0":
        return 0.0
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise expected('a duration such as "90s", "1h30m" or "300ms"', value)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(value))
    if seconds > _LONGEST_DURATION:
        raise expected("a duration of at most 292 years", value)
    return seconds


def positive_duration(value: object) -> float:
    """Turn a Go duration into seconds; zero is refused."""
    seconds = parse_duration(value)
    if seconds == 0:
        raise expected("a duration longer than zero", value)
    return seconds


def size(value: object) -> int:
    """Turn a size ("50GiB", "1.5 TB", "4096" or a number of bytes) into bytes; zero is refused."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match:
        found = int(Decimal(match[1]) * _SIZE_UNITS[(match[2] or "B").lower()])
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    else:
        raise expected('a size such as "50GiB", "500MB" or a number of bytes', value)
    if not 1 <= found <= _LARGEST_SIZE:
        raise expected("a size from 1 byte to 8 EiB", value)
    return found


def speed(value: object) -> float:
    """Turn a size, which is read in a second, into bytes; "0" is no limit."""
    return 0.0 if value in ("0", 0) and not isinstance(value, bool) else float(size(value))


def boolean(value: object) -> bool:
    """Take true or false, and no word or number that could mean it."""
    if not isinstance(value, bool):
        raise expected("true or false", value)
    return value


def whole_number(most: int) -> Callable[[object], int]:
    """Make a function that takes a number from 1 to `most`."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise expected(f"a whole number from 1 to {most}", value)
        return value

    return parse


def number_up_to(most: int) -> Callable[[object], int]:
    """Make a function that takes a number from 0 to `most`."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise expected(f"a whole number from 0 to {most}", value)
        return value

    return parse


def positive_number(most: int) -> Callable[[object], float]:
    """Make a function that takes a number above zero, and at most `most`."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise expected(f"a number above 0, and at most {most}", value)
        return float(value)

    return parse


def duration_between(least: float, most: float) -> Callable[[object], float]:
    """Make a function that takes a Go duration of so many seconds."""

    def parse(value: object) -> float:
        seconds = parse_duration(value)
        if not least <= seconds <= most:
            raise expected(f"a duration from {least:g} to {most:g} seconds", value)
        return seconds

    return parse


def port(value: object) -> int:
    """Take a port as zot writes it, a string, or as a number."""
    number = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,5}", value) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _MAX_PORT:
        raise expected(f'a port from 1 to {_MAX_PORT}, such as "8080"', value)
    return number


def address(value: object) -> str:
    """Take what a server can listen on: an IP address or a host name."""
    if not isinstance(value, str) or not (_is_ip_address(value) or _HOST_NAME.fullmatch(value)):
        raise expected('an IP address or a host name, such as "0.0.0.0"', value)
    return value


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def external_url(value: object) -> str:
    """Take the URL that clients use, without the slash at its end: a path is a prefix of every route."""
    if not isinstance(value, str) or not _is_base_url(value):
        raise expected('an http or https URL without a query, such as "https://registry.example.com"', value)
    return value.rstrip("/")


def _is_base_url(text: str) -> bool:
    if not re.fullmatch(r"[!-~]+", text) or re.search(r"[?#@\\\"<>]", text):
        return False
    try:
        parts = urlsplit(text)
        port_number = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port_number != 0


def one_of(choices: Collection[str]) -> Callable[[object], str]:
    """Make a function that takes one of these words, in upper or lower case."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or value.lower() not in choices:
            raise expected(f"one of {', '.join(choices)}", value)
        return value.lower()

    return parse


def one_of_exactly(choices: Sequence[str]) -> Callable[[object], str]:
    """Make a function that takes one of these words, as it is spelt here."""

    def parse(value: object) -> str:
        if value not in choices:
            raise expected(f"one of {', '.join(choices)}", value)
        return str(value)

    return parse


def list_of(what: str, parse: Callable[[object], str]) -> Callable[[object], tuple[str, ...]]:
    """Make a function that takes a list, and each of its values by another function."""

    def parse_list(value: object) -> tuple[str, ...]:
        if not is_list(value):
            raise expected(f"a list of {what}", value)
        return tuple(map(parse, value))

    return parse_list


def patterns(value: object) -> tuple[re.Pattern[str], ...]:
    """Take a list of regular expressions, not empty."""
    if not is_list(value) or not value:
        raise expected("a list of regular expressions", value)
    return tuple(map(_pattern, value))


def _pattern(value: object) -> re.Pattern[str]:
    if not isinstance(value, str) or not value:
        raise expected('a regular expression, such as "^v[0-9]"', value)
    try:
        return re.compile(value)
    except re.error as error:
        raise ValueError(f"{show(value)} is no regular expression: {error}") from None


def globs(value: object) -> tuple[str, ...]:
    """Take a list of globs over repository names, not empty."""
    if not is_list(value) or not value:
        raise expected('a list of globs over repository names, such as ["team/**"]', value)
    return tuple(map(_glob, value))


def _glob(value: object) -> str:
    if not isinstance(value, str):
        raise expected('a glob over repository names, such as "team/**"', value)
    return check_pattern(value)


def text(value: object) -> str:
    """Take a line of text that says something."""
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise expected("a line of text", value)
    return value


def quotable(value: object) -> str:
    """Take what can stand in quotes in a header (RFC 9110, section 5.6.4) without escapes."""
    if not isinstance(value, str) or not re.fullmatch(r"[ !#-\[\]-~]+", value):
        raise expected("text in ASCII, without quotation marks and backslashes", value)
    return value


def principal(value: object) -> str:
    """Take the name of a user or group; there is no wildcard for everybody."""
    if value == "*":
        raise ValueError('expected a name; for everybody who can log in there is "defaultPolicy"')
    return text(value)


def attribute(value: object) -> str:
    """Take the name of an LDAP attribute (RFC 4512, section 1.4)."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", value):
        raise expected('the name of an attribute, such as "uid"', value)
    return value


def ldap_filter(value: object) -> str:
    """Take an LDAP filter (RFC 4515), which stands in parentheses."""
    if not isinstance(value, str) or not (value.startswith("(") and value.endswith(")")):
        raise expected('a filter in parentheses, such as "(objectClass=person)"', value)
    return value


def log_output(value: object) -> str:
    """Take `stdout`, `stderr`, or a file, whose path becomes absolute."""
    if value in ("stdout", "stderr"):
        return str(value)
    return output_file(value, '"stdout", "stderr" or the path of a file')


def output_file(value: object, what: str = "the path of a file") -> str:
    """Take a file that can be written to, whose path becomes absolute."""
    path = _absolute_path(what, value)
    if not os.path.isdir(os.path.dirname(path)) or os.path.isdir(path):
        raise expected("a file in a directory that exists", value)
    return path


def file(value: object) -> str:
    """Take a file that can be read, whose path becomes absolute."""
    path = _absolute_path("the path of a file", value)
    try:
        with open(path, "rb"):  # noqa: PTH123  # a path may be anything that somebody wrote
            return path
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def directory(value: object) -> str:
    """Take the path of a directory, which need not exist, and make it absolute."""
    return _absolute_path("the path of a directory", value)


def _absolute_path(what: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise expected(what, value)
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise expected(what, value) from None
    return os.path.abspath(value)


def version(value: object) -> str:
    """Take a version of the distribution spec, such as "1.0.1" or "v1.1.0-dev"."""
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        raise expected('a version as a string, such as "1.1.1"', value)
    return value


def networks(value: object) -> tuple[str, ...]:
    """Take a list of IP addresses and CIDR networks; an address becomes a network of one."""
    if not is_list(value):
        raise expected('a list of addresses and networks, such as ["127.0.0.1", "10.0.0.0/8"]', value)
    faults = [fault for fault in map(_network_fault, value) if fault]
    if faults:
        raise ValueError(f'expected addresses and networks such as "10.0.0.0/8", but {", ".join(faults)}')
    return tuple(str(ipaddress.ip_network(str(network))) for network in value)


def _network_fault(value: object) -> str | None:
    if not isinstance(value, str):
        return f"{show(value)} is none"
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        return str(error)
    return None


def is_list(value: object) -> TypeGuard[list[object]]:
    """Tell whether a value is a list; an object of the text is a list of pairs, and none."""
    return isinstance(value, list) and not isinstance(value, Pairs)


def prefix(key: str) -> str:
    """Take a key of `storage.subPaths`: a repository name (distribution spec, "Pulling manifests") after a slash."""
    if not key.startswith("/"):
        raise expected('"/" and the start of a repository name, such as "/a" or "/a/b"', key)
    try:
        check_name(key[1:])
    except NameInvalid as error:
        raise ValueError(f'expected "/" and the start of a repository name, but {error}') from error
    return key


def quota_prefix(key: str) -> str:
    """Take a key of `storage.quotas`, such as "team/app" or "/" for all repositories; return it without slashes."""
    name = key.strip("/")
    if name:
        try:
            check_name(name)
        except NameInvalid as error:
            raise ValueError(f'expected the start of a repository name, or "/" for all, but {error}') from error
    return name


def expected(what: str, value: object) -> ValueError:
    """Make the error that every function here raises."""
    return ValueError(f"expected {what}, got {show(value)}")


def show(value: object) -> str:
    """Name a value in a message: short, and on one line."""
    if isinstance(value, Pairs | Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return "a huge number"
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."
