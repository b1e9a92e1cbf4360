"""Gunicorn in this process, with settings fit for a registry, as code."""

import errno
import gc
import logging
import math
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from flask import Flask
from gunicorn import glogging
from gunicorn.app.base import BaseApplication

from registry import create_app, logs, signals
from registry.audit import Audit
from registry.config import Config, HTTPConfig
from registry.memory import Trimmer, share_one_heap

# A worker is killed when its main loop gives no sign for so long; its threads may take as long as they need.
_LOOP_TIMEOUT = 120
_BACKLOG = 2048
_MAX_CONNECTIONS = 16384


class StartError(Exception):
    """Say in one line why the server cannot start."""


class _Logger(glogging.Logger):
    """Send gunicorn's messages through the root logger, as the application's are."""

    def setup(self, cfg: Any) -> None:
        """Hand everything on; the access log costs time, so only the debug level has it."""
        self.cfg = cfg
        self.error_log.propagate = self.access_log.propagate = True
        self._access_log_enabled = logging.getLogger().isEnabledFor(logging.DEBUG)

    def access(self, resp: Any, req: Any, environ: Any, request_time: timedelta) -> None:
        """Write a line about an answered request. (Gunicorn's would carry all its headers, the credentials too.)"""
        if self._access_log_enabled:
            line = logs.access_line(environ, req.path, resp, request_time.total_seconds())
            self.access_log.debug("%s", line, extra={"request_id": environ.get(logs.REQUEST_ID, "")})


class Server(BaseApplication):
    """Run an application that was built already, so that the workers share its memory."""

    def __init__(self, config: Config, app: Flask, bind: str) -> None:
        """Take the configuration, the application and the address to listen on in gunicorn's notation."""
        self.config = config
        self.app = app
        self.bind = bind
        super().__init__()

    def load_config(self) -> None:
        """Give gunicorn its settings."""
        for name, value in (settings(self.config) | {"bind": self.bind}).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Give the application."""
        return self.app


def settings(config: Config) -> dict[str, Any]:
    """Translate the configuration into gunicorn's settings."""
    http, server = config.http, config.server
    return {
        "bind": f"[{http.address}]:{http.port}" if ":" in http.address else f"{http.address}:{http.port}",
        "backlog": _BACKLOG,
        "workers": server.workers,
        "worker_class": "registry.worker.Worker",
        "threads": server.threads,
        "worker_connections": _connections(),
        "timeout": _LOOP_TIMEOUT,
        "graceful_timeout": math.ceil(server.graceful_timeout),
        "keepalive": math.ceil(server.keepalive),
        # The longest that gunicorn can do: many tags in one query, and tokens in headers.
        "limit_request_line": 8190,
        "limit_request_field_size": 32768,
        # Which proxies are trusted, and with what, is the application's to decide.
        "forwarded_allow_ips": "",
        "forwarder_headers": "",
        "secure_scheme_headers": {},
        "http_parser": "python",
        "control_socket_disable": True,
        "proc_name": "pierhead",
        "logger_class": _Logger,
        "when_ready": lambda _arbiter: _ready(config),
        "pre_fork": lambda _arbiter, _worker: signals.hold(),
        "child_exit": lambda _arbiter, worker: worker.balance.leave(worker.age),
    }


def _connections() -> int:
    """Give how many connections a worker may hold: each may need a descriptor for a file, too."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(_MAX_CONNECTIONS, max(64, soft // 2 - 64))


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def prepare(config: Config) -> None:
    """Do for this process what gunicorn leaves to us.

    Raises OSError if the log cannot be written, and StartError.
    """
    _raise_file_limit()
    share_one_heap()
    logs.configure(config.log)
    for warning in [*config.warnings, *_tls_warnings(config.http)]:
        logging.getLogger(__name__).warning(warning)


def _tls_warnings(http: HTTPConfig) -> list[str]:
    """List what is worth a warning about the certificate; raise StartError if nothing can be encrypted with it."""
    if http.tls is None:
        return []
    from registry.tls_check import check  # noqa: PLC0415  # what is not configured is not imported

    findings = check(http.tls)
    if fatal := [str(finding) for finding in findings if finding.fatal]:
        raise StartError("\n".join(fatal))
    return [str(finding) for finding in findings]


def _listen(http: HTTPConfig) -> str:
    """Open the listening socket and give it in gunicorn's notation.

    Gunicorn would try five times and log each; a person wants one line. When gunicorn hands its sockets on to a
    successor (SIGUSR2), or systemd opened them, there is nothing to open.
    """
    if "GUNICORN_FD" in os.environ or "LISTEN_FDS" in os.environ:
        return f"{http.address}:{http.port}"
    family, *_, address = socket.getaddrinfo(http.address, http.port, type=socket.SOCK_STREAM)[0]
    dual = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    return f"fd://{listener.detach()}"


def _ready(config: Config) -> None:
    """Tell a person where the registry is and how to push to it, just before the workers start."""
    http = config.http
    # A program that reads the log expects nothing but objects.
    say = logging.getLogger(__name__).info if config.log.format == "json" else click.echo
    host = "localhost" if http.address in ("127.0.0.1", "::1", "0.0.0.0", "::") else http.address
    host = f"[{host}]" if ":" in host else host
    image = f"{host}:{http.port}/team/app:1"
    say(f"Pierhead {version('pierhead')} serves {'https' if http.tls else 'http'}://{host}:{http.port}")
    say(f"Data lies in {config.storage.root_directory}")
    say(f"Push an image: docker pull alpine && docker tag alpine {image} && docker push {image}")
    # What lives now lives on in every worker: the collector shall not touch, and so copy, its pages. What imports and
    # the configuration's text left free goes back before there are workers to share it: 0.7 MB.
    gc.collect()
    Trimmer().trim()
    gc.freeze()


def _check_directory(path: Path) -> None:
    """Raise OSError if a directory can be neither read nor made; what is read-only can still be served."""
    missing = not os.path.lexists(path)
    while missing and not os.path.lexists(path):
        path = path.parent
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not os.access(path, os.R_OK | os.X_OK | (os.W_OK if missing else 0)):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn an error of the system into one that says what cannot be done, why, and with which file."""
    try:
        yield
    except OSError as error:
        # A name that cannot be resolved has a negative number, and words only in the error itself.
        words = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise StartError(": ".join(filter(None, (what, error.filename, words)))) from error


def _build(config: Config) -> Flask:
    """Build the application; raise StartError for files of users or keys that are no good."""
    try:
        with _explained("cannot be built from its files"):
            return create_app(config)
    except ValueError as error:
        raise StartError(str(error)) from error


def run(config: Config) -> None:
    """Serve until a signal ends it, then leave the process by SystemExit; raise StartError if it cannot start."""
    with _explained("cannot write the log"):
        prepare(config)
    if config.log.audit:
        with _explained("cannot write the audit log"):
            Audit(config.log.audit).check()
    with _explained("cannot use the storage"):
        for store in (config.storage, *config.storage.sub_paths.values()):
            _check_directory(Path(store.root_directory))
    app = _build(config)
    with _explained(f"cannot listen on {config.http.address}:{config.http.port}"):
        bind = _listen(config.http)
    Server(config, app, bind).run()
