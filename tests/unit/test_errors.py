"""How failures are answered: a rule for each, one shape for all."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.test import TestResponse

from registry import errors
from registry.auth.build import build_gate
from registry.config import default_config
from registry.context import Pierhead
from registry.errors import RULES, RequestRefused
from registry.metrics import Metrics
from storage import errors as store
from storage.controller import StoreController
from storage.errors import StorageError
from storage.image_store import ImageStore
from storage.local import LocalBackend
from tests.support.oci import ERROR_CODES

STORE = ImageStore(LocalBackend("/nowhere"))
KINDS = [
    kind
    for _, kind in inspect.getmembers(store, inspect.isclass)
    if issubclass(kind, StorageError) and kind is not StorageError
]


def example(kind: type[StorageError]) -> StorageError:
    """Make an error of a kind."""
    if kind is store.ReferencesUnknown:
        return store.ReferencesUnknown(["sha256:a", "sha256:b"])
    if kind is store.UploadOutOfOrder:
        return store.UploadOutOfOrder("what was wrong", 7, start=3)
    return kind("what was wrong", which="this")


class Failing:
    """An app whose only route raises what it is told to."""

    def __init__(self) -> None:
        self.error: Exception = Exception()
        app = Flask("failing")
        config = default_config()
        gate = build_gate(config)
        app.extensions["pierhead"] = Pierhead(config, StoreController(STORE), gate, Metrics("/nowhere"))
        errors.install(app)
        app.add_url_rule("/v2/<session>", view_func=self.fail, methods=["GET", "PATCH"])
        self.client: FlaskClient = app.test_client()

    def fail(self, session: str) -> str:
        raise self.error

    def answer(self, error: Exception) -> TestResponse:
        self.error = error
        return self.client.get("/v2/here")


@pytest.fixture
def failing() -> Failing:
    return Failing()


def errors_of(answer: TestResponse) -> list[dict[str, object]]:
    """Check the shape of an answer, and give its errors."""
    assert answer.mimetype == "application/json"
    body = answer.get_json()
    assert set(body) == {"errors"}
    assert body["errors"]
    for error in body["errors"]:
        assert set(error) == {"code", "message", "detail"}
        assert error["code"] in ERROR_CODES
        assert isinstance(error["message"], str)
        assert error["message"]
    found: list[dict[str, object]] = body["errors"]
    return found


def test_every_kind_of_error_has_a_rule() -> None:
    assert set(RULES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_answered_by_its_rule(failing: Failing, kind: type[StorageError]) -> None:
    rule = RULES[kind]
    assert rule.code in ERROR_CODES
    answer = failing.answer(example(kind))
    assert answer.status_code == rule.status
    assert {error["code"] for error in errors_of(answer)} == {rule.code}


def test_the_detail_is_the_errors_own(failing: Failing) -> None:
    found = errors_of(failing.answer(store.ManifestInvalid("what was wrong", path="layers[0]")))
    assert found == [{"code": "MANIFEST_INVALID", "message": "what was wrong", "detail": {"path": "layers[0]"}}]


def test_each_missing_reference_is_an_error(failing: Failing) -> None:
    found = errors_of(failing.answer(store.ReferencesUnknown(["sha256:a", "sha256:b"])))
    assert [error["detail"] for error in found] == [{"digest": "sha256:a"}, {"digest": "sha256:b"}]


@pytest.mark.parametrize(("offset", "held"), [(0, "0-0"), (1, "0-0"), (7, "0-6")])
def test_a_chunk_out_of_order_says_where_to_go_on(failing: Failing, offset: int, held: str) -> None:
    answer = failing.answer(store.UploadOutOfOrder("out of order", offset))
    assert answer.headers["Range"] == held
    assert answer.headers["Location"] == "/v2/here"
    assert answer.headers["Docker-Upload-UUID"] == "here"


def test_what_must_not_be_deleted_says_what_is_allowed(failing: Failing) -> None:
    assert failing.answer(example(store.StillReferenced)).headers["Allow"]


def test_a_refused_request_is_answered_as_it_says(failing: Failing) -> None:
    answer = failing.answer(RequestRefused("SIZE_INVALID", 416, "no", headers={"Content-Range": "bytes */3"}, size=3))
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */3"
    assert errors_of(answer) == [{"code": "SIZE_INVALID", "message": "no", "detail": {"size": 3}}]


@pytest.mark.parametrize("error", [BadRequest("bad"), RequestEntityTooLarge()])
def test_what_flask_refuses_has_the_same_shape(failing: Failing, error: BadRequest) -> None:
    answer = failing.answer(error)
    assert answer.status_code == error.code
    assert errors_of(answer)[0]["detail"] == {"method": "GET", "path": "/v2/here"}


def test_routes_and_methods_that_are_not_there_have_the_same_shape(failing: Failing) -> None:
    missing, wrong = failing.client.get("/nowhere"), failing.client.delete("/v2/here")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert {errors_of(answer)[0]["code"] for answer in (missing, wrong)} == {"UNSUPPORTED"}
    assert set(wrong.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "PATCH"}


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOSPC, 507),
        (errno.EDQUOT, 507),
        (errno.EROFS, 503),
        (errno.EACCES, 503),
        (errno.EPERM, 503),
        (errno.EMFILE, 503),
        (errno.ENFILE, 503),
    ],
)
def test_what_the_system_refuses_is_said_without_a_path(failing: Failing, number: int, status: int) -> None:
    answer = failing.answer(OSError(number, "the reason", "/secret/path"))
    assert answer.status_code == status
    assert errors_of(answer)[0]["detail"] == {"reason": "the reason"}
    assert b"secret" not in answer.data
    assert ("Retry-After" in answer.headers) == (number in {errno.EMFILE, errno.ENFILE})


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), OSError("secret"), OSError(errno.ENOTDIR, "secret")])
def test_a_bug_is_a_500_with_an_id_that_the_log_has_too(
    failing: Failing, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    answer = failing.answer(error)
    assert answer.status_code == 500
    detail = errors_of(answer)[0]["detail"]
    assert isinstance(detail, dict)
    assert detail["requestId"] in caplog.text
    assert "secret" in caplog.text
    assert b"secret" not in answer.data


def test_a_head_has_no_body(failing: Failing) -> None:
    failing.error = example(store.BlobUnknown)
    answer = failing.client.head("/v2/here")
    assert (answer.status_code, answer.data) == (404, b"")


@pytest.fixture(autouse=True)
def _no_propagation(failing: Failing) -> Iterator[None]:
    """Answer bugs as a server does, instead of raising them in the test."""
    failing.client.application.config["PROPAGATE_EXCEPTIONS"] = False
    yield
