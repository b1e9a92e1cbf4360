"""Secrets in a configuration: `${NAME}` of the environment, `{"file": PATH}`, or the words themselves."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from registry.config_text import Pairs, parse_json
from registry.config_values import expected

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SIZE_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """Hold what nobody may see by accident: only `value` shows it."""

    value: str

    def __repr__(self) -> str:
        """Show that there is something, and not what."""
        return "***"


def secret(value: object) -> Secret:
    """Take a secret, from where it says that it is kept; a file's final line break is not part of it.

    Raises ValueError, which never quotes the secret itself.
    """
    if isinstance(value, Pairs | Mapping):
        return Secret(_from_file(dict(value)))
    if not isinstance(value, str) or not value:
        raise ValueError('expected a string, "${NAME}" for the environment, or {"file": PATH}')
    variable = _VARIABLE.fullmatch(value)
    if variable is None:
        return Secret(value)
    found = os.environ.get(variable[1])
    if not found:
        raise ValueError(f"expected a secret in the environment variable {variable[1]}, which is not set")
    return Secret(found)


def _from_file(reference: Mapping[object, object]) -> str:
    path = reference.get("file")
    if set(reference) != {"file"} or not isinstance(path, str):
        raise ValueError('expected an object with the one key "file", whose value is a path')
    content = read_text(path).removesuffix("\n").removesuffix("\r")
    if not content:
        raise ValueError(f"expected a secret in the file {path}, which is empty")
    return content


def read_text(path: str) -> str:
    """Return the text of a small file that a configuration names; raise ValueError."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # a path may be anything that somebody wrote
            content = file.read(_SIZE_LIMIT + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise expected("the path of a file", path) from None
    if len(content) > _SIZE_LIMIT:
        raise ValueError(f"{path} is larger than {_SIZE_LIMIT // 1024} KiB: not what belongs here")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None


def credentials(path: object) -> tuple[str, Secret]:
    """Take the path of a JSON file with `bindDN` and `bindPassword`, as zot keeps them; raise ValueError."""
    if not isinstance(path, str) or not path:
        raise expected("the path of a JSON file", path)
    text = read_text(path)
    try:
        document = parse_json(text)
    except ValueError:
        raise ValueError(f"{path} is not valid JSON") from None  # the parser's words may quote the secret
    found = {str(key).lower(): value for key, value in document} if isinstance(document, Pairs) else {}
    name, password = found.get("binddn"), found.get("bindpassword")
    if set(found) != {"binddn", "bindpassword"} or not isinstance(name, str) or not name:
        raise ValueError(f'{path} has to hold an object with "bindDN" and "bindPassword"')
    return name, secret(password)
