"""Globs over repository names: they mean what they mean to zot, which takes github.com/bmatcuk/doublestar/v4."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from storage.names import MAX_NAME, is_component

_MAX_PATTERN = 1024
_MAX_BRANCHES = 256
_MAX_DEPTH = 8
_GLOBS_REMEMBERED = 2048
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789._-"  #: what repository names are made of, beside the slash
ANYTHING_BELOW = "**"
_WILDCARDS = frozenset("*?[\\")
_DIRECTORIES = "(?:[^/]++/)*"
_CLASS = re.compile(r"([!^]?+)((?:\\.|[^\]\\])+)\]", re.DOTALL)
_CLASS_ITEM = re.compile(r"(\\.|.)(?:-(\\.|[^\\]))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Branch:
    """A glob without braces: `directory` are its leading components that are literal, `rest` the ones after them."""

    directory: tuple[str, ...]
    rest: tuple[str, ...]

    def may_lie_below(self, prefix: tuple[str, ...]) -> bool:
        """Tell whether it could match anything at or below a directory; True if in doubt."""
        if not self.rest and len(self.directory) < len(prefix):
            return False
        return all(one == other for one, other in zip(self.directory, prefix, strict=False))

    def covers(self, prefix: tuple[str, ...]) -> bool:
        """Tell whether it matches everything at and below a directory; False if in doubt."""
        return self.rest == (ANYTHING_BELOW,) and self.directory == prefix[: len(self.directory)]


@dataclass(frozen=True, slots=True)
class Glob:
    """A glob, ready to match: without a regular expression it is nothing but names."""

    branches: tuple[_Branch, ...]
    names: frozenset[str]
    regex: re.Pattern[str] | None

    def matches(self, repository: str) -> bool:
        """Tell whether a name matches; none matches that is longer than a name can be."""
        if self.regex is None:
            return repository in self.names
        return len(repository) <= MAX_NAME and self.regex.match(repository + "/") is not None

    def may_lie_below(self, prefix: tuple[str, ...]) -> bool:
        """Tell whether it could match anything at or below a directory; True if in doubt."""
        return any(branch.may_lie_below(prefix) for branch in self.branches)

    def covers(self, prefix: tuple[str, ...]) -> bool:
        """Tell whether it matches everything at and below a directory; False if in doubt."""
        return any(branch.covers(prefix) for branch in self.branches)


def matches(pattern: str, repository: str) -> bool:
    """Tell whether a glob matches a repository's name; one that `check_pattern` refuses matches nothing.

    `*` is any characters within a component, `**` as a whole component any number of components, also none: `a/**`
    matches `a`. `?` is one character, `[a-z]` and `[!a-z]` one of a class, `{a,b}` either, `\\` takes what follows
    literally. `**` beside something else in its component is no more than `*`. The time this takes is at most
    proportional to the lengths of both, never exponential.
    """
    glob = glob_or_none(pattern)
    return glob is not None and glob.matches(repository)


def check_pattern(text: str) -> str:
    """Return a glob as it is; raise ValueError if it is malformed, or could not match any repository's name."""
    glob_of(text)
    return text


def glob_or_none(pattern: str) -> Glob | None:
    """Return what a pattern has become; None of one that is malformed."""
    try:
        return glob_of(pattern)
    except ValueError:
        return None


@lru_cache(maxsize=_GLOBS_REMEMBERED)
def glob_of(pattern: str) -> Glob:
    """Compile a glob; raise ValueError saying what is wrong with it."""
    if not pattern:
        raise ValueError('expected a glob over repository names, such as "team/**", got an empty one')
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"a glob has at most {_MAX_PATTERN} characters")
    parsed = [_components(text) for text in _without_braces(pattern)]
    branches = tuple(_Branch(*_split(components)) for components in parsed)
    if not any(branch.rest for branch in branches):
        return Glob(branches, frozenset("/".join(branch.directory) for branch in branches), None)
    return Glob(branches, frozenset(), re.compile("|".join(map(_regex, parsed))))


# A component is a list of chunks of a regular expression, between which there are stars; None is `**`.
# The source goes with it, for what is literal is compared as it is.
@dataclass(frozen=True, slots=True)
class _Component:
    literal: str | None
    chunks: tuple[str, ...] | None
    source: str


