"""The ordinary log: its two forms, the request a line belongs to, and what never gets into it."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, Response, g, request
from werkzeug.middleware.proxy_fix import ProxyFix

from registry import logs
from registry.auth.identity import Identity
from registry.config import LOG_LEVELS, LogConfig
from registry.logs import JSONLines, TextLines, access_line, json_line, printable, redacted, request_id

SECRETS = ("swordfish", "YWxpY2U6c3dvcmRmaXNo", "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl")
BASIC, TOKEN = SECRETS[1:]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what `configure` does to the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def record(
    message: str, *args: object, level: int = logging.INFO, exc_info: Any = None, request_id: str = ""
) -> logging.LogRecord:
    """Return a record as a logger makes it."""
    made = logging.LogRecord("registry.test", level, "file.py", 1, message, args, exc_info)
    made.request_id = request_id
    return made


def failure(message: str) -> Any:
    """Return what `exc_info` is for an exception."""
    try:
        raise ValueError(message)
    except ValueError:
        return sys.exc_info()


# Text


def test_a_line_of_text() -> None:
    line = TextLines().format(record("pushed %s", "team/app"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO \[\d+\] registry\.test: pushed team/app", line)


def test_a_line_of_text_that_belongs_to_a_request() -> None:
    assert "] [0123abcd] registry.test: pushed" in TextLines().format(record("pushed", request_id="0123abcd"))


FORGERIES = [
    "a\nb",
    "a\r\nb",
    "a\x0bb",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\x1b[2Kb",
    "a\x7fb",
    "a\u202eb",
    "a\ud800b",
]


@pytest.mark.parametrize("text", FORGERIES)
def test_a_client_cannot_forge_a_line_of_text(text: str) -> None:
    line = TextLines().format(record("bad name: %s", text))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert line.encode()


def test_a_tracebacks_lines_cannot_look_like_a_records() -> None:
    forged = "2026-01-01 00:00:00,000 INFO [1] registry: all is well"
    lines = TextLines().format(record("failed", exc_info=failure(f"a\n{forged}\u2028{forged}\x1b"))).splitlines()
    assert len(lines) > 4
    assert all(line.startswith("    ") and line.isprintable() for line in lines[1:])


def test_letters_of_all_languages_stay() -> None:
    assert printable("M\u00fcller \u5c71") == "M\u00fcller \u5c71"


# JSON


def test_a_line_of_json() -> None:
    entry = json.loads(JSONLines().format(record("pushed %s", "a", request_id="0123abcd")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert isinstance(entry.pop("pid"), int)
    assert entry == {"level": "info", "logger": "registry.test", "requestId": "0123abcd", "message": "pushed a"}


def test_a_traceback_is_a_value_of_its_own() -> None:
    entry = json.loads(JSONLines().format(record("failed", exc_info=failure("why"))))
    assert entry["message"] == "failed"
    assert entry["exception"].startswith("Traceback")
    assert entry["exception"].endswith("ValueError: why")
    assert "requestId" not in entry


@pytest.mark.parametrize("text", FORGERIES)
def test_a_client_cannot_forge_a_line_of_json(text: str) -> None:
    line = JSONLines().format(record("%s", text, exc_info=failure(text)))
    assert re.fullmatch("[\x20-\x7e]+", line)
    assert json.loads(line)["message"] == text


@pytest.mark.parametrize("level", sorted(set(LOG_LEVELS.values())))
def test_levels_have_the_configurations_names(level: int) -> None:
    name = json.loads(JSONLines().format(record("x", level=level)))["level"]
    assert LOG_LEVELS[name] == level
    assert name not in ("trace", "panic")


def test_what_json_does_not_know_becomes_text() -> None:
    assert json_line({"path": Path("/x")}) == '{"path":"/x"}'


# Both


@pytest.mark.parametrize("form", [TextLines, JSONLines])
@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Basic {BASIC}",
        f"authorization: bearer {TOKEN}",
        f"b'GET / HTTP/1.1\\r\\nAuthorization: Basic {BASIC}\\r\\nHost: a'",
        f"b'GET / HTTP/1.1\\nAuthorization: {BASIC}\\nHost: a'",
        f"{{'HTTP_AUTHORIZATION': 'Basic {BASIC}'}}",
        f"('Authorization', 'BASIC {BASIC}')",
        f"Invalid HTTP Header: 'Authorization Basic {BASIC}'",
        f"Basic {BASIC}",
        f"no token: {TOKEN}",
        "GET /v2/?access_token=swordfish HTTP/1.1",
        "GET /v2/token?n=1&password=swordfish&scope=a HTTP/1.1",
        "GET /v2/?n=1;password=swordfish HTTP/1.1",
        "GET /v2/?%70assword=swordfish HTTP/1.1",
        "http://alice:swordfish@registry.test/v2/",
        "ldap://swordfish@directory.test",
    ],
)
def test_credentials_are_hidden(form: type[logging.Formatter], text: str) -> None:
    line = form().format(record("refused: %s", text, exc_info=failure(text)))
    assert not any(secret in line for secret in SECRETS)
    assert line.count("***") >= 2


@pytest.mark.parametrize(
    "text",
    [
        "GET /v2/team/app/tags/list?n=3&last=1.0 HTTP/1.1",
        "POST /v2/app/blobs/uploads/?mount=sha256:0123456789ABCDEF&from=other HTTP/1.1",
        "http.auth: Basic authentication alone",
        "http.auth.token: /var/lib/pierhead/auth/keys.json: cannot be read",
        "the digest sha256:0123456789ABCDEF is another",
        "https://registry.example.com/v2/ answers",
        "/srv/data/team/app@sha256:0123",
        'unknown key, did you mean "port"?',
    ],
)
def test_what_is_no_credential_is_shown(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("form", [TextLines, JSONLines])
def test_lines_are_bounded(form: type[logging.Formatter]) -> None:
    assert len(form().format(record("%s", "x" * 1_000_000))) < 10_000


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_file_is_appended_to_and_opened_anew_when_it_is_rotated(tmp_path: Path, form: str) -> None:
    output = tmp_path / "registry.log"
    output.write_text("before\n")
    logs.configure(LogConfig(level="warn", output=str(output), format=form))
    logger = logging.getLogger("registry.test")
    logger.info("too quiet")
    logger.warning("first M\u00fcller")
    output.rename(tmp_path / "old.log")
    logger.warning("second")
    old = (tmp_path / "old.log").read_text()
    assert old.startswith("before\n")
    assert "too quiet" not in old
    assert "first" in old
    assert "second" in output.read_text()


def test_a_log_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        logs.configure(LogConfig(output=str(tmp_path / "gone" / "registry.log")))


# The id of a request


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    """Give an app that logs when it is asked, to `registry.log`, and says its id."""
    logs.configure(LogConfig(level="debug", output=str(tmp_path / "registry.log")))
    made = Flask("registry")
    logs.install(made)

    def view() -> Response:
        g.identity = Identity("alice")
        logging.getLogger("registry.test").info("served")
        assert request_id() == request_id()
        return Response(request_id())

    made.add_url_rule("/", view_func=view)
    return made


def test_a_request_has_one_id_which_its_lines_have_too(app: Flask, tmp_path: Path) -> None:
    client = app.test_client()
    first, second = (client.get("/").text for _ in range(2))
    assert first != second
    assert all(re.fullmatch("[0-9a-f]{16}", number) for number in (first, second))
    logging.getLogger("registry.test").info("idle")
    lines = (tmp_path / "registry.log").read_text().splitlines()
    assert [re.findall(r"\] \[(\w+)\] ", line) for line in lines] == [[first], [second], []]


def test_whoever_is_no_trusted_proxy_gives_no_id(app: Flask) -> None:
    assert app.test_client().get("/", headers={"X-Request-Id": "chosen"}).text != "chosen"


@pytest.mark.parametrize(("given", "taken"), [("a.B_c-1", True), ("x" * 64, True), ("x" * 65, False)])
def test_a_trusted_proxy_gives_the_id(app: Flask, given: str, taken: bool) -> None:
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    assert (app.test_client().get("/", headers={"X-Request-Id": given}).text == given) == taken


@pytest.mark.parametrize("given", ["", "a b", "a\x7fb", "m\u00fc", "<script>", "a,b"])
def test_an_id_that_is_none_is_not_taken_even_from_a_trusted_proxy(app: Flask, given: str) -> None:
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    answer = app.test_client().get("/", environ_overrides={"HTTP_X_REQUEST_ID": given})
    assert re.fullmatch("[0-9a-f]{16}", answer.text)


# The access log


def environ(**fields: str) -> dict[str, str]:
    """Return a request's environment."""
    return {
        "REMOTE_ADDR": "192.0.2.7",
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
    } | fields


