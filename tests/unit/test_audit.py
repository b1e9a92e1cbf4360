"""The audit log: which requests leave a line, what it says, and that lines stay whole whatever happens."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, g, request
from flask.testing import FlaskClient
from werkzeug.routing import PathConverter

from registry import audit
from registry.audit import Audit, local_entry
from registry.auth.identity import Identity
from registry.errors import error_body

FORKING = multiprocessing.get_context("fork")
PROCESSES, THREADS, LINES = 4, 8, 250
PASSWORD = "Tr0ub4dor&3"
BASIC = {"Authorization": "Basic YWxpY2U6VHIwdWI0ZG9yJjM="}  # alice, PASSWORD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def entries(*paths: Path) -> list[dict[str, Any]]:
    """Return what the lines of the files say; each has to be whole."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines(keepends=False)]


# A line


def test_a_line_has_the_time_and_then_what_it_was_given(path: Path) -> None:
    Audit(str(path)).write({"user": "alice", "status": 201, "code": None})
    [line] = path.read_text().splitlines()
    assert re.fullmatch(r'\{"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","user":"alice","status":201\}', line)


def test_the_file_is_its_owners_alone(path: Path) -> None:
    Audit(str(path)).check()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_keeps_its_mode_and_its_lines(path: Path) -> None:
    path.write_text('{"user":"before"}\n')
    path.chmod(0o640)
    Audit(str(path)).write({"user": "after"})
    assert [entry["user"] for entry in entries(path)] == ["before", "after"]
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "text",
    [
        'x\n{"user":"forged"}',
        "\r\x00\x1b[2J",
        "\x7f\x80\x85\x9f",
        "\u2028\u2029\u202e",
        "\ud800",
        '"\\',
        "m\u00fcller \U0001f600",
    ],
)
def test_no_value_can_forge_or_hide_anything(path: Path, text: str) -> None:
    Audit(str(path)).write({"user": text, "tags": [text]})
    [line] = path.read_bytes().splitlines()
    assert re.fullmatch(rb"[\x20-\x7e]+", line)
    assert json.loads(line)["user"] == text
    assert json.loads(line)["tags"] == [text]


def test_values_are_bounded(path: Path) -> None:
    Audit(str(path)).write({"path": "p" * 10_000, "reason": "r" * 10_000, "tags": ["t" * 10_000] * 10_000})
    [entry] = entries(path)
    assert entry["path"] == "p" * 2048 + "... (7952 more)"
    assert len(entry["reason"]) < 600
    assert path.stat().st_size < 400_000


# The file


def test_a_file_that_is_rotated_away_is_made_anew(path: Path) -> None:
    log = Audit(str(path))
    old = path.with_suffix(".1")
    log.write({"n": 1})
    path.rename(old)
    log.write({"n": 2})
    path.unlink()
    log.write({"n": 3})
    assert [entry["n"] for entry in entries(old, path)] == [1, 3]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_another_took_the_place_of_is_left(path: Path) -> None:
    log = Audit(str(path))
    log.write({"n": 1})
    path.rename(path.with_suffix(".1"))
    path.touch(mode=0o640)
    log.write({"n": 2})
    assert [entry["n"] for entry in entries(path)] == [2]


