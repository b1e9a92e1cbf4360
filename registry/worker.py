"""Gunicorn's threaded worker, changed so that slow clients cost little and quick ones are served quickly.

The main thread owns the poller. It collects the heads of requests there, without blocking, so that half a head costs a
few bytes and no thread. A whole head goes to a thread, which serves the connection until it falls idle: it waits a
moment for the next request before it hands the connection back. A slow body or a slow reader holds up a thread, of a
pool that grows on demand; whoever moves no byte for the stall timeout is thrown out.
"""

import errno
import queue
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache, partial
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors, wsgi
from gunicorn.workers.gthread import ThreadWorker

from registry import signals
from registry.auth.certificates import CLIENT_CERTIFICATE
from registry.balance import Balance
from registry.collecting import collect_on_schedule
from registry.config import Config, load_from_environment
from registry.connection import Connection, TLSConnection
from registry.errors import error_body
from registry.inline import INLINE, NOT_INLINE
from registry.memory import Trimmer
from registry.messages import Request, Response, Sink
from registry.scrubbing import scrub_on_schedule
from registry.stream import Stream
from registry.tls import Contexts, contexts_of
from registry.tls_stream import HandshakeFailed

# How long a thread waits for a connection's next request: most clients ask again at once.
_NEXT_REQUEST_SECONDS = 0.005
# How long a stopping worker leaves idle connections open, for a request that is on its way already. nginx counts on it.
STOP_SECONDS = 1.0
_STOP_POLL_SECONDS = 0.1
_SWEEP_SECONDS = 0.25
_NOTICE_SECONDS = 1.0
_ACCEPT_PAUSE_SECONDS = 0.5
_SHOWN_CHARACTERS = 200

# How long a worker that has more connections than another lets it accept the next one.
_POLITE_SECONDS = 0.0005

# How many connections are accepted before those are looked at that are here already, hundreds perhaps.
_ACCEPTED_AT_ONCE = 16

_CLIENT_GONE = (ConnectionError, TimeoutError, EOFError, StopIteration, errors.NoMoreData)

# How many requests that could be answered at once a thread answers, before it is seen whether they can by now.
_PLAIN_REQUESTS = 4

# What the application tried to send is not the client's fault, though gunicorn's classes say so.
_APPLICATION_ERRORS = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)

_STATUS = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
}


class Threads:
    """Run jobs in threads that are started when they are needed, up to a limit, and die with the process.

    The standard pool's threads do not: a worker that ends would wait for its slowest client. Jobs come from one thread.
    """

    def __init__(self, limit: int) -> None:
        """Start nothing yet."""
        self._limit = limit
        self._started = 0
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, job: Callable[..., object], *args: object) -> None:
        """Run the job soon, in an idle thread, else in a new one, else when a thread is free."""
        self._jobs.put(partial(job, *args))
        if not self._idle.acquire(blocking=False) and self._started < self._limit:
            self._start()

    def shutdown(self, wait: bool = False) -> None:
        """Leave the threads to the end of the process, as gunicorn asks a pool to do."""

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError:
            # The system has no more threads for us; the job waits for one of those that there are.
            if not self._started:
                raise
        else:
            self._started += 1

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            self._idle.release()


@cache
def _balance() -> Balance:
    """Return the balance that all workers of this arbiter share: it makes them, so it is the first to ask."""
    return Balance()


