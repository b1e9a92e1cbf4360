"""Pages of other origins, in a browser: which may use the registry, and what they see of it."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, sync_playwright

from tests.api.test_docs_ui import ARGUMENTS
from tests.conftest import MakeServer
from tests.support.oci import TIMEOUT, Remote, digest_of
from tests.support.server import Server
from tests.support.users import basic, htpasswd

ALICE = basic("alice", "correct horse")
DATA = "a blob that a page pushes"

FETCH = """async ([url, options]) => {
  try {
    const answer = await fetch(url, options);
    return {status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.text()};
  } catch (error) {
    return {error: error.name};
  }
}"""


class _Blank(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Serve an empty page, whatever is asked for."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@contextmanager
def site() -> Iterator[str]:
    """Serve empty pages; yield their origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Blank) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def origin() -> Iterator[str]:
    with site() as found:
        yield found


@pytest.fixture
def stranger() -> Iterator[str]:
    with site() as found:
        yield found


@pytest.fixture
def page() -> Iterator[Page]:
    """Start Debian's Chromium, in a profile of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser.new_page()
        browser.close()


def fetch(page: Page, url: str, **options: Any) -> dict[str, Any]:
    """Let the page's script make a request; give what it sees of the answer, or its error."""
    answer: dict[str, Any] = page.evaluate(FETCH, [url, options])
    return answer


@pytest.fixture
def registry(make_server: MakeServer, tmp_path: Path, origin: str) -> Server:
    """Give a registry with a user, and one origin besides another that no page here has."""
    users = htpasswd(tmp_path / "htpasswd", {"alice": "correct horse"})
    return make_server(
        config={"http": {"auth": {"htpasswd": {"path": str(users)}}, "allowOrigin": f"https://ui.test, {origin}"}}
    )


def test_a_page_of_an_allowed_origin_can_use_the_registry(registry: Server, page: Page, origin: str) -> None:
    """It logs in, pushes a blob, and reads lists and headers; a refusal it can read, too."""
    page.goto(origin)
    refused = fetch(page, f"{registry.url}/v2/_catalog")
    assert refused["status"] == 401
    assert refused["headers"]["www-authenticate"].startswith("Basic")
    assert '"UNAUTHORIZED"' in refused["body"]
    started = fetch(page, f"{registry.url}/v2/team/app/blobs/uploads/", method="POST", headers=ALICE)
    assert started["status"] == 202
    digest = digest_of(DATA.encode())
    pushed = fetch(
        page,
        f"{registry.url}{started['headers']['location']}?digest={digest}",
        method="PUT",
        headers=ALICE | {"Content-Type": "application/octet-stream"},
        body=DATA,
    )
    assert pushed["status"] == 201
    assert pushed["headers"]["docker-content-digest"] == digest
    part = fetch(page, f"{registry.url}/v2/team/app/blobs/{digest}", headers=ALICE | {"Range": "bytes=2-5"})
    assert (part["status"], part["body"]) == (206, "blob")
    assert part["headers"]["content-range"] == f"bytes 2-5/{len(DATA)}"
    assert re.fullmatch("[0-9a-f]{16,32}", part["headers"]["x-request-id"])
    listed = fetch(page, f"{registry.url}/v2/_catalog", headers=ALICE)
    assert listed["body"].startswith('{"repositories":')


def test_a_page_of_another_origin_cannot(registry: Server, page: Page, stranger: str) -> None:
    """Not even with credentials; what a simple request asks for is answered, but the page does not see it."""
    page.goto(stranger)
    assert fetch(page, f"{registry.url}/v2/_catalog") == {"error": "TypeError"}
    assert fetch(page, f"{registry.url}/v2/_catalog", headers=ALICE) == {"error": "TypeError"}
    assert fetch(page, f"{registry.url}/v2/team/app/manifests/1", method="DELETE") == {"error": "TypeError"}


def test_without_the_setting_no_page_can(server: Server, page: Page, origin: str) -> None:
    page.goto(origin)
    assert fetch(page, f"{server.url}/v2/_catalog") == {"error": "TypeError"}
    answer = requests.get(f"{server.url}/v2/", headers={"Origin": origin}, timeout=TIMEOUT)
    assert not [key for key in answer.headers if key.startswith("Access-Control")]


def test_any_page_can_where_all_are_allowed(make_server: MakeServer, page: Page, stranger: str) -> None:
    """With credentials of its own, if need be; not with those that the browser keeps."""
    registry = make_server(config={"http": {"allowOrigin": "*"}})
    Remote(registry.url, "team/app").push_image("1")
    page.goto(stranger)
    answer = fetch(page, f"{registry.url}/v2/team/app/manifests/1", headers={"Authorization": "Basic YTpi"})
    assert answer["status"] == 200
    assert answer["headers"]["docker-content-digest"].startswith("sha256:")
    assert fetch(page, f"{registry.url}/v2/_catalog", credentials="include") == {"error": "TypeError"}


def test_an_answer_that_was_cached_for_nobody_is_not_shown_to_a_page(registry: Server, page: Page, origin: str) -> None:
    """A blob may be cached for a year; the copy without permission must not hide the one with it."""
    remote = Remote(registry.url, "team/app")
    remote.authorize(ALICE)
    manifest = remote.push_image("1")
    url = f"{registry.url}/v2/team/app/manifests/{manifest.digest}"
    page.goto(origin)
    fetch(page, url, mode="no-cors")
    assert fetch(page, url, headers=ALICE)["status"] == 200


@pytest.mark.parametrize("path", ["/v2/UPPER/tags/list", "/v2/none/manifests/sha256:0", "/nowhere", "/v2/token"])
def test_a_browser_may_ask_about_any_path(registry: Server, origin: str, path: str) -> None:
    """The refusal comes with the request itself, and the page can read it."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    answer = requests.options(registry.url + path, headers=headers, timeout=TIMEOUT)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog", "/nowhere", "/swagger/v2/", "/v2/none/blobs/sha256:0"])
def test_no_answers_type_is_guessed(server: Server, path: str) -> None:
    answer = requests.get(server.url + path, timeout=TIMEOUT)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_pages_are_framed_by_nobody_and_tell_nobody_where_they_were(server: Server) -> None:
    for path in ("/swagger/v2/", "/swagger/v2/none"):
        answer = requests.get(server.url + path, timeout=TIMEOUT)
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
