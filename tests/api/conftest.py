"""What every black-box API test works with: one repository of the shared server."""

from __future__ import annotations

import pytest

from tests.support.oci import Remote
from tests.support.server import Server


@pytest.fixture
def remote(server: Server, repository: str) -> Remote:
    """Return a client of a fresh repository on the shared server."""
    return Remote(server.url, repository)
