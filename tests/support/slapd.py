"""A directory of its own for a test: Debian's slapd with its own configuration and data, on free loopback ports.

    with Slapd(tmp_path / "ldap") as directory:
        server = make_server(config={"http": {"auth": {"ldap": directory.config()}}})

`config()` gives the keys of `http.auth.ldap` for a search with the service account, StartTLS and this server's CA; its
keywords replace some of them (None leaves one out). The entries are those of `USERS`; their passwords are there too.
`set_password`, `delete` and `add` change them while it runs; `stop`, `start` (the same ports again), `freeze` and
`thaw` do what happens to servers. `HangingServer` accepts connections and never says anything.

It needs the Debian package slapd and the Python package of the extra `ldap`: `require()` skips a test without them.
"""

from __future__ import annotations

import base64
import datetime
import importlib.util
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.server import free_port

BASE = "dc=example,dc=org"
PEOPLE = f"ou=people,{BASE}"
SERVICE_DN = f"cn=registry,{BASE}"
SERVICE_PASSWORD = "the secret of the service account"

#: The hash of "slowly" by crypt(3), in so many rounds that it takes some tenths of a second to compute.
SLOW_HASH = (
    "{CRYPT}$6$rounds=1500000$saltsaltsaltsalt$jSJjqQCoemiVNx6"
    "w5Fjl8ToHHX8SuYokmAY80A1SNO1sgu.kD2X7TSR7N3LJ4SHq1Gq68JX75p7XkjBgcXSk//"
)

# What Active Directory keeps of an account, as far as a registry reads it; `adUser` may be added to any entry.
_ACTIVE_DIRECTORY = (
    "attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl'"
    " SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )",
    "attributetype ( 1.2.840.113556.1.4.96 NAME 'pwdLastSet' SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )",
    "attributetype ( 1.2.840.113556.1.4.221 NAME 'sAMAccountName' EQUALITY caseIgnoreMatch"
    " SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )",
    "attributetype ( 2.16.840.1.113730.3.1.610 NAME 'nsAccountLock' SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )",
    "objectclass ( 1.2.840.113556.1.5.9 NAME 'adUser' SUP top AUXILIARY"
    " MAY ( userAccountControl $ pwdLastSet $ sAMAccountName $ nsAccountLock ) )",
)

_ROOT_DN = f"cn=root,{BASE}"
_ROOT_PASSWORD = "root"
_POLICY_DN = f"cn=policy,{BASE}"
_MODULES = "/usr/lib/ldap"
_SCHEMAS = "/etc/ldap/schema"
_SECONDS = 30.0
_ATTEMPTS = 5


@dataclass(frozen=True)
class User:
    """Somebody in the directory: `parent` is below BASE, `groups` are common names, `extra` is lines of LDIF.

    `stored` is what the directory keeps for the password, if that is not the password itself.
    """

    names: Sequence[str]
    password: str
    parent: str = "ou=people"
    groups: Sequence[str] = ()
    teams: Sequence[str] = ()
    extra: Sequence[str] = ()
    stored: str = ""

    @property
    def dn(self) -> str:
        """Give the DN, whose first part is the first name."""
        name = self.names[0].encode()
        letters = [chr(octet) if chr(octet).isalnum() and octet < 0x7F else f"\\{octet:02x}" for octet in name]
        return f"uid={''.join(letters)},{self.parent},{BASE}"


NESTED = "ou=interns,ou=people"
USERS: Mapping[str, User] = {
    "alice": User(["alice"], "wonderland", groups=["developers", "release managers"], teams=["red", "blue"]),
    "bob": User(["bob"], "builder", parent=NESTED, groups=["interns"]),
    "carol": User(["carol", "caroline"], "christmas"),
    "odd": User([' #o,d+d="<name>;\\ (*)'], "odd \\ pässword (*)"),
    "zoë": User(["zoë"], "zebra"),
    "twin": User(["twin"], "first"),
    "other twin": User(["twin"], "second", parent=NESTED),
    "tortoise": User(["tortoise"], "slowly", stored=SLOW_HASH),
    "locked": User(["locked"], "locked", extra=["pwdAccountLockedTime: 000001010000Z"]),
}

_ACCESS = (
    "to attrs=userPassword by anonymous auth by * none",
    f'to dn.subtree="{BASE}" by dn.exact="{SERVICE_DN}" read by self read by anonymous auth',
)
#: Everybody may search, as in many directories.
OPEN_ACCESS = ("to attrs=userPassword by anonymous auth by * none", "to * by * read")


def require() -> None:
    """Skip a test for which something is missing, and say what to install."""
    if _slapd() is None or importlib.util.find_spec("ldap") is None:
        pytest.skip(
            "slapd or python-ldap is missing: run tests/clients/install.sh as root "
            "(or apt-get install slapd gcc libc6-dev libldap-dev libsasl2-dev python3-dev), then make test"
        )


