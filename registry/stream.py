"""A client's socket, in which no wait for a byte outlasts the stall timeout."""

import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_DISCARD = 256 * 1024
# What is sent after bytes that were kept back is joined with them, and so copied, up to this size.
_JOINED = 64 * 1024


class Stream(socket.socket):
    """Move bytes, or raise TimeoutError when none moved for `stall_timeout` seconds.

    The socket is always non-blocking: it is tried first, and waited for only if need be. (The standard socket's own
    timeout bounds a whole `sendall`, and so would throw out a slow reader that does read.)
    """

    scheme = "http"
    #: What has to come before it can go on, POLLIN or POLLOUT.
    wants = select.POLLIN
    stall_timeout: float
    _held = b""

    @classmethod
    def adopt(cls, sock: socket.socket, stall_timeout: float) -> Self:
        """Take over a socket that was accepted."""
        stream = cls(sock.family, sock.type, sock.proto, fileno=sock.detach())
        stream.setblocking(False)
        stream.stall_timeout = stall_timeout
        return stream

    @property
    def client_certificate(self) -> Mapping[str, Any] | None:
        """Return the client's certificate in the form of `ssl.SSLSocket.getpeercert`, if it proved to have one."""
        return None

    def ready(self, event: int, seconds: float) -> bool:
        """Tell whether the event, POLLIN or POLLOUT, comes within so many seconds."""
        poll = select.poll()
        poll.register(self, event)
        return bool(poll.poll(seconds * 1000))

    def peek(self) -> bytes | None:
        """Give the first byte that has arrived and leave it there; None if nothing has, empty at the end."""
        try:
            return super().recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None

    def recv_now(self, size: int) -> bytes | None:
        """Receive what has arrived already; None if nothing has, empty at the end."""
        try:
            return super().recv(size)
        except BlockingIOError:
            return None

    def send_now(self, data: bytes) -> bytes:
        """Send what there is room for, without waiting, and give the rest."""
        try:
            return data[super().send(data) :]
        except BlockingIOError:
            return data

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive at least a byte; empty at the end."""
        while True:
            try:
                return super().recv(size, flags)
            except BlockingIOError:
                self._await(select.POLLIN)

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0, /) -> int:
        """Receive at least a byte into a buffer and give the number; 0 at the end."""
        while True:
            try:
                return super().recv_into(buffer, nbytes, flags)
            except BlockingIOError:
                self._await(select.POLLIN)

    def hold(self, data: bytes) -> None:
        """Keep a few bytes back, to leave together with those that are sent next."""
        self._held += data

    def flush(self) -> None:
        """Send what was kept back."""
        if self._held:
            self.sendall(b"")

    def sendall(self, data: "ReadableBuffer", flags: int = 0, /) -> None:
        """Send all of it, however slowly the client reads."""
        rest = memoryview(data)
        if self._held:
            held, self._held = self._held, b""
            if len(rest) <= _JOINED:
                rest = memoryview(held + rest)
            else:
                self.sendall(held, socket.MSG_MORE)
        while rest:
            try:
                rest = rest[self._send_some(rest, flags) :]
            except BlockingIOError:
                self._await(select.POLLOUT)

    def _send_some(self, data: memoryview, flags: int) -> int:
        """Send what there is room for and give the number of bytes; raise BlockingIOError if there is none."""
        return super().send(data, flags)

    def sendfile(  # type: ignore[override]  # Of a real file only, which is all that gunicorn sends so.
        self, file: IO[bytes], offset: int = 0, count: int | None = None
    ) -> int:
        """Send `count` bytes of a file; raise OSError if it has fewer, for the answer has promised them."""
        assert count is not None, "the length of an answer is known"
        if self._held:
            held, self._held = self._held, b""
            self.sendall(held, socket.MSG_MORE)
        source, end = file.fileno(), offset + count
        while offset < end:
            try:
                sent = os.sendfile(self.fileno(), source, offset, end - offset)
            except BlockingIOError:
                self._await(select.POLLOUT)
                continue
            if not sent:
                raise OSError(f"the file ended {end - offset} bytes early")
            offset += sent
        return count

    def discard(self) -> int:
        """Receive and forget some of what has arrived; give the number of bytes, 0 at the end."""
        return len(self.recv(_DISCARD))

    def reset(self) -> None:
        """Close at once, and let the system forget what it still holds for a client that does not take it."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def _await(self, event: int) -> None:
        """Wait for the event for as long as bytes move.

        The system calls a socket writable only when much of its buffer has become free. A slow reader takes long to
        get there, so what counts is whether it took any of what was sent before.
        """
        queued = self._queued()
        while not self.ready(event, self.stall_timeout):
            before, queued = queued, self._queued()
            if event == select.POLLIN or queued >= before:
                raise TimeoutError(f"no byte moved for {self.stall_timeout:g} seconds")

    def _queued(self) -> int:
        """Give how many bytes were sent that the client's system has not acknowledged."""
        answer = fcntl.ioctl(self, termios.TIOCOUTQ, bytes(struct.calcsize("i")))
        count: int = struct.unpack("i", answer)[0]
        return count
