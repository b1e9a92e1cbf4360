"""Users for tests: an htpasswd file, and the headers that they send."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import bcrypt

#: Quick to verify: what bcrypt costs is not what most tests are about.
COST = 4


def htpasswd(path: Path, users: Mapping[str, str]) -> Path:
    """Write an htpasswd file of users and passwords, hashed by bcrypt."""
    lines = (
        f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(COST, b'2b')).decode()}\n"
        for name, password in users.items()
    )
    path.write_text("".join(lines))
    return path


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of Basic credentials (RFC 7617)."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    """Return the header of a token (RFC 6750)."""
    return {"Authorization": f"Bearer {token}"}
