"""The description run against the server: every operation succeeds with real content, and none breaks on any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, BaseSchema, Case, CheckContext, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.oci import OCI_IMAGE, TIMEOUT, Json, Remote, digest_of, random_bytes
from tests.support.server import Server
from tests.support.users import basic, htpasswd

FUZZING = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

AnyOperation = APIOperation[Any, Any, Any, Any]
AnyCase = Case[AnyOperation]
Request = dict[str, Any]


def statuses_are_described(ctx: CheckContext, response: Response, case: AnyCase) -> bool | None:
    """Check the status, unless the names made an address that belongs to no operation (404) or to others (405)."""
    if response.status_code in (404, 405) and b'"UNSUPPORTED"' in response.content:
        return None
    return status_code_conformance(ctx, response, case)


def bodies_have_their_content_type(ctx: CheckContext, response: Response, case: AnyCase) -> bool | None:
    """Check the Content-Type where there is content; Swagger 2.0 cannot say of an answer that it has no body."""
    return content_type_conformance(ctx, response, case) if response.content else None


CHECKS = [
    not_a_server_error,
    statuses_are_described,
    bodies_have_their_content_type,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass(frozen=True)
class Content:
    """What lies in a repository: a tagged image, its manifest, a blob of its own, and a session that has nothing."""

    remote: Remote
    manifest: Json
    blob: bytes
    session: str

    @property
    def path(self) -> dict[str, str]:
        """Return a value for each path parameter; `digest` is the blob's."""
        return {
            "name": self.remote.name,
            "reference": "1",
            "digest": digest_of(self.blob),
            "session": self.session.rpartition("/")[2],
        }


def push_content(remote: Remote) -> Content:
    """Push an image and a blob that nothing references, and start an upload."""
    manifest = remote.push_image("1")
    blob = random_bytes()
    remote.push_blob(blob)
    return Content(remote, manifest.content, blob, remote.start_upload())


def _nothing_more(_: Content) -> Request:
    return {}


def _of_a_subject(content: Content) -> Request:
    subject = content.remote.push_image()
    content.remote.push_referrer(subject.descriptor(), "application/vnd.example")
    return {
        "path_parameters": content.path | {"subject": subject.digest},
        "query": {"artifactType": "application/vnd.example"},
    }


def _push(content: Content) -> Request:
    return {"body": content.manifest, "media_type": OCI_IMAGE, "query": {"tag": ["2", "3"]}}


def _chunk(_: Content) -> Request:
    return {"body": b"0123456789", "media_type": "application/octet-stream", "headers": {"Content-Range": "0-9"}}


def _last_chunk(content: Content) -> Request:
    return _chunk(content) | {"query": {"digest": digest_of(b"0123456789")}}


#: A request that succeeds, for each operation: what it has beside the path parameters.
REQUESTS: dict[str, Callable[[Content], Request]] = {
    "GET /v2/": _nothing_more,
    "GET /v2/_catalog": lambda content: {"query": {"n": 1, "last": "a"}},
    "GET /v2/_oci/ext/discover": _nothing_more,
    "GET /v2/metrics": _nothing_more,
    "GET /v2/{name}/_oci/ext/discover": _nothing_more,
    "GET /v2/{name}/manifests/{reference}": _nothing_more,
    "HEAD /v2/{name}/manifests/{reference}": _nothing_more,
    "PUT /v2/{name}/manifests/{reference}": _push,
    "DELETE /v2/{name}/manifests/{reference}": _nothing_more,
    "GET /v2/{name}/blobs/{digest}": lambda content: {"headers": {"Range": "bytes=1-2"}},
    "HEAD /v2/{name}/blobs/{digest}": _nothing_more,
    "DELETE /v2/{name}/blobs/{digest}": _nothing_more,
    "POST /v2/{name}/blobs/uploads/": lambda content: {"query": {"mount": digest_of(content.blob)}},
    "GET /v2/{name}/blobs/uploads/{session}": _nothing_more,
    "PATCH /v2/{name}/blobs/uploads/{session}": _chunk,
    "PUT /v2/{name}/blobs/uploads/{session}": _last_chunk,
    "DELETE /v2/{name}/blobs/uploads/{session}": _nothing_more,
    "GET /v2/{name}/tags/list": lambda content: {"query": {"n": 1, "last": "0"}},
    "GET /v2/{name}/referrers/{subject}": _of_a_subject,
    "GET /oras/artifacts/v1/{name}/manifests/{subject}/referrers": _of_a_subject,
}


