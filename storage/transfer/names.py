"""What other tools call an image, and what it is called here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from storage.errors import NameInvalid
from storage.names import check_name, is_tag
from storage.transfer.errors import SourceError

#: How tools call Docker's own registry, whose images without a namespace lie under `library`.
_DOCKER_HUB = frozenset({"", "docker.io", "index.docker.io", "registry-1.docker.io"})
_LIBRARY = "library/"
#: What stands before the first slash is a registry if it has a dot or a port, or is this machine.
_REGISTRY = re.compile(r"localhost|[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+|[a-zA-Z0-9.-]+:[0-9]+|\[[0-9a-f:]+\](?::[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Name:
    """A repository, and a tag of it; each None where the source does not say."""

    repository: str | None = None
    tag: str | None = None


def parse_name(text: str) -> Name:
    """Read what a tool calls an image: `registry:5000/team/app:1`, `docker.io/library/app:1`, `app`, or only a tag.

    The registry goes, and so does Docker's `library/`. Raises SourceError for what can be no name.
    """
    if is_tag(text):
        return Name(tag=text)
    name, _, _ = text.partition("@")
    start = name.rfind("/") + 1
    last, colon, tag = name[start:].partition(":")
    if colon and not is_tag(tag):
        raise SourceError(f"{text!r} is no name of an image: {tag!r} can be no tag")
    return Name(_without_registry(name[:start] + last, text), tag or None)


def _without_registry(name: str, text: str) -> str:
    first, slash, rest = name.partition("/")
    registry = first if slash and _REGISTRY.fullmatch(first) else ""
    path = rest if registry else name
    if registry in _DOCKER_HUB:
        path = path.removeprefix(_LIBRARY)
    try:
        return check_name(path)
    except NameInvalid as error:
        raise SourceError(f"{text!r} is no name of an image: {error.message}") from None