def write_from_threads(log: Audit, process: int) -> None:
    """Write lines from several threads at once, some of them longer than a page."""

    def write(thread: int) -> None:
        for number in range(LINES):
            log.write({"id": f"{process}-{thread}-{number}", "path": "p" * (number * 8)})

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_no_line_is_lost_or_torn_while_processes_write_and_files_are_rotated(path: Path) -> None:
    log = Audit(str(path))
    log.write({"id": "before the processes are forked"})
    workers = [FORKING.Process(target=write_from_threads, args=(log, number)) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    rotated = 0
    while any(worker.is_alive() for worker in workers):
        if path.exists():
            path.rename(path.with_suffix(f".{rotated}"))
            rotated += 1
        time.sleep(0.005)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    found = [entry["id"] for entry in entries(*path.parent.glob("audit.*"))]
    assert rotated > 1
    assert len(found) == 1 + PROCESSES * THREADS * LINES
    assert len(set(found)) == len(found)


def is_whole(line: str) -> bool:
    """Tell whether a line is one entry."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def write_until_killed(log: Audit) -> None:
    while True:
        log.write({"path": "p" * 2048, "reason": "r" * 512})


def test_a_writer_that_is_killed_spoils_no_line_of_another(path: Path) -> None:
    log = Audit(str(path))
    for _ in range(20):
        writer = FORKING.Process(target=write_until_killed, args=(log,))
        writer.start()
        while not path.exists() or not path.stat().st_size:
            time.sleep(0.001)
        time.sleep(0.005)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        log.write({"user": "survivor"})
    assert sum(is_whole(line) and "survivor" in line for line in path.read_text().splitlines()) == 20


def test_the_line_after_a_torn_one_begins_anew(path: Path) -> None:
    path.write_text('{"user":"tor')
    Audit(str(path)).write({"user": "whole"})
    torn, whole = path.read_text().splitlines()
    assert torn == '{"user":"tor'
    assert json.loads(whole)["user"] == "whole"


FULL = """
import logging, resource, signal, sys
from registry.audit import Audit
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
log = Audit(sys.argv[1])
log.write({"n": 1, "reason": "r" * 500})
resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
log.write({"n": 2, "reason": "r" * 500})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write({"n": 3})
"""


def test_a_line_for_which_there_is_no_room_is_taken_back_and_said_aloud(path: Path) -> None:
    """The limit on the file's size cuts a line as a full disk does: some bytes go in, then an error."""
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert [entry["n"] for entry in entries(path)] == [1, 3]
    [complaint] = done.stdout.splitlines()
    assert complaint.startswith(f"CRITICAL the audit log {path} cannot be written: File too large; it lacks ")
    assert '"n":2' in complaint


def test_a_full_disk_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    Audit("/dev/full").write({"user": "alice"})
    assert "No space left on device" in caplog.text
    assert '"user":"alice"' in caplog.text


def test_a_directory_that_is_gone_costs_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Audit(str(tmp_path / "gone" / "audit.log"))
    log.write({"n": 1})
    assert "No such file or directory" in caplog.text
    (tmp_path / "gone").mkdir()
    log.write({"n": 2})
    assert [entry["n"] for entry in entries(tmp_path / "gone" / "audit.log")] == [2]


def test_the_check_leaves_nothing_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    Audit(str(path)).check()
    assert len(os.listdir("/proc/self/fd")) == before
    assert path.read_text() == ""


def test_what_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        Audit(str(tmp_path)).check()


def test_many_descriptors_are_not_used(path: Path) -> None:
    log = Audit(str(path))
    log.write({"n": 0})
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        log.write({"n": number})
        path.rename(path.with_suffix(f".{number}"))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_pipe_can_be_written_to(tmp_path: Path) -> None:
    """As /dev/stdout is one where containers are run."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    Audit(str(pipe)).write({"user": "alice"})
    assert json.loads(os.read(reader, 4096))["user"] == "alice"
    os.close(reader)


# Commands


def test_a_command_is_its_users(path: Path) -> None:
    Audit(str(path)).write(local_entry("key create", credential="k1", user="root"))
    [entry] = entries(path)
    assert {key: entry[key] for key in ("address", "scheme", "action", "credential", "result")} == {
        "address": "local",
        "scheme": "local",
        "action": "key create",
        "credential": "k1",
        "result": "done",
    }
    assert local_entry("key revoke")["user"]


# Requests


class Registry:
    """An app that answers as it is told, with an audit log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer = Response()
        self.state: dict[str, object] = {"action": "create,update", "identity": Identity("alice", scheme="htpasswd")}
        app = Flask("registry")
        audit.install(app, Audit(str(path)))
        app.url_map.converters["name"] = PathConverter
        for rule in ("manifests/<reference>", "blobs/<digest>", "blobs/uploads/<session>", "tags/list"):
            app.add_url_rule(f"/v2/<name:name>/{rule}", rule, self.view, methods=["GET", "PUT", "POST", "DELETE"])
        self.client: FlaskClient = app.test_client()

    def view(self, **_values: str) -> Response:
        for key, value in self.state.items():
            setattr(g, key, value)
        # What reads the body, as a route would, must not keep the log from looking at the answer.
        request.get_data()
        return self.answer

    def entries(self) -> list[dict[str, Any]]:
        return entries(self.path) if self.path.exists() else []


@pytest.fixture
def registry(path: Path) -> Registry:
    return Registry(path)


def refusal(status: int, code: str, message: str) -> Response:
    return Response(error_body(code, message, {}), status, mimetype="application/json")


def test_a_push_says_who_what_and_how_it_ended(registry: Registry) -> None:
    registry.answer = Response(status=201, headers={"Docker-Content-Digest": "sha256:abc", "OCI-Tag": "a, b"})
    registry.client.put("/v2/team/app/manifests/1.0?secret=swordfish", headers=BASIC)
    [entry] = registry.entries()
    assert re.fullmatch("[0-9a-f]{16}", entry.pop("requestId"))
    assert entry.pop("time")
    assert entry == {
        "user": "alice",
        "scheme": "htpasswd",
        "address": "127.0.0.1",
        "method": "PUT",
        "path": "/v2/team/app/manifests/1.0",
        "action": "create,update",
        "repository": "team/app",
        "reference": "1.0",
        "tags": ["a", "b"],
        "digest": "sha256:abc",
        "status": 201,
        "result": "done",
    }


@pytest.mark.parametrize(
    ("method", "status", "result"),
    [
        ("GET", 200, None),
        ("HEAD", 200, None),
        ("OPTIONS", 200, None),
        ("GET", 404, None),
        ("GET", 500, None),
        ("GET", 401, "refused"),
        ("HEAD", 401, "refused"),
        ("GET", 403, "refused"),
        ("GET", 429, "refused"),
        ("PUT", 201, "done"),
        ("POST", 202, "done"),
        ("DELETE", 202, "done"),
        ("POST", 307, None),
        ("PUT", 401, "refused"),
        ("PUT", 403, "refused"),
        ("PUT", 400, "failed"),
        ("PUT", 405, "failed"),
        ("DELETE", 404, "failed"),
        ("PUT", 500, "failed"),
        ("PUT", 507, "failed"),
    ],
)
def test_changes_and_refusals_get_a_line(registry: Registry, method: str, status: int, result: str | None) -> None:
    registry.answer = Response(status=status)
    registry.client.open("/v2/app/tags/list", method=method)
    assert [entry["result"] for entry in registry.entries()] == ([result] if result else [])


def test_what_the_gate_calls_no_action_is_no_change(registry: Registry) -> None:
    """Asking for a token is a POST, too."""
    del registry.state["action"]
    registry.client.post("/v2/app/tags/list")
    assert registry.entries() == []


def test_what_is_refused_for_a_reason_is_refused_whatever_the_status(registry: Registry) -> None:
    """Such as any push to a registry that is read-only: 405."""
    registry.state["refusal"] = "the registry is read-only"
    registry.answer = refusal(405, "UNSUPPORTED", "nothing can be pushed")
    registry.client.put("/v2/app/manifests/1")
    [entry] = registry.entries()
    assert (entry["result"], entry["code"], entry["reason"]) == ("refused", "UNSUPPORTED", "the registry is read-only")


def test_a_failure_says_what_the_client_was_told(registry: Registry) -> None:
    registry.answer = refusal(400, "DIGEST_INVALID", "the content has another digest")
    registry.client.put("/v2/app/blobs/uploads/12-34?digest=sha256:0")
    [entry] = registry.entries()
    assert (entry["code"], entry["reason"]) == ("DIGEST_INVALID", "the content has another digest")
    assert entry["reference"] == "12-34"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"errors":[]}', b'{"errors":7}', b"\xff"])
