"""The documentation keeps up: every configuration key is explained, every link leads somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.config import ConfigSection
from registry.config_fields import ListField, MapField, NotBuilt, Section, SectionField

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def keys(section: Section, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the path of each key of the configuration, and whether its feature is built."""
    for key, field in section.keys.items():
        if key == Section.OWN_KEYS:
            continue  # the same as another key, in another place
        path = f"{prefix}{key}"
        yield path, not isinstance(field, NotBuilt)
        if prefix == "storage.subPaths.*.":
            continue  # what is in it is the same as in `storage`
        if isinstance(field, SectionField):
            yield from keys(field.section, f"{path}.")
        elif isinstance(field, MapField):
            yield from keys(field.section, f"{path}.*.")
        elif isinstance(field, ListField):
            yield from keys(field.section, f"{path}[].")


BUILT = [path for path, built in keys(ConfigSection()) if built]
NOT_BUILT = [path for path, built in keys(ConfigSection()) if not built]


def test_the_walk_finds_the_keys() -> None:
    assert "storage.subPaths.*.rootDirectory" in BUILT
    assert "server.keepAlive" in BUILT
    assert "http.accessControl.repositories.*.policies[].users" in BUILT
    assert "http.allowReadAccess" in NOT_BUILT


@pytest.mark.parametrize("path", BUILT)
def test_every_key_has_its_heading(path: str) -> None:
    assert re.search(rf"^#+ {re.escape(path)}$", CONFIGURATION, re.MULTILINE), f"{path} is not in docs/configuration.md"


def test_every_heading_is_a_key() -> None:
    headings = re.findall(r"^####? (\S+)$", CONFIGURATION, re.MULTILINE)
    assert sorted(headings) == sorted(BUILT)


@pytest.mark.parametrize("path", [path for path in BUILT if "." in path])
def test_every_key_has_type_default_and_example(path: str) -> None:
    (text,) = re.findall(rf"^#### {re.escape(path)}\n\n(.*?)(?=^#|\Z)", CONFIGURATION, re.MULTILINE | re.DOTALL)
    assert re.match(r"(String|Boolean|Number|Duration|List|Object)\b.*(default|required)", text, re.DOTALL)
    assert "Example" in text


@pytest.mark.parametrize("path", NOT_BUILT)
def test_every_refused_key_is_listed(path: str) -> None:
    section, _, key = path.rpartition(".")
    row = f"| `{section}` |" if section else "| top level |"
    (line,) = [line for line in CONFIGURATION.splitlines() if line.startswith(row)]
    assert f"`{key}`" in line


def anchors(page: Path) -> set[str]:
    """Give the anchors that a page's headings make, as code hosts derive them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links, outside of code."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{target} leads nowhere"
        assert linked.resolve().is_relative_to(ROOT), f"{target} leads out of the project"
        assert not anchor or anchor in anchors(linked), f"{target} has no such heading"


def test_nothing_is_left_to_do() -> None:
    """What is missing stands in the issue tracker, not in comments."""
    marker = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")
    packages = ("registry", "blueprints", "storage", "swagger", "tests", "bench")
    sources = [path for package in packages for path in ROOT.glob(f"{package}/**/*.py")]
    found = [str(path) for path in [*PAGES, *sources] if marker.search(path.read_text(encoding="utf-8"))]
    assert not found
