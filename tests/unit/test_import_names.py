"""What other tools call images, and what they are called here."""

from __future__ import annotations

import pytest

from storage.transfer.errors import SourceError
from storage.transfer.names import Name, parse_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1", Name(None, "1")),
        ("latest", Name(None, "latest")),
        ("app:1", Name("app", "1")),
        ("team/app", Name("team/app", None)),
        ("docker.io/library/app:1", Name("app", "1")),
        ("docker.io/team/app:1", Name("team/app", "1")),
        ("index.docker.io/library/app:1", Name("app", "1")),
        ("library/app:1", Name("app", "1")),
        ("quay.io/library/app:1", Name("library/app", "1")),
        ("localhost/app:1", Name("app", "1")),
        ("localhost:5000/app:1", Name("app", "1")),
        ("registry.test/team/app", Name("team/app", None)),
        ("registry:5000/team/app:v1.0", Name("team/app", "v1.0")),
        ("[::1]:5000/app:1", Name("app", "1")),
        ("Registry.Test/app:1", Name("app", "1")),
        ("app:1@sha256:" + "0" * 64, Name("app", "1")),
        ("my_registry/app:1", Name("my_registry/app", "1")),
    ],
)
def test_names(text: str, name: Name) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text",
    ["", "/", "a/", "/a", "a//b:1", "../a:1", "..:1", "UP/a:1", "a:", "a:b c", "a:b:c", "a b", "é/a:1", "blobs/a:1"],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(SourceError):
        parse_name(text)
