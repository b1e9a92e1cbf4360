"""What all tests share: servers, repository names, logs of failures, and no silent skips under CI."""

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.support.programs import NOT_BUILT
from tests.support.server import THROUGH_NGINX, Server

MakeServer = Callable[..., Server]

_SERVERS = pytest.StashKey[list[Server]]()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with two workers that all tests share: each uses repository names of its own."""
    with Server(tmp_path_factory.mktemp("server") / "data", workers=2) as running:
        yield running


@pytest.fixture
def repository() -> str:
    """Give the name of a repository that nobody else uses."""
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture
def make_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeServer]:
    """Give a function that starts servers, each with data of its own, and stop them in the end.

    The function takes `Server`'s keywords, and `root` to choose where the data lies.
    """
    servers: list[Server] = request.node.stash.setdefault(_SERVERS, [])

    def make(*, root: Path | None = None, **options: Any) -> Server:
        made = Server(root or tmp_path / f"data{len(servers)}", **options)
        servers.append(made)
        made.start()
        return made

    yield make
    for made in servers:
        made.kill()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot be tried through nginx, where everything is."""
    if THROUGH_NGINX in os.environ:
        direct = [item for item in items if item.get_closest_marker("direct")]
        config.hook.pytest_deselected(items=direct)
        items[:] = [item for item in items if item not in direct]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the servers' logs with a failure, and let a skip fail under CI, but of what no network let us build."""
    report = yield
    allowed = hasattr(report, "wasxfail") or (call.excinfo and str(call.excinfo.value).startswith(NOT_BUILT))
    if report.skipped and os.environ.get("CI") and not allowed:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI forbids: {call.excinfo.value if call.excinfo else report.longrepr}"
    if report.failed:
        for used in _servers_of(item):
            report.sections.append((f"log of {used.root}", used.log_tail()))
    return report


def _servers_of(item: pytest.Item) -> list[Server]:
    shared = getattr(item, "funcargs", {}).get("server")
    return [*item.stash.get(_SERVERS, []), *([shared] if isinstance(shared, Server) else [])]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were skipped for want of a program or a library, and why."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section("tests that were skipped")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.line(f"{report.nodeid}: {reason}")