def test_an_answer_that_is_no_error_of_ours_does_no_harm(registry: Registry, body: bytes) -> None:
    registry.answer = Response(body, 400, mimetype="application/json")
    assert registry.client.put("/v2/app/manifests/1").data == body
    assert "code" not in registry.entries()[0]


def test_a_challenge_is_told_from_an_intrusion(registry: Registry) -> None:
    registry.state = {}
    registry.answer = refusal(401, "UNAUTHORIZED", "log in first")
    registry.client.get("/v2/app/tags/list")
    registry.client.get("/v2/app/tags/list", headers=BASIC)
    challenge, intrusion = registry.entries()
    assert (challenge["user"], challenge["scheme"], challenge["reason"]) == ("", "anonymous", "no credentials")
    assert "claimed" not in challenge
    assert (intrusion["user"], intrusion["claimed"], intrusion["reason"]) == ("", "alice", "log in first")


@pytest.mark.parametrize(
    "header",
    [
        "Basic c3dvcmRmaXNo",  # no colon: the whole may be a password
        "Basic c3dvcmRmaXNoOg==",  # a name and no password, or the other way round
        "Basic c3dvcmRmaXNoc3dvcmRmaXNoc3dvcmRmaXNoc3dvcmRmaXNoOng=",  # too long for a name
        "Basic !!!",
        "Basic",
        "Basic /w==",
        "Bearer swordfish",
        "swordfish",
        "Digest username=swordfish",
        "",
    ],
)
def test_what_may_be_a_secret_is_no_name(registry: Registry, header: str) -> None:
    registry.state = {}
    registry.answer = refusal(401, "UNAUTHORIZED", "wrong")
    registry.client.get("/v2/app/tags/list", headers={"Authorization": header})
    text = registry.path.read_text()
    assert "swordfish" not in text
    assert "c3dvcmRmaXNo" not in text