def _split(components: list[_Component]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the leading components that are literal, and the others as they are written."""
    literals: list[str] = []
    for component in components:
        if component.literal is None:
            break
        literals.append(component.literal)
    return tuple(literals), tuple(component.source for component in components[len(literals) :])


def _without_braces(text: str, depth: int = 0) -> list[str]:
    """Return the globs that a glob with braces stands for."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"braces are nested more than {_MAX_DEPTH} deep")
    branches = [""]
    at = 0
    for start, end, parts in _braces(text):
        inner = [branch for part in parts for branch in _without_braces(part, depth + 1)]
        if len(branches) * len(inner) > _MAX_BRANCHES:
            raise ValueError(f"the braces stand for more than {_MAX_BRANCHES} globs")
        branches = [head + text[at:start] + tail for head in branches for tail in inner]
        at = end
    return [branch + text[at:] for branch in branches]


def _braces(text: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the outermost braces: where they begin and end, and what stands between their commas."""
    depth = start = part = 0
    parts: list[str] = []
    for found in re.finditer(r"\\.|[{},]", text, re.DOTALL):
        mark, at = found.group(), found.start()
        if mark == "{":
            depth += 1
            if depth == 1:
                start, part, parts = at, at + 1, []
        elif mark == "}":
            depth -= 1
            if depth == 0:
                yield start, at + 1, [*parts, text[part:at]]
        elif mark == "," and depth == 1:
            parts.append(text[part:at])
            part = at + 1
        if depth < 0:
            raise ValueError("a } has no { before it")
    if depth:
        raise ValueError("a { is not closed")


def _components(text: str) -> list[_Component]:
    parts = text.split("/")
    if not parts[0]:
        raise ValueError("a glob does not begin with a slash" if text else "the braces stand for an empty glob, too")
    if not all(parts):
        raise ValueError("a slash at the end, or two in a row: no repository's name has that")
    components: list[_Component] = []
    for component in map(_component, parts):
        # `**/**` is `**`
        if component.chunks is not None or not components or components[-1].chunks is not None:
            components.append(component)
    for part in parts:
        if not _WILDCARDS.intersection(part) and not is_component(part):
            raise ValueError(f"no repository's name has the component {json.dumps(part)}")
    return components


def _component(text: str) -> _Component:
    """Parse what stands between two slashes."""
    if text == ANYTHING_BELOW:
        return _Component(None, None, text)
    chunks = [""]
    literal: str | None = ""
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == "*":
            chunks.append("")
        elif character == "?":
            chunks[-1] += "[^/]"
        elif character == "[":
            expression, at = _class(text, at)
            chunks[-1] += expression
        else:
            if character == "\\":
                character, at = text[at : at + 1], at + 1
            _check_character(character)
            chunks[-1] += re.escape(character)
            literal = None if literal is None else literal + character
            continue
        literal = None
    return _Component(literal, tuple(chunks), text)


def _check_character(character: str) -> None:
    if not character:
        raise ValueError("a backslash has nothing after it")
    if character.isupper():
        raise ValueError(f"no repository's name has upper-case letters, such as {json.dumps(character)}")
    if character not in _CHARACTERS:
        raise ValueError(f"no repository's name has the character {json.dumps(character)}")


def _class(text: str, at: int) -> tuple[str, int]:
    """Parse a class of characters, whose bracket is before `at`; return its expression, and where it ends."""
    found = _CLASS.match(text, at)
    if not found:
        raise ValueError("a [ is not closed, or has nothing in it")
    negated, body = found.groups()
    members: set[str] = set()
    for item in _CLASS_ITEM.finditer(body):
        first, last = (end and end[-1] for end in item.groups())
        _check_character(first)
        _check_character(last or first)
        if last and last < first:
            raise ValueError(f"the range {first}-{last} is backwards")
        members.update(one for one in _CHARACTERS if first <= one <= (last or first))
    kept = [one for one in _CHARACTERS if (one in members) != bool(negated)]
    if not kept:
        raise ValueError("a class leaves no character that a repository's name can have")
    return "[" + "".join(map(re.escape, kept)) + "]", found.end()


def _regex(components: list[_Component]) -> str:
    r"""Return what matches a name and a slash after it.

    The first place where the part between two stars fits is as good as any later one, so the groups are atomic: what
    has matched is never tried anew, and no name, whoever thinks it up, takes long.
    """
    head, *others = _between_doublestars(components)
    if not others:
        return rf"{head}\Z"
    *middle, last = others
    return head + "".join(rf"(?>{_DIRECTORIES}?{part})" for part in middle) + rf"{_DIRECTORIES}{last}\Z"


def _between_doublestars(components: list[_Component]) -> list[str]:
    parts = [""]
    for component in components:
        if component.chunks is None:
            parts.append("")
        else:
            parts[-1] += _component_regex(component.chunks)
    return parts


def _component_regex(chunks: tuple[str, ...]) -> str:
    first, *others = chunks
    if not others:
        return f"{first}/"
    *middle, last = others
    return "(?>" + first + "".join(f"(?>[^/]*?{chunk})" for chunk in middle) + f"[^/]*{last}/)"
