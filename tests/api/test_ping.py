"""The base endpoint, and what every answer under /v2/ has in common."""

from __future__ import annotations

import re

import pytest

from tests.support.oci import Remote

UNKNOWN = "sha256:" + "0" * 64


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_base_endpoint_answers_200(remote: Remote, method: str, path: str) -> None:
    """Spec "Determining Support", end-1: 200 says that the registry implements the specification."""
    answer = remote.request(method, path)
    assert answer.status_code == 200
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/_catalog", 200),
        ("GET", "/v2/_oci/ext/discover", 200),
        ("GET", "/v2/metrics", 200),
        ("GET", "manifests/1", 200),
        ("HEAD", "manifests/1", 200),
        ("GET", "tags/list", 200),
        ("GET", f"referrers/{UNKNOWN}", 200),
        ("POST", "blobs/uploads/", 202),
        ("GET", "manifests/absent", 404),
        ("HEAD", "manifests/absent", 404),
        ("GET", f"blobs/{UNKNOWN}", 404),
        ("GET", "blobs/nonsense", 400),
        ("GET", "/v2/no/such/route", 404),
        ("GET", "/v2/UPPER/tags/list", 400),
        ("DELETE", "tags/list", 405),
    ],
)
def test_every_answer_under_v2_names_the_api_version(remote: Remote, method: str, path: str, status: int) -> None:
    """Spec "Legacy Docker support HTTP headers": old clients look for the header, on errors too."""
    remote.push_image("1")
    answer = remote.request(method, path)
    assert answer.status_code == status
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize("path", ["/v2/", "manifests/1", "manifests/absent", "tags/list"])
def test_warnings_if_any_are_well_formed(remote: Remote, path: str) -> None:
    """Spec "Warnings": warn-code 299, warn-agent `-`, no warn-date, at most 4096 bytes."""
    remote.push_image("1")
    warnings = remote.get(path).headers.get("Warning", "")
    assert len(warnings) <= 4096
    assert re.fullmatch(r'(299 - "[^"]*"(, )?)*', warnings)


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/_catalog", "/v2/_oci/ext/discover", "/v2/metrics", "tags/list", f"referrers/{UNKNOWN}"]
)
def test_head_is_answered_like_get(remote: Remote, path: str) -> None:
    """RFC 9110 (section 9.3.2): whatever answers GET answers HEAD, without the content."""
    remote.push_image("1")
    answer = remote.head(path)
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["Content-Type"] == remote.get(path).headers["Content-Type"]
