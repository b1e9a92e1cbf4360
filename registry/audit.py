"""The audit log: one JSON line for each change and each refusal, whole whatever the disk and the workers do."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import pwd
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from flask import Flask, Response, g, request

from registry.auth.identity import ANONYMOUS, Identity
from registry.logs import json_line, request_id, shortened
from storage.clock import timestamp

log = logging.getLogger(__name__)

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSALS = frozenset({401, 403, 429})
_UNAUTHORIZED = 401
_FIRST_ERROR = 400
_FIRST_REDIRECT = 300

#: The values of routes of which the first that is there says what a request is about.
_REFERENCES = ("reference", "digest", "subject", "session")

_ATTEMPTS = 100  #: at opening the file that has the name now
_LONGEST = 512  #: characters of a value, unless another number is here
_LIMITS = {"path": 2048}
#: A name longer than this that nobody knows is more likely a credential in the wrong place.
_LONGEST_CLAIM = 32


class Audit:
    """Append lines to a file, from any thread of any process; each process opens it for itself.

    The lock on the file makes the writers take turns, so that a line that could not be written whole is taken back
    before the next one. A file that was rotated away is made anew, for its owner alone.
    """

    def __init__(self, path: str) -> None:
        """Open nothing yet."""
        self.path = path
        self._lock = threading.Lock()
        self._descriptor = -1
        self._pid = 0

    def check(self) -> None:
        """Raise OSError if the file can be neither opened nor made."""
        with self._lock:
            self._acquire()
            self._close()

    def write(self, entry: Mapping[str, object]) -> None:
        """Append an entry, with the time before it; one that cannot be written goes to the ordinary log instead."""
        bounded = {key: _bounded(key, value) for key, value in entry.items() if value is not None}
        line = json_line({"time": timestamp(time.time())} | bounded)
        try:
            with self._lock:
                self._append(line.encode() + b"\n")
        except OSError as error:
            log.critical("the audit log %s cannot be written: %s; it lacks %s", self.path, error.strerror, line)

    def _append(self, line: bytes) -> None:
        self._acquire()
        try:
            size = _regular_size(self._descriptor)
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                # Whoever wrote this died of it.
                line = b"\n" + line
            _write_whole(self._descriptor, line, size)
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _acquire(self) -> None:
        """Open the file that has the name now, unless it is open already, and lock it."""
        if self._pid != os.getpid():
            # A lock of the parent's descriptor would be the parent's lock, too.
            self._close()
            self._pid = os.getpid()
        for _ in range(_ATTEMPTS):
            if self._descriptor < 0:
                self._descriptor = _open(self.path)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if _is_at(self._descriptor, self.path):
                return
            self._close()
        raise OSError(errno.ESTALE, "the file is another one each time that it is opened", self.path)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def _open(path: str) -> int:
    """Open the file, made when missing: then it is its owner's alone, who is whoever has the directory."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    with suppress(FileNotFoundError):
        return os.open(path, flags)
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process was faster
        return os.open(path, flags)
    if os.geteuid() == 0:
        # A command that root runs must not lock out the registry.
        directory = os.stat(os.path.dirname(path))
        os.fchown(descriptor, directory.st_uid, directory.st_gid)
    return descriptor


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:  # which opening it will meet, too
        return False


def _regular_size(descriptor: int) -> int | None:
    """Return the size of a file; None for a terminal or a pipe, of which nothing can be read or taken back."""
    status = os.fstat(descriptor)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _write_whole(descriptor: int, line: bytes, size: int | None) -> None:
    """Write the line behind the first `size` bytes, or nothing of it and raise OSError."""
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        if size is not None and len(rest) < len(line):
            with suppress(OSError):  # the next writer begins a line
                os.ftruncate(descriptor, size)
        raise


def _bounded(key: str, value: object) -> object:
    limit = _LIMITS.get(key, _LONGEST)
    if isinstance(value, list):
        return [_bounded(key, item) for item in value[:limit]]
    return value if isinstance(value, int) else shortened(str(value), limit)


def local_entry(action: str, **fields: object) -> dict[str, object]:
    """Return the entry of a command that was carried out on this machine, by the user of the system who ran it."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return {"user": user, "scheme": "local", "address": "local", "action": action, "result": "done"} | fields


# Requests


def install(app: Flask, audit: Audit) -> None:
    """Write down each change and each refusal; install it before what else finishes answers, so that it sees the last.

    What the request was refused for, and what it would have done, are `g.refusal` and `g.action`.
    """

    def note(response: Response) -> Response:
        result = _result(response.status_code)
        if result:
            audit.write(_entry(response, result))
        return response

    app.after_request(note)


def _result(status: int) -> str | None:
    """Return what became of the request; None of one that neither changes anything nor is refused."""
    if status < _FIRST_ERROR:
        # The gate calls nothing an action that changes nothing, such as asking for a token.
        changed = request.method not in _SAFE_METHODS and "action" in g and status < _FIRST_REDIRECT
        return "done" if changed else None
    if status in _REFUSALS or "refusal" in g:
        return "refused"
    return None if request.method in _SAFE_METHODS else "failed"


def _entry(response: Response, result: str) -> dict[str, object]:
    identity: Identity = g.get("identity", ANONYMOUS)
    place = request.view_args or {}
    code, message = (None, None) if result == "done" else _error(response)
    entry: dict[str, object] = {
        "requestId": request_id(),
        "user": identity.name,
        "claimed": _claimed_name() if identity.anonymous and response.status_code in _REFUSALS else None,
        "scheme": identity.scheme,
        # What tells others' credentials apart is made of their secret.
        "credential": identity.credential if identity.scheme == "key" else None,
        "address": request.remote_addr,
        "method": request.method,
        "path": request.path,
        "action": g.get("action"),
        "repository": place.get("name"),
        "from": request.args.get("from") if "mount" in request.args else None,
        "reference": next((place[key] for key in _REFERENCES if key in place), None),
        "tags": _tags(response),
        "digest": response.headers.get("Docker-Content-Digest"),
        "status": response.status_code,
        "result": result,
        "code": code,
        "reason": _reason(response, message),
    }
    return {key: value for key, value in entry.items() if value is not None}


def _tags(response: Response) -> list[str] | None:
    """Return the tags that a push moved beside the one in its path."""
    tags = response.headers.get("OCI-Tag")
    return tags.split(", ") if tags else None


def _reason(response: Response, message: str | None) -> str | None:
    if "refusal" in g:
        return str(g.refusal)
    if response.status_code == _UNAUTHORIZED and "HTTP_AUTHORIZATION" not in request.environ:
        return "no credentials"
    return message


def _claimed_name() -> str | None:
    """Return the name that came with a password, in the header or in a form, which nobody has confirmed."""
    name = g.get("claimed")
    if name is None:
        try:
            credentials = request.authorization
        except ValueError:  # letters that can be in no credentials
            return None
        if credentials is None or credentials.type != "basic" or not (credentials.username and credentials.password):
            return None  # what stands alone is more likely the password
        name = credentials.username
    return name if len(name) <= _LONGEST_CLAIM else f"({len(name)} characters)"


def _error(response: Response) -> tuple[str | None, str | None]:
    """Return code and message of the first error in an answer, if it is one of ours."""
    if response.mimetype != "application/json" or response.direct_passthrough:
        return None, None
    try:
        error = json.loads(response.get_data())["errors"][0]
        return str(error["code"]), str(error["message"])
    except (ValueError, LookupError, TypeError):
        return None, None
