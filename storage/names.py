"""The grammar of repository names and tags (distribution spec, "Pulling manifests")."""

from __future__ import annotations

import re
from collections.abc import Container
from functools import lru_cache

from storage.errors import NameInvalid, TagInvalid

MAX_NAME = 255  #: longest repository name; also what the longest file name of a file system can hold
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_ONE = re.compile(_COMPONENT)
NAME_PATTERN = rf"{_COMPONENT}(?:/{_COMPONENT})*"  #: what `check_name` looks for, for others that read names
_NAME = re.compile(NAME_PATTERN)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

#: Names that an image layout needs in a repository's directory, so that no nested repository can have them.
RESERVED = frozenset({"blobs", "index.json", "oci-layout"})


@lru_cache(maxsize=8192)
def check_name(name: str) -> str:
    """Return `name` if a repository can be called so; raise NameInvalid otherwise."""
    if len(name) > MAX_NAME:
        raise NameInvalid(f"a repository name has at most {MAX_NAME} characters", length=len(name))
    if not _NAME.fullmatch(name):
        raise NameInvalid(
            "a repository name is lower-case letters and digits, separated by '.', '_', '__' or '-', "
            "in components separated by '/'",
            name=name,
        )
    taken = RESERVED.intersection(name.split("/"))
    if taken:
        raise NameInvalid(
            f"{min(taken)!r} cannot be part of a repository name: the image layout on disk needs it", name=name
        )
    return name


def is_component(text: str) -> bool:
    """Tell whether `text` can stand between the slashes of a repository name."""
    return text not in RESERVED and _ONE.fullmatch(text) is not None


def lies_in(name: str, prefix: str) -> bool:
    """Tell whether a name is a prefix or nested in it, by whole components; everything lies in the prefix ""."""
    return not prefix or f"{name}/".startswith(f"{prefix}/")


def longest_prefix(name: str, prefixes: Container[str]) -> str:
    """Return the longest of the prefixes that the name lies in, or "" if there is none."""
    while name and name not in prefixes:
        name = name.rpartition("/")[0]
    return name


def is_tag(text: str) -> bool:
    """Tell whether `text` can be a tag."""
    return _TAG.fullmatch(text) is not None


def check_tag(text: str) -> str:
    """Return `text` if it can be a tag; raise TagInvalid otherwise."""
    if not is_tag(text):
        raise TagInvalid(
            "a tag is 1 to 128 letters, digits, '_', '.' or '-', and does not begin with '.' or '-'", tag=text
        )
    return text
