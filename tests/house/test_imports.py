"""Imports point one way: storage <- registry <- blueprints, and only create_app, in its body, looks back."""

import ast
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"storage", "registry", "blueprints", "swagger", "wsgi", "tests", "bench"}
MAY_IMPORT = {
    "storage": {"storage"},
    "registry": {"registry", "storage"},
    "blueprints": {"blueprints", "registry", "storage", "swagger"},
    "swagger": set(),
    "wsgi": {"registry"},
}
MODULES = [ROOT / "wsgi.py", *(path for package in MAY_IMPORT for path in sorted(ROOT.glob(f"{package}/**/*.py")))]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the whole name and the line of each module that is imported anywhere in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides where it leads"
            yield node.module or "", node.lineno


def uses_of_os(path: Path) -> set[str]:
    """Give the names that a module takes from the module os."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "os"}


def without_create_app(tree: ast.Module) -> ast.Module:
    """Give a module without the body of its function create_app."""
    body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "create_app")]
    return ast.Module(body=body, type_ignores=[])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_direction(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path == ROOT / "registry" / "__init__.py":
        tree = without_create_app(tree)
    allowed = MAY_IMPORT[path.relative_to(ROOT).parts[0].removesuffix(".py")]
    wrong = [(name, line) for name, line in imports(tree) if name.split(".")[0] in OURS - allowed]
    assert not wrong


def test_storage_knows_no_http() -> None:
    """The storage package says what a registry means, without Flask, gunicorn or werkzeug."""
    for path in ROOT.glob("storage/**/*.py"):
        names = {name.split(".")[0] for name, _ in imports(ast.parse(path.read_text(encoding="utf-8")))}
        assert not names & {"flask", "werkzeug", "gunicorn", "http", "marshmallow"}, path


def test_only_durable_makes_names_last() -> None:
    """Only storage/durable.py calls fsync, link and rename: what a power failure leaves is decided in one file."""
    for path in MODULES:
        if path == ROOT / "storage" / "durable.py":
            continue
        assert not uses_of_os(path) & {"fsync", "fdatasync", "sync", "link", "rename", "renames", "replace"}, path


def test_only_config_reads_the_environment() -> None:
    """Only the configuration and the command that serves read the environment."""
    readers = {ROOT / "registry" / name for name in ("config.py", "config_secrets.py", "server.py")}
    for path in [module for module in MODULES if module not in readers]:
        assert not uses_of_os(path) & {"environ", "getenv"}, path


def test_what_is_not_configured_is_not_imported(tmp_path: Path) -> None:
    """A registry without users or foreign tokens, as by default, has no room for the libraries of those."""
    program = """
        import sys
        import registry.cli, registry.worker
        from registry import create_app
        create_app()
        print(*sys.modules)
    """
    environment = {name: value for name, value in os.environ.items() if name != "PIERHEAD_CONFIG"}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    loaded = set(ran.stdout.split())
    libraries = {"bcrypt", "cryptography", "flasgger", "jwt", "ldap", "passlib", "tarfile"}
    schemes = ("bearer", "guessing", "htpasswd", "keys", "ldap", "passwords", "tokens")
    assert "registry.auth.gate" in loaded
    assert not loaded & (libraries | {f"registry.auth.{name}" for name in schemes})