def test_nothing_secret_is_written(registry: Registry) -> None:
    registry.state["identity"] = Identity("alice", scheme="htpasswd", credential="made-of-the-hash")
    registry.client.put(f"/v2/app/manifests/1?password={PASSWORD}", headers=BASIC | {"Cookie": PASSWORD})
    registry.state = {}
    registry.answer = refusal(401, "UNAUTHORIZED", "wrong")
    registry.client.put("/v2/app/manifests/1", headers=BASIC)
    text = registry.path.read_text()
    for secret in (PASSWORD, BASIC["Authorization"][6:], "made-of-the-hash"):
        assert secret not in text


def test_an_api_key_is_named(registry: Registry) -> None:
    registry.state["identity"] = Identity("ci", scheme="key", credential="k7")
    registry.client.put("/v2/app/manifests/1")
    assert registry.entries()[0]["credential"] == "k7"


def test_a_mount_says_from_where(registry: Registry) -> None:
    registry.answer = Response(status=201)
    registry.client.post("/v2/app/blobs/uploads/x?mount=sha256:0&from=other/app")
    assert [entry["from"] for entry in registry.entries()] == ["other/app"]


def test_hostile_paths_are_data(registry: Registry) -> None:
    registry.client.put("/v2/a%0a%7b%22user%22:%22forged%22%7d/manifests/%E2%80%A8%7F%FF")
    [entry] = registry.entries()
    assert entry["path"] == '/v2/a\n{"user":"forged"}/manifests/\u2028\x7f\ufffd'
    assert len(registry.path.read_bytes().splitlines()) == 1


def test_the_log_sees_the_last_answer(path: Path) -> None:
    """What other functions still change of an answer is in the line."""
    app = Flask("late")
    audit.install(app, Audit(str(path)))

    @app.after_request
    def refuse(_response: Response) -> Response:
        return Response(status=403)

    app.test_client().get("/")
    assert [entry["status"] for entry in entries(path)] == [403]
