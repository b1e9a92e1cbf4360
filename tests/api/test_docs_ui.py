"""Swagger UI as a browser shows it: every operation is there, it can be tried, and no other host is asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Page, sync_playwright

from tests.conftest import MakeServer
from tests.support.oci import TIMEOUT, Remote
from tests.support.server import Server

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Visit:
    """A page, with what it asked for and what it complained about."""

    def __init__(self, page: Page) -> None:
        """Listen to the page, which has not loaded anything yet."""
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, url: str) -> None:
        """Load Swagger UI and wait until it shows the operations."""
        self.page.goto(url)
        self.page.wait_for_selector(".opblock")
        self.page.wait_for_load_state("networkidle")

    def hosts(self) -> set[str]:
        """Return the hosts that were asked, or would have been if the page's policy let it."""
        return {urlsplit(url).netloc for url in self.requests if not url.startswith("data:")}


@pytest.fixture
def visit() -> Iterator[Visit]:
    """Start Debian's Chromium, in a profile of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield Visit(browser.new_page(viewport={"width": 1300, "height": 1800}))
        browser.close()


def description_of(server: Server) -> dict[str, dict[str, object]]:
    """Return the paths of the server's description."""
    answer = requests.get(f"{server.url}/swagger/v2/swagger.json", timeout=TIMEOUT)
    answer.raise_for_status()
    paths: dict[str, dict[str, object]] = answer.json()["paths"]
    return paths


@pytest.mark.parametrize("path", ["/swagger/v2/", "/swagger/v2/index.html", "/swagger/v2"])
def test_the_page_shows_every_operation_without_another_host(server: Server, visit: Visit, path: str) -> None:
    """The page works offline: fonts, scripts and the description all come from the registry."""
    visit.open(server.url + path)
    operations = sum(len(item.keys() - {"parameters"}) for item in description_of(server).values())
    assert visit.page.locator(".opblock").count() == operations
    assert visit.page.title() == "Pierhead"
    assert visit.hosts() == {server.host}
    assert visit.complaints == []


def test_an_operation_can_be_tried(server: Server, visit: Visit, remote: Remote) -> None:
    """A repository's name with slashes, which the page sends percent-encoded, gets its answer."""
    remote.push_image("first")
    visit.open(f"{server.url}/swagger/v2/")
    operation = visit.page.locator(".opblock-get", has_text="tags/list")
    operation.locator(".opblock-summary").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("name").first.fill(remote.name)
    operation.get_by_role("button", name="Execute").click()
    operation.locator(".live-responses-table .response-col_description").first.wait_for()
    assert '"first"' in operation.locator(".live-responses-table").inner_text()
    assert visit.hosts() == {server.host}
    assert visit.complaints == []


@pytest.mark.parametrize("setting", ["url", "configUrl"])
def test_a_link_cannot_make_the_page_show_another_description(server: Server, visit: Visit, setting: str) -> None:
    """Swagger UI takes settings from its address; somebody else's description would be shown as the registry's."""
    visit.open(f"{server.url}/swagger/v2/?{setting}=http://other.invalid/swagger.json")
    assert visit.page.locator(".info .title").inner_text().startswith("Pierhead")
    assert visit.hosts() == {server.host}


def test_the_policy_names_no_other_host(server: Server) -> None:
    """Should a template ever ask for more, the browser refuses it."""
    answer = requests.get(f"{server.url}/swagger/v2/", timeout=TIMEOUT)
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "//" not in answer.headers["Content-Security-Policy"]


@pytest.mark.direct("it is the proxy")
def test_a_proxy_prefix_is_part_of_every_address(make_server: MakeServer) -> None:
    """Behind a trusted proxy that serves the registry under a prefix, the page asks and tries there too."""
    server = make_server(config={"server": {"trustedProxies": ["127.0.0.1"]}})
    headers = {"X-Forwarded-Prefix": "/images"}
    page = requests.get(f"{server.url}/swagger/v2/", headers=headers, timeout=TIMEOUT)
    assert '"/images/swagger/v2/swagger.json"' in page.text
    assert '"/swagger' not in page.text
    description = requests.get(f"{server.url}/swagger/v2/swagger.json", headers=headers, timeout=TIMEOUT)
    assert description.json()["basePath"] == "/images"


def test_what_is_not_there_is_404(server: Server) -> None:
    """An unknown file beside the page is a plain 404."""
    assert requests.get(f"{server.url}/swagger/v2/absent.css", timeout=TIMEOUT).status_code == 404
