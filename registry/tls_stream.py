"""A client's socket under TLS, in which the handshake waits for nobody, and no wait outlasts the stall timeout."""

import os
import select
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, NoReturn, Self

from registry.stream import Stream

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# What is read of a file and encrypted at once: a slow reader holds up so much memory.
_PART = 256 * 1024
# The most that OpenSSL gives at once (RFC 8446, section 5.1). Whoever has asked for more has left nothing with it.
_RECORD = 16 * 1024


class HandshakeFailed(ConnectionError):
    """Say why a client and this server found no way to talk; the client was told in an alert."""


class TLSStream(Stream, ssl.SSLSocket):  # type: ignore[misc]  # They differ in defaults that nobody leaves out.
    """Move bytes as `Stream` does, encrypted.

    OpenSSL may have to send in order to receive, and the reverse: `wants` says what it waits for. What it objects to
    is a ConnectionError here, as anything else is that goes wrong with a connection. An end without a farewell is an
    error too, for anybody on the way can bring that about.
    """

    scheme = "https"
    stall_timeout = 0.0
    _secure = False
    _certificate: Mapping[str, Any] | None = None
    _certificate_ends = 0.0

    @classmethod
    def over(cls, stream: Stream, context: ssl.SSLContext) -> Self:
        """Take over a socket whose client is about to begin a handshake; raise OSError if it has gone."""
        stall_timeout = stream.stall_timeout
        context.sslsocket_class = cls
        secure = context.wrap_socket(
            stream, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        assert isinstance(secure, cls)
        secure.stall_timeout = stall_timeout
        return secure

    @property
    def client_certificate(self) -> Mapping[str, Any] | None:
        """Return the client's certificate, which was verified and has not expired since; None if it gave none."""
        return self._certificate if time.time() < self._certificate_ends else None

    def ready(self, event: int, seconds: float) -> bool:
        """Tell whether the event, POLLIN or POLLOUT, comes within so many seconds."""
        return (event == select.POLLIN and self.pending() > 0) or super().ready(event, seconds)

    def recv_now(self, size: int) -> bytes | None:
        """Go on with the handshake, then receive what has arrived; None if nothing has, empty at the end.

        With a `size` of a record or more nothing is left that the poller cannot see. Raises HandshakeFailed.
        """
        if not self._secure and not self._shake_hands():
            return None
        return super().recv_now(size)

    def _shake_hands(self) -> bool:
        """Go on with the handshake, and tell whether it is over."""
        try:
            self.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            self.wants = _wanted(error)
            return False
        except ssl.SSLError as error:
            if _has_left(error):
                raise ConnectionAbortedError("the client left during the handshake") from error
            raise HandshakeFailed(_reason(error)) from error
        self._secure = True
        self.wants = select.POLLIN
        certificate: dict[str, Any] | None = self.getpeercert()
        if certificate:
            self._certificate = certificate
            self._certificate_ends = ssl.cert_time_to_seconds(certificate["notAfter"])
        return True

    def recv(self, size: int = _RECORD, flags: int = 0) -> bytes:
        """Receive at least a byte; empty at the end."""
        return super().recv(min(size, _RECORD), flags)

    def read(self, size: int = _RECORD, buffer: "WriteableBuffer | None" = None) -> Any:
        """Decrypt at most a record; raise BlockingIOError if none has arrived whole."""
        try:
            return super().read(size, buffer)
        except ssl.SSLError as error:
            self._complain(error)

    def _send_some(self, data: memoryview, flags: int) -> int:
        """Encrypt and send; raise BlockingIOError if it could not all leave, after which the same has to be sent."""
        try:
            return self.send(data)  # OpenSSL has no use for the flags, which are about packets.
        except ssl.SSLError as error:
            self._complain(error)

    def _complain(self, error: ssl.SSLError) -> NoReturn:
        """Raise what an ordinary socket would."""
        if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
            self.wants = _wanted(error)
            raise BlockingIOError from error
        raise ConnectionAbortedError(f"TLS: {_reason(error)}") from error

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:  # type: ignore[override]
        """Send `count` bytes of a file; raise OSError if it has fewer, for the answer has promised them."""
        assert count is not None, "the length of an answer is known"
        part = memoryview(bytearray(min(count, _PART)))
        end = offset + count
        while offset < end:
            got = os.preadv(file.fileno(), [part[: end - offset]], offset)
            if not got:
                raise OSError(f"the file ended {end - offset} bytes early")
            self.sendall(part[:got])
            offset += got
        return count

    def shutdown(self, how: int, /) -> None:
        """Say farewell, so that the client knows that nothing was cut off; what still comes is not decrypted."""
        self._say_farewell()
        super().shutdown(how)

    def close(self) -> None:
        """Say farewell if that takes no waiting, and close."""
        self._say_farewell()
        super().close()

    def _say_farewell(self) -> None:
        # The client's own farewell would have to be waited for, and after an error there is none to say.
        with suppress(OSError, ValueError):
            self.unwrap()

    def _await(self, event: int) -> None:
        """Wait for what OpenSSL needs, which may not be what was asked of it."""
        event, self.wants = self.wants, select.POLLIN
        super()._await(event)


def _has_left(error: ssl.SSLError) -> bool:
    """Tell whether the other end is gone; before Python 3.11.3 there was no class for an end in OpenSSL 3's words."""
    gone = isinstance(error, (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError))
    return gone or error.reason == "UNEXPECTED_EOF_WHILE_READING"


def _wanted(error: ssl.SSLError) -> int:
    return select.POLLOUT if isinstance(error, ssl.SSLWantWriteError) else select.POLLIN


def _reason(error: ssl.SSLError) -> str:
    """Give OpenSSL's reason in words."""
    verification: str | None = getattr(error, "verify_message", None)
    reason = (error.reason or "no reason given").replace("_", " ").lower()
    return f"{reason}: {verification}" if verification else reason