#: The same for the operations that only a server with tokens of its own has.
TOKEN_REQUESTS: dict[str, Request] = {
    "GET /v2/token": {
        "headers": basic("alice", "secret"),
        "query": {"service": "pierhead", "scope": ["repository:a:pull", "repository:b:push"], "offline_token": "true"},
    },
    "POST /v2/token": {
        "body": {"grant_type": "password", "username": "alice", "password": "secret", "access_type": "offline"},
        "media_type": "application/x-www-form-urlencoded",
    },
}


@pytest.fixture(scope="module")
def description(server: Server) -> BaseSchema:
    """Load the description that the shared server gives."""
    return schemathesis.openapi.from_url(f"{server.url}/swagger/v2/swagger.json")


@pytest.fixture(scope="module")
def description_with_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseSchema]:
    """Load the description of a server that issues tokens."""
    directory = tmp_path_factory.mktemp("tokens")
    users = htpasswd(directory / "htpasswd", {"alice": "secret"})
    auth = {"htpasswd": {"path": str(users)}, "token": {}}
    with Server(directory / "data", config={"http": {"auth": auth}}) as issuing:
        yield schemathesis.openapi.from_url(f"{issuing.url}/swagger/v2/swagger.json")


def find_operation(description: BaseSchema, label: str) -> AnyOperation:
    """Return the operation that has a method and a path."""
    method, path = label.split()
    return description[path][method]


def test_the_description_is_valid(description: BaseSchema) -> None:
    """The description is Swagger 2.0, and each of its operations has its request here."""
    description.validate()
    assert labels_of(description) == set(REQUESTS)


def labels_of(description: BaseSchema) -> set[str]:
    """Return the methods and paths of a description's operations."""
    return {
        f"{method.upper()} {path}" for path, item in description.items() for method in item if method != "parameters"
    }


@pytest.mark.parametrize("label", REQUESTS)
def test_every_operation_succeeds_as_described(description: BaseSchema, label: str, remote: Remote) -> None:
    """With real names, digests and sessions an operation answers 2xx, in the form that is described."""
    content = push_content(remote)
    operation = find_operation(description, label)
    request: Request = {"path_parameters": content.path} | REQUESTS[label](content)
    case = operation.Case(**request)
    answer = case.call_and_validate(checks=CHECKS, timeout=TIMEOUT)
    assert 200 <= answer.status_code < 300, answer.text


@pytest.mark.parametrize("label", REQUESTS)
def test_every_operation_withstands_any_request(description: BaseSchema, label: str, remote: Remote) -> None:
    """Whatever fills the parameters and the body, on real content or not, the answer is described and no 5xx."""
    operation = find_operation(description, label)
    content = push_content(remote)

    @FUZZING
    @given(case=any_request(operation), is_real=st.booleans())
    def run(case: AnyCase, is_real: bool) -> None:
        if is_real and "name" in case.path_parameters:
            case.path_parameters.update(replace(content, session=remote.start_upload()).path)
        case.call_and_validate(checks=CHECKS, timeout=TIMEOUT)

    run()


def test_the_description_with_tokens_is_valid(description_with_tokens: BaseSchema) -> None:
    """A server that issues tokens has the operations of others, and those that issue them."""
    description_with_tokens.validate()
    assert labels_of(description_with_tokens) == set(REQUESTS) | set(TOKEN_REQUESTS)


@pytest.mark.parametrize("label", TOKEN_REQUESTS)
def test_tokens_are_issued_as_described(description_with_tokens: BaseSchema, label: str) -> None:
    """With a user's password there is a token, in the form that is described."""
    case = find_operation(description_with_tokens, label).Case(**TOKEN_REQUESTS[label])
    answer = case.call_and_validate(checks=CHECKS, timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    assert answer.json()["refresh_token"]


@pytest.mark.parametrize("label", TOKEN_REQUESTS)
def test_the_token_server_withstands_any_request(description_with_tokens: BaseSchema, label: str) -> None:
    """Whatever fills the parameters and the form, the answer is described and no 5xx."""

    @FUZZING
    @given(case=any_request(find_operation(description_with_tokens, label)))
    def run(case: AnyCase) -> None:
        case.call_and_validate(checks=CHECKS, timeout=TIMEOUT)

    run()


def any_request(operation: AnyOperation) -> st.SearchStrategy[AnyCase]:
    """Return requests that keep to the operation's description and, if there is anything to break, that do not."""
    kept = operation.as_strategy(GenerationMode.POSITIVE)
    return kept | operation.as_strategy(GenerationMode.NEGATIVE) if any(operation.iter_parameters()) else kept
