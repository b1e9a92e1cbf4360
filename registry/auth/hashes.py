"""Password hashes as htpasswd files hold them: which are good enough, and whether a password fits one."""

from __future__ import annotations

import ctypes
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

import bcrypt
from passlib.hash import apr_md5_crypt, sha256_crypt, sha512_crypt  # type: ignore[import-untyped]

#: Bytes of the longest password that can be right. The system's crypt takes no more, Apache's htpasswd half of it.
LONGEST_PASSWORD = 511

#: Bytes that bcrypt looks at; Apache's htpasswd ignores the others without a word.
BCRYPT_BYTES = 72

#: The costs of bcrypt: at the greatest one a login keeps a core busy for about two seconds.
BCRYPT_COSTS = range(4, 16)

#: The rounds of SHA-crypt: the specification's least, and what keeps a core busy for about half a second.
SHA_ROUNDS = range(1000, 1_000_001)

_SHA_DEFAULT_ROUNDS = 5000
_APR1_ROUNDS = 1000

# The salt's last character has four bits to spare, which are zero: programs refuse a hash where they are not.
_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_SHA_CRYPT = re.compile(r"\$([56])\$(?:rounds=([1-9][0-9]*)\$)?[./A-Za-z0-9]{1,16}\$([./A-Za-z0-9]+)")
_APR1 = re.compile(r"\$apr1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}")
_DES = re.compile(r"[./A-Za-z0-9]{13}")

_SHA_DIGEST_LENGTHS = {"5": 43, "6": 86}
_CRYPT_DATA_SIZE = 192 * 1024  # bytes; struct crypt_data takes 32 KiB in libxcrypt and took 128 KiB in the old glibc

_Crypt = Callable[[bytes, bytes], bytes | None]


class Scheme(StrEnum):
    """What a hash was made with."""

    BCRYPT = "bcrypt"
    SHA256 = "sha256-crypt"
    SHA512 = "sha512-crypt"
    APR1 = "apr1"


@dataclass(frozen=True, slots=True)
class Hash:
    """A hash that is good enough; `cost` is bcrypt's exponent, else the number of rounds."""

    scheme: Scheme
    cost: int
    text: str = field(repr=False)

    def matches(self, password: str) -> bool:
        """Tell whether this is the password, after the time that the scheme and the cost take.

        Without that time no password is right that is empty, that is too long, or that C's strings cannot hold.
        """
        try:
            data = password.encode()
        except UnicodeEncodeError:  # half a surrogate pair
            return False
        if not 0 < len(data) <= LONGEST_PASSWORD or b"\0" in data:
            return False
        return hmac.compare_digest(_digest(_CHECKS[self.scheme](data, self.text)), _digest(self.text))


def parse(text: str) -> Hash:
    """Take a hash out of a file; raise ValueError, which never shows it, for what is unknown, too weak or too slow."""
    if match := _BCRYPT.fullmatch(text):
        cost = _within(int(match[1]), BCRYPT_COSTS, "a bcrypt cost")
        return Hash(Scheme.BCRYPT, cost, text)
    if (match := _SHA_CRYPT.fullmatch(text)) and len(match[3]) == _SHA_DIGEST_LENGTHS[match[1]]:
        rounds = _within(_rounds(match[2]), SHA_ROUNDS, "a number of rounds")
        return Hash(Scheme.SHA256 if match[1] == "5" else Scheme.SHA512, rounds, text)
    if _APR1.fullmatch(text):
        return Hash(Scheme.APR1, _APR1_ROUNDS, text)
    raise ValueError(_why_not(text))


def make(password: str, cost: int) -> str:
    """Hash a new password with bcrypt, such that Apache's programs take it too.

    Raises ValueError for a password that could not be used, or of which bcrypt would ignore a part.
    """
    try:
        data = password.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the password is no text in UTF-8") from error
    if not data:
        raise ValueError("the password is empty")
    if b"\0" in data:
        raise ValueError("the password has a NUL in it")
    if len(data) > BCRYPT_BYTES:
        raise ValueError(f"the password is longer than {BCRYPT_BYTES} bytes, which is all that bcrypt looks at")
    # What the library calls 2b is what Apache calls 2y.
    return "$2y$" + bcrypt.hashpw(data, bcrypt.gensalt(cost)).decode().removeprefix("$2b$")


def _within(number: int, limits: range, what: str) -> int:
    if number not in limits:
        raise ValueError(f"{what} from {limits[0]} to {limits[-1]} is accepted, and this is not")
    return number


def _rounds(digits: str | None) -> int:
    """Read a number, as far as it is of interest: Python refuses thousands of digits."""
    return int(digits[:12]) if digits else _SHA_DEFAULT_ROUNDS


def _why_not(text: str) -> str:
    if not text:
        return "there is no hash"
    if text.startswith("{SHA}"):
        return "bare SHA-1 ({SHA}) is not accepted: it has no salt and costs nothing to guess"
    if _DES.fullmatch(text):
        return "DES crypt and plain text are not accepted"
    if text.startswith(("$2", "$5$", "$6$", "$apr1$")):
        return "the hash is damaged, or of a variant that is not accepted"
    return "plain text and unknown hashes are not accepted"


def _digest(text: str) -> bytes:
    return text.rpartition("$")[2].encode()


def _bcrypt(password: bytes, text: str) -> str:
    return bcrypt.hashpw(password[:BCRYPT_BYTES], text.encode()).decode()


def _sha_crypt(password: bytes, text: str) -> str:
    """Hash with the system's crypt, else in Python, which is hardly slower but hinders all other threads."""
    crypt = system_crypt()
    if crypt is not None:
        return (crypt(password, text.encode()) or b"").decode()
    return sha_crypt_in_python(password, text)


def sha_crypt_in_python(password: bytes, text: str) -> str:
    """Hash a password as `text` was."""
    handler = sha256_crypt if text.startswith("$5$") else sha512_crypt
    given = handler.from_string(text)
    return str(handler.using(salt=given.salt, rounds=given.rounds).hash(password))


def _apr1(password: bytes, text: str) -> str:
    return str(apr_md5_crypt.using(salt=text.split("$")[2]).hash(password))


_CHECKS: dict[Scheme, Callable[[bytes, str], str]] = {
    Scheme.BCRYPT: _bcrypt,
    Scheme.SHA256: _sha_crypt,
    Scheme.SHA512: _sha_crypt,
    Scheme.APR1: _apr1,
}

_SETTINGS = ("$5$rounds=1000$pierhead", "$6$rounds=1000$pierhead")


@cache
def system_crypt() -> _Crypt | None:
    """Find the system's crypt, in libcrypt or in libc, if it makes of a password what Python does.

    Called by ctypes it does not hold the interpreter's lock; Python's own module for it held the lock all the time.
    """
    for name in ("libcrypt.so.1", "libcrypt.so.2", None):
        crypt = _crypt_of(name)
        if crypt is not None and all(_agrees(crypt, setting) for setting in _SETTINGS):
            return crypt
    return None


def _agrees(crypt: _Crypt, setting: str) -> bool:
    password = "Pässe".encode()
    return crypt(password, setting.encode()) == sha_crypt_in_python(password, setting).encode()


def _crypt_of(library: str | None) -> _Crypt | None:
    try:
        function = ctypes.CDLL(library).crypt_r
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    function.restype = ctypes.c_char_p

    def crypt(password: bytes, setting: bytes) -> bytes | None:
        result: bytes | None = function(password, setting, ctypes.create_string_buffer(_CRYPT_DATA_SIZE))
        return result

    return crypt