class Worker(ThreadWorker):
    """Serve the application that `registry.server` built, or under `gunicorn wsgi:app` the one that gunicorn did."""

    alive: bool
    contexts: Contexts | None

    def __init__(self, *args: Any) -> None:
        """Take what gunicorn's arbiter gives a worker."""
        super().__init__(*args)
        config = getattr(self.app, "config", None) or load_from_environment()
        self.stall_timeout: float = config.server.stall_timeout
        self.keepalive: float = config.server.keepalive
        self.contexts = contexts_of(config.http)
        self.config: Config = config
        self.balance = _balance()
        self.waiting: set[Connection] = set()
        self.next_sweep = 0.0
        self.next_notice = 0.0
        self.trimmer = Trimmer()
        self.accept_after = 0.0
        self.accept_failing = False
        self.inline = False

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Find nothing wrong: here connections that wait need no thread, so there may be fewer of them."""

    def init_process(self) -> None:
        """Begin to count among the workers, in the worker's own process."""
        self.balance.set(self.age, 0)
        collect_on_schedule(self.config)
        scrub_on_schedule(self.config)
        super().init_process()

    def init_signals(self) -> None:
        """Handle signals, those too that have come since the fork."""
        super().init_signals()
        signals.release()

    def load_wsgi(self) -> None:
        """Load the application, and see whether it knows of answers that are given at once."""
        super().load_wsgi()
        self.inline = INLINE in getattr(self.wsgi, "extensions", {})

    def get_thread_pool(self) -> Threads:
        """Give the pool of threads."""
        return Threads(self.cfg.threads)

    # The main thread: connections come, wait for their next head, and go.

    def notify(self) -> None:
        """Tell the arbiter that this worker is alive, once a second; give back memory every few."""
        now = time.monotonic()
        if now >= self.next_notice:
            self.next_notice = now + _NOTICE_SECONDS
            super().notify()
            if self.trimmer.is_due(self.nr):
                self.tpool.submit(self.trimmer.trim)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop listening; after a failure not before a pause."""
        super().set_accept_enabled(enabled and time.monotonic() >= self.accept_after)

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, and others while no worker has fewer: those who are here are served in between."""
        if self.balance.is_ahead(self.age):
            time.sleep(_POLITE_SECONDS)
        for _ in range(_ACCEPTED_AT_ONCE):
            if not self._accept_one(listener) or self.balance.is_ahead(self.age):
                return

    def _accept_one(self, listener: socket.socket) -> bool:
        """Accept a connection, and tell whether there may and could be another.

        When there is no descriptor left for it, let clients queue for a moment.
        """
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno == errno.ECONNABORTED:
                return True
            if error.errno != errno.EAGAIN:
                self._pause_accepting(error)
            return False
        self.accept_failing = False
        self._count_connections(1)
        self.await_head(self._connection(Stream.adopt(sock, self.stall_timeout), client, listener.getsockname()))
        may_be_more: bool = self.nr_conns < self.worker_connections
        return may_be_more

    def _connection(self, stream: Stream, client: Any, server: Any) -> Connection:
        if self.contexts is None:
            return Connection(self.cfg, stream, client, server)
        return TLSConnection(self.cfg, stream, client, server, self.contexts.get())

    def _pause_accepting(self, error: OSError) -> None:
        if not self.accept_failing:
            self.log.error("Cannot accept connections for the moment: %s", error)
        self.accept_failing = True
        self.accept_after = time.monotonic() + _ACCEPT_PAUSE_SECONDS
        self.set_accept_enabled(False)

    def await_head(self, conn: Connection) -> None:
        """Wait for the next request of a connection, in the poller."""
        self._set_deadline(conn)
        self.waiting.add(conn)
        conn.awaited = conn.sock.wants
        event = selectors.EVENT_READ if conn.awaited == select.POLLIN else selectors.EVENT_WRITE
        self.poller.register(conn.sock, event, partial(self.on_ready, conn))

    def on_ready(self, conn: Connection, _sock: object) -> None:
        """Take what has come of a head; hand the connection to a thread once that is enough."""
        try:
            complete = conn.receive()
        except HandshakeFailed as error:
            self.log.info("TLS handshake with %s failed: %s", conn.client, error)
            self._stop_waiting(conn)
            self.tpool.submit(self.turn_away, conn)
            return
        except (OSError, EOFError):
            self._stop_waiting(conn)
            self.forget(conn)
            return
        if complete:
            if not (self.inline and conn.asks_plainly and self._answer_inline(conn)):
                self._hand_over(conn)
        elif conn.sock.wants != conn.awaited:
            self._stop_waiting(conn)
            self.await_head(conn)
        else:
            self._set_deadline(conn)

    def _answer_inline(self, conn: Connection) -> bool:
        """Answer a request here, if that takes no waiting; tell whether that was done.

        The connection stays in the poller then, unless its client does not take the answer.
        """
        request = conn.parse_ahead()
        if request is None or not request.body.finished:
            return False
        started, sink = datetime.now(), Sink()
        try:
            response, environ = self._create(request, conn, sink)
            environ[INLINE] = True
            parts = self.wsgi(environ, response.start_response)
            if parts is NOT_INLINE:
                return False
            self._count(response)
            self._respond(response, parts)
        except Exception:  # in a thread it is met again, and answered
            return False
        conn.parsed = None
        self.log.access(response, request, environ, datetime.now() - started)
        self._send_inline(conn, sink.data, last=response.should_close())
        return True

    def _send_inline(self, conn: Connection, answer: bytes, *, last: bool) -> None:
        """Send an answer as far as its client takes it at once, and wait for the next request; threads do the rest."""
        try:
            rest = conn.sock.send_now(answer)
        except OSError:
            rest, last = b"", True
        if rest:
            self._hand_over(conn, partial(self._finish, rest, last))
        elif last:
            self._stop_waiting(conn)
            self.forget(conn)
        elif conn.go_on():
            self._hand_over(conn)
        else:
            self._set_deadline(conn)

    def _take_back(self, conn: Connection) -> None:
        """Take a connection from its thread to answer it here, if its thread was only needed for the first answer."""
        self.await_head(conn)
        if not self._answer_inline(conn):
            self._hand_over(conn)

    def _hand_over(self, conn: Connection, first: Callable[[Connection], bool] | None = None) -> None:
        """Let a thread serve a connection, after it has done something else `first`."""
        self._stop_waiting(conn)
        self.tpool.submit(self.handle, conn, first or self._serve)

    def _set_deadline(self, conn: Connection) -> None:
        now = time.monotonic()
        conn.deadline = now + (self.keepalive if conn.idle else self.stall_timeout)
        if conn.idle and not self.alive:
            conn.deadline = now + STOP_SECONDS

    def _stop_waiting(self, conn: Connection) -> None:
        self.waiting.discard(conn)
        self.poller.unregister(conn.sock)

    def forget(self, conn: Connection) -> None:
        """Close a connection and count it out."""
        conn.close()
        self._count_connections(-1)

    def _count_connections(self, change: int) -> None:
        self.nr_conns += change
        self.balance.set(self.age, self.nr_conns)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close the connections that waited for too long, or all that wait."""
        now = time.monotonic()
        if now < self.next_sweep and not force:
            return
        self.next_sweep = now + _SWEEP_SECONDS
        for conn in [conn for conn in self.waiting if force or conn.deadline <= now]:
            self._stop_waiting(conn)
            self.forget(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """Begin to stop: nobody new may queue here, idle connections end soon, heads may still arrive.

        Who queues already is served: a request may be on its way that a proxy cannot send anew.
        """
        for listener in self.sockets:
            while self._accept_one(listener):
                pass
            listener.close()
        for conn in self.waiting:
            if conn.idle:
                conn.deadline = min(deadline, time.monotonic() + STOP_SECONDS)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, briefly when stopping: what ends then is noticed by looking."""
        super().wait_for_and_dispatch_events(timeout if self.alive else min(timeout, _STOP_POLL_SECONDS))

    # The threads: requests are parsed, answered, and followed by the next one or the end.

    def handle(self, conn: Connection, step: Callable[[Connection], bool]) -> None:
        """Take a step, then serve a connection until it falls idle, asks for what needs no thread, or ends."""
        plain = 0
        try:
            while step(conn):
                step = self._serve
                if not conn.next_head(_NEXT_REQUEST_SECONDS):
                    self.method_queue.defer(self.await_head, conn)
                    return
                plain += self.inline and conn.asks_plainly
                if plain == _PLAIN_REQUESTS:
                    self.method_queue.defer(self._take_back, conn)
                    return
        except TimeoutError as error:
            self.log.info("Threw out %s: %s", conn.client, error)
            conn.sock.reset()
        except _CLIENT_GONE as error:
            self.log.debug("Connection of %s ended: %s", conn.client, type(error).__name__)
        except Exception:
            self.log.exception("Error on the connection of %s", conn.client)
        self.method_queue.defer(self.forget, conn)

    @staticmethod
    def _finish(rest: bytes, last: bool, conn: Connection) -> bool:
        """Send the rest of an answer, and tell whether another request may follow."""
        conn.sock.sendall(rest)
        return not last

    def turn_away(self, conn: Connection) -> None:
        """Close a connection on which no request can come, so that the client sees why."""
        conn.linger()
        self.method_queue.defer(self.forget, conn)

    def _serve(self, conn: Connection) -> bool:
        """Answer one request and tell whether there may be another."""
        request: Request | None = None
        try:
            request = conn.parse()
            if self.handle_request(request, conn):
                return True
        except _CLIENT_GONE:
            raise
        except Exception as error:
            self.handle_error(request, conn.sock, conn.client, error)
        if request is None or not request.body.finished:
            conn.linger()
        return False

    def handle_request(self, req: Request, conn: Connection) -> bool:
        """Let the application answer a request and tell whether the connection can go on."""
        started = datetime.now()
        response, environ = self._create(req, conn, conn.sock)
        self._count(response)
        try:
            self._respond(response, self.wsgi(environ, response.start_response))
        except _CLIENT_GONE:
            raise
        except Exception:
            if not response.headers_sent:
                raise
            # The answer has begun: all that is left is to cut it off, so that the client sees it is not whole.
            self.log.exception("Error in the middle of an answer to %s %s", req.method, req.path)
            return False
        finally:
            self.log.access(response, req, environ, datetime.now() - started)
        return not response.should_close()

    def _create(self, req: Request, conn: Connection, to: Stream | Sink) -> tuple[Response, dict[str, Any]]:
        """Give what answers a request, and what the application is told of it."""
        response, environ = wsgi.create(req, to, conn.client, conn.server, self.cfg, response_class=Response)
        environ["wsgi.multithread"] = True
        if (certificate := conn.sock.client_certificate) is not None:
            environ[CLIENT_CERTIFICATE] = certificate
        return response, environ

    def _count(self, response: Response) -> None:
        """Count a request; end the connection with it when the worker is to end."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Restarting the worker after %d requests", self.nr)
            self.alive = False
        if not self.alive or self.nr_conns >= self.worker_connections:
            response.force_close()

    @staticmethod
    def _respond(response: Response, parts: Iterable[bytes]) -> None:
        try:
            if isinstance(parts, wsgi.FileWrapper):
                response.write_file(parts)
            else:
                for part in parts:
                    response.write(part)
            response.close()
        finally:
            if hasattr(parts, "close"):
                parts.close()

    def handle_error(self, req: Request | None, client: Stream, addr: Any, exc: Exception) -> None:
        """Answer a malformed request, or a bug, with an OCI error body."""
        if isinstance(exc, errors.ParseException) and not isinstance(exc, _APPLICATION_ERRORS):
            status = _STATUS.get(type(exc), HTTPStatus.BAD_REQUEST)
            text = str(exc)[:_SHOWN_CHARACTERS]
            # What it is about is not told: a header's words may be a credential.
            self.log.debug("Refused a request of %s: %s", addr, type(exc).__name__)
        else:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            text = "the request could not be handled"
            self.log.error("Error handling a request of %s", addr, exc_info=exc)
        client.sendall(_refusal(status, text, type(exc).__name__))


def _refusal(status: HTTPStatus, text: str, reason: str) -> bytes:
    """Give a whole answer that ends the connection."""
    body = error_body("UNSUPPORTED", text, {"reason": reason})
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Docker-Distribution-API-Version: registry/2.0\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "\r\n"
    )
    return head.encode() + body