ANSWER = SimpleNamespace(status="200 OK", sent=12)


def test_the_line_of_a_request() -> None:
    line = access_line(environ(QUERY_STRING="n=1", HTTP_USER_AGENT="curl/8", REMOTE_USER="al"), "/v2/", ANSWER, 0.0123)
    assert line == '192.0.2.7 "al" "GET /v2/?n=1 HTTP/1.1" 200 12 "-" "curl/8" 0.012'


def test_the_values_in_the_line_cannot_be_mistaken_for_each_other() -> None:
    line = access_line(environ(HTTP_USER_AGENT='a" 500 0 "b\\'), "/v2/", ANSWER, 0)
    assert line.endswith(' "-" "a\\" 500 0 \\"b\\\\" 0.000')


def test_an_address_that_is_none_cannot_be_mistaken_for_a_line() -> None:
    """A proxy may hand on what its client says."""
    line = access_line(environ(REMOTE_ADDR='x "root" "GET'), "/v2/", ANSWER, 0)
    assert line.startswith('"x \\"root\\" \\"GET" "-" "GET /v2/ ')


def test_the_line_is_bounded() -> None:
    long = "x" * 30_000
    fields = environ(QUERY_STRING=long, HTTP_USER_AGENT=long, HTTP_REFERER=long, REMOTE_USER=long)
    assert len(access_line(fields, long, ANSWER, 0)) < 4096


def test_the_user_is_known_only_where_there_is_an_access_log(app: Flask) -> None:
    seen = {}
    app.teardown_request(lambda _error: seen.update(request.environ))
    app.test_client().get("/")
    assert seen["REMOTE_USER"] == "alice"


def test_without_an_access_log_nobody_is_noted() -> None:
    logging.getLogger().setLevel(logging.INFO)
    app = Flask("registry")
    logs.install(app)
    assert not app.after_request_funcs