def _slapd() -> str | None:
    return shutil.which("slapd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Slapd:
    """Run slapd while the context lasts.

    `access` are its access rules; `policy` is whether it keeps password policies, and with them the time of a
    password's last change; `directives` are more lines for the configuration of the database. `names` are the host
    names and addresses in its certificate.
    """

    def __init__(
        self,
        path: Path,
        *,
        access: Sequence[str] = _ACCESS,
        policy: bool = True,
        directives: Sequence[str] = (),
        names: Sequence[str] = ("localhost", "127.0.0.1"),
    ) -> None:
        """Write certificates, configuration and data; nothing runs yet."""
        self.path = path
        self.port = 0
        self.tls_port = 0
        self.ca_file = path / "ca.pem"
        self._process: subprocess.Popen[bytes] | None = None
        (path / "data").mkdir(parents=True)
        write_certificates(path, names)
        (path / "slapd.conf").write_text(_configuration(path, access, policy, directives))
        (path / "data.ldif").write_bytes(_ldif(policy))
        self._load()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop, also when it is frozen."""
        self.stop()

    def config(self, **changes: Any) -> dict[str, Any]:
        """Give the keys of `http.auth.ldap`; a change to None leaves one out."""
        keys: dict[str, Any] = {
            "address": "localhost",
            "port": self.port,
            "startTLS": True,
            "caCert": str(self.ca_file),
            "subtreeSearch": True,
            "bindDN": SERVICE_DN,
            "bindPassword": SERVICE_PASSWORD,
            "baseDN": PEOPLE,
            "userGroupAttribute": "memberOf",
            **changes,
        }
        return {key: value for key, value in keys.items() if value is not None}

    def start(self) -> None:
        """Start, on the ports of the last time if there was one."""
        for attempt in range(_ATTEMPTS):
            if not self.port or attempt:
                self.port, self.tls_port = free_port(), free_port()
            if self._launch():
                return
        raise AssertionError(f"slapd does not start:\n{self.log()}")

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Let it accept connections, as the kernel does for it, and answer nothing."""
        assert self._process is not None, "slapd does not run"
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # until then it may answer

    def thaw(self) -> None:
        """Let it answer again."""
        assert self._process is not None, "slapd does not run"
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """Give what it wrote: binds, searches and their filters."""
        path = self.path / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def set_password(self, user: User, password: str) -> None:
        """Change a password, as an administrator."""
        with self._administration() as (ldap, server):
            server.modify_s(user.dn, [(ldap.MOD_REPLACE, "userPassword", [password.encode()])])

    def modify(self, user: User, attribute: str, values: Sequence[str]) -> None:
        """Replace an attribute's values."""
        with self._administration() as (ldap, server):
            server.modify_s(user.dn, [(ldap.MOD_REPLACE, attribute, [value.encode() for value in values])])

    def delete(self, user: User) -> None:
        """Delete somebody's entry."""
        with self._administration() as (_ldap, server):
            server.delete_s(user.dn)

    def add(self, user: User) -> None:
        """Add an entry, without groups and teams."""
        values = {"objectClass": ["inetOrgPerson", "adUser"], "cn": user.names, "sn": ["x"], "uid": user.names}
        values["userPassword"] = [user.stored or user.password]
        entry = [(name, [value.encode() for value in found]) for name, found in values.items()]
        with self._administration() as (_ldap, server):
            server.add_s(user.dn, entry)

    @contextmanager
    def _administration(self) -> Iterator[tuple[Any, Any]]:
        ldap = importlib.import_module("ldap")
        server = ldap.initialize(f"ldap://127.0.0.1:{self.port}")
        server.simple_bind_s(_ROOT_DN, _ROOT_PASSWORD)
        try:
            yield ldap, server
        finally:
            server.unbind_s()

    def _load(self) -> None:
        command = [_slapd(), "-T", "add", "-f", self.path / "slapd.conf", "-l", self.path / "data.ldif"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _launch(self) -> bool:
        addresses = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        # 256 logs what is asked and answered; with any level it stays in the foreground.
        command = [_slapd(), "-h", addresses, "-f", self.path / "slapd.conf", "-d", "256"]
        with (self.path / "log").open("ab") as log:
            self._process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if _listens(self.port) and _listens(self.tls_port):
                return True
            time.sleep(0.02)
        self.stop()
        return False


class HangingServer:
    """Accept connections on a loopback port and never answer.

    `says` is what it says all the same, to whatever it hears first; with `then_close` it closes after that.
    """

    def __init__(self, says: bytes = b"", *, then_close: bool = False) -> None:
        """Choose the port; nobody listens there yet."""
        self._says = says
        self._then_close = then_close
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        #: What it heard, on each connection.
        self.heard: list[bytes] = []
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        """Listen."""
        self._listener.listen(1024)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self.heard.append(b"")
                threading.Thread(target=self._hear, args=(connection, len(self.heard) - 1), daemon=True).start()

    def _hear(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError):
            while data := connection.recv(4096):
                first = not self.heard[number]
                self.heard[number] += data
                if first and self._says:
                    connection.sendall(self._says)
                if first and self._then_close:
                    connection.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _configuration(path: Path, access: Sequence[str], policy: bool, directives: Sequence[str]) -> str:
    lines = [
        *(f"include {_SCHEMAS}/{name}.schema" for name in ("core", "cosine", "inetorgperson")),
        *_ACTIVE_DIRECTORY,
        f"modulepath {_MODULES}",
        *(f"moduleload {name}" for name in ("back_mdb", "memberof", "ppolicy")),
        f"pidfile {path}/pid",
        f"TLSCACertificateFile {path}/ca.pem",
        f"TLSCertificateFile {path}/cert.pem",
        f"TLSCertificateKeyFile {path}/key.pem",
        "database mdb",
        f'suffix "{BASE}"',
        f'rootdn "{_ROOT_DN}"',
        f"rootpw {_ROOT_PASSWORD}",
        f"directory {path}/data",
        "maxsize 16777216",
        "index uid eq",
        *(f"access {rule}" for rule in access),
        *directives,
        "overlay memberof",
        *(["overlay ppolicy", f'ppolicy_default "{_POLICY_DN}"', "ppolicy_hash_cleartext"] if policy else []),
    ]
    return "\n".join(lines) + "\n"


def _ldif(policy: bool) -> bytes:
    entries = [
        [f"dn: {BASE}", "objectClass: dcObject", "objectClass: organization", "o: Example", "dc: example"],
        *([f"dn: {dn},{BASE}", "objectClass: organizationalUnit"] for dn in ("ou=people", NESTED, "ou=groups")),
        [f"dn: {SERVICE_DN}", "objectClass: organizationalRole", "objectClass: simpleSecurityObject"],
    ]
    entries[-1].append(f"userPassword: {SERVICE_PASSWORD}")
    if policy:
        classes = ["objectClass: organizationalRole", "objectClass: pwdPolicy"]
        entries.append([f"dn: {_POLICY_DN}", *classes, "pwdAttribute: userPassword", "pwdLockout: TRUE"])
    members: dict[str, list[str]] = {}
    for user in USERS.values():
        entries.append(_entry(user, policy))
        for group in user.groups:
            members.setdefault(group, []).append(user.dn)
    for group, dns in members.items():
        listed = [_line("member", dn) for dn in dns]
        entries.append([f"dn: {group_dn(group)}", "objectClass: groupOfNames", f"cn: {group}", *listed])
    return "\n\n".join("\n".join(lines) for lines in entries).encode()


def group_dn(name: str) -> str:
    """Give the DN of a group."""
    return f"cn={name},ou=groups,{BASE}"


def _entry(user: User, policy: bool) -> list[str]:
    return [
        _line("dn", user.dn),
        "objectClass: inetOrgPerson",
        "objectClass: adUser",
        *(_line("uid", name) for name in user.names),
        _line("cn", user.names[0]),
        "sn: x",
        _line("userPassword", user.stored or user.password),
        *(f"departmentNumber: {team}" for team in user.teams),
        *(f"memberOf: {group_dn(group)}" for group in user.groups),
        *(user.extra if policy else ()),
    ]


def _line(name: str, value: str) -> str:
    return f"{name}:: {base64.b64encode(value.encode()).decode()}"


def write_certificates(path: Path, names: Sequence[str]) -> None:
    """Write a CA's certificate to ca.pem, and to cert.pem and key.pem one of its certificates, for these names."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("Test CA", ca_key, "Test CA", ca_key, is_ca=True)
    server = _certificate("server", key, "Test CA", ca_key, names=names)
    for name, certificate in (("ca.pem", authority), ("cert.pem", server)):
        (path / name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (path / "key.pem").write_bytes(key.private_bytes(*encoding))


def _certificate(  # noqa: PLR0913
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    names: Sequence[str] = (),
    is_ca: bool = False,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    subjects, issuers = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    builder = x509.CertificateBuilder().subject_name(subjects).issuer_name(issuers).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
    builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(authority, critical=False)
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"encipher_only": False, "decipher_only": False, "crl_sign": is_ca, "key_cert_sign": is_ca}
    builder = builder.add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(text) for text in names]), False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
