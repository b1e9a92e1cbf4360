"""A connection to an LDAP server that cannot hang: TCP, TLS and StartTLS are ours, the protocol is libldap's.

libldap is given a socket that is connected already. Its own TLS cannot be bounded in time where it is built on GnuTLS,
as Debian's is: with a server that accepts and then says nothing, the handshake spins for ever, whatever timeouts are
set (OpenLDAP 2.5). So TLS is the standard library's, and a thread relays between it and libldap.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from registry.watched import WatchedFile

if TYPE_CHECKING:
    from registry.config_auth import LDAPConfig

#: Seconds that a connection, and then each answer, may take.
TIMEOUT = 5.0

# What libldap would connect to by itself after a connection has broken: nothing, so that it never does so in the clear.
_NOWHERE = "ldapi://%2Fdev%2Fnull"

_CHUNK = 65536
_LONGEST_ANSWER = 65536

# RFC 4511, section 4.14.1: an LDAPMessage with messageID 1 and an ExtendedRequest for 1.3.6.1.4.1.1466.20037.
_START_TLS = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037"


class Unreachable(Exception):
    """There is no connection to the server, or none that can be trusted; the message says why, for the log."""


class Connector:
    """Open connections as the configuration says; `library` is the module `ldap`."""

    def __init__(self, config: LDAPConfig, library: Any) -> None:
        """Read the CA file; raise ValueError for a bad one, and for an address that no host can have."""
        config.address.encode("idna")
        self._config = config
        self._library = library
        self._encrypted = config.start_tls or not config.insecure
        self._authorities = WatchedFile(config.ca_cert, _trusting) if config.ca_cert else None
        self._default = ssl.create_default_context()
        if config.skip_verify:
            self._default.check_hostname = False
            self._default.verify_mode = ssl.CERT_NONE
        self._context()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Give libldap's connection, and close it in the end; raise Unreachable."""
        ours = self._connect()
        relay = _Relay(ours) if isinstance(ours, ssl.SSLSocket) else None
        client = self._client(relay.other_end if relay else ours)
        try:
            yield client
        finally:
            with suppress(self._library.LDAPError):
                client.unbind_s()
            if relay:
                relay.join()

    def _client(self, connected: socket.socket) -> Any:
        # libldap polls for an answer's beginning only: on a blocking socket one that stops half-way would hang it.
        connected.setblocking(False)
        client = self._library.initialize(_NOWHERE, fileno=connected.fileno())
        connected.detach()
        client.timeout = TIMEOUT
        client.set_option(self._library.OPT_TIMEOUT, TIMEOUT)
        client.set_option(self._library.OPT_REFERRALS, 0)
        client.set_option(self._library.OPT_DEREF, self._library.DEREF_NEVER)
        return client

    def _connect(self) -> socket.socket:
        try:
            connected = socket.create_connection((self._config.address, self._config.port), TIMEOUT)
        except OSError as error:
            raise Unreachable(f"cannot connect: {error.strerror or error}") from error
        # Questions and answers are small, and each waits for the other.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return self._encrypt(connected) if self._encrypted else connected
        except (OSError, ValueError) as error:
            connected.close()
            raise Unreachable(f"no TLS: {_reason(error)}") from error
        except Unreachable:
            connected.close()
            raise

    def _encrypt(self, connected: socket.socket) -> ssl.SSLSocket:
        if self._config.start_tls:
            _ask_for_tls(connected)
        return self._context().wrap_socket(connected, server_hostname=self._config.address)

    def _context(self) -> ssl.SSLContext:
        if self._authorities is None or self._config.skip_verify:
            return self._default
        try:
            return self._authorities.get()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"{self._config.ca_cert}: {reason}") from error


def _trusting(pem: bytes) -> ssl.SSLContext:
    """Make a context that trusts these authorities and no others; raise ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise ValueError("it holds no certificates in PEM") from error
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate cannot be trusted: {error.verify_message}"
    return str(getattr(error, "strerror", None) or error)


def _ask_for_tls(connected: socket.socket) -> None:
    """Make a server that speaks in the clear expect a TLS handshake next; raise Unreachable if it does not want to.

    Nothing that was sent before the handshake is taken as said after it: exactly one answer is read.
    """
    connected.sendall(_START_TLS)
    code = _result_of_start_tls(_read_message(connected))
    if code != 0:
        raise Unreachable(f"no TLS: the server refuses StartTLS with result {code}")


def _read_message(connected: socket.socket) -> bytes:
    """Read one LDAPMessage, and give what is in its sequence."""
    head = _read_exactly(connected, 2)
    size = head[1]
    if size > 0x7F:  # noqa: PLR2004  # X.690, section 8.1.3.5: that many octets of length follow
        size = int.from_bytes(_read_exactly(connected, min(size & 0x7F, 4)))
    if head[:1] != b"\x30" or size > _LONGEST_ANSWER:
        raise Unreachable("no TLS: what answers is no LDAP server")
    return _read_exactly(connected, size)


def _read_exactly(connected: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connected.recv(size)
        if not part:
            raise Unreachable("no TLS: the server closed the connection")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _result_of_start_tls(message: bytes) -> int:
    """Return the result code of an ExtendedResponse to message 1 (RFC 4511, sections 4.1.9 and 4.12)."""
    number, kind, rest = message[:3], message[3:4], message[4:]
    if number != b"\x02\x01\x01" or kind != b"\x78" or not rest:
        raise Unreachable("no TLS: the server answers StartTLS with something else")
    octets = rest[0] & 0x7F if rest[0] > 0x7F else 0  # noqa: PLR2004  # as in _read_message
    code = rest[1 + octets : 4 + octets]
    if code[:2] != b"\x0a\x01" or len(code) != 3:  # noqa: PLR2004  # tag, length and one octet
        raise Unreachable("no TLS: the server answers StartTLS with something else")
    return code[2]


class _Relay(threading.Thread):
    """Carry what libldap says in the clear, on `other_end`, to a TLS connection and back, until either side closes."""

    def __init__(self, secure: ssl.SSLSocket) -> None:
        super().__init__(name="ldap-relay", daemon=True)
        self._secure = secure
        self._plain, self.other_end = socket.socketpair()
        self._plain.settimeout(TIMEOUT)
        self.start()

    def run(self) -> None:
        """Relay; whatever goes wrong, libldap sees that the connection is closed."""
        poller = select.poll()
        poller.register(self._plain, select.POLLIN)
        poller.register(self._secure, select.POLLIN)
        with self._plain, self._secure, suppress(OSError):
            while all(self._carry(descriptor) for descriptor, _ in poller.poll()):
                pass

    def _carry(self, readable: int) -> bool:
        """Carry what there is to read on one side; tell whether that side is still open."""
        return self._carry_out() if readable == self._plain.fileno() else self._carry_in()

    def _carry_out(self) -> bool:
        data = self._plain.recv(_CHUNK)
        self._secure.settimeout(TIMEOUT)
        self._secure.sendall(data)
        return bool(data)

    def _carry_in(self) -> bool:
        # Not all that makes the socket readable is data (there are session tickets), and not all data is in the socket.
        self._secure.setblocking(False)
        while True:
            try:
                data = self._secure.recv(_CHUNK)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return True
            if not data:
                return False
            self._plain.sendall(data)
