"""Where what a source has goes: its own names, a name that was given, or names below a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from storage.transfer.errors import SourceError
from storage.transfer.sources import Repository, Root, Source


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for: a repository, or for a tree what stands before the names of all; and a tag."""

    name: str | None = None
    tag: str | None = None


def plan(source: Source, target: Target) -> Iterator[Repository]:
    """Yield the repositories by the names that they get; raise SourceError where a name is missing or too much."""
    if source.is_tree:
        if target.tag:
            raise SourceError(f"a {source.kind} has tags of its own: give a name without a tag")
        return (_below(target.name, repository) for repository in source.repositories())
    return iter(_named(list(source.repositories()), target))


def _below(prefix: str | None, repository: Repository) -> Repository:
    return replace(repository, name=f"{prefix}/{repository.name}") if prefix else repository


def _named(repositories: list[Repository], target: Target) -> list[Repository]:
    if not any(repository.roots or repository.failures for repository in repositories):
        raise SourceError("there is no image in it")
    if target.name is None:
        if any(repository.roots and not repository.name for repository in repositories):
            raise SourceError("it does not say which repository its images are of: give a NAME")
        return repositories
    if len(repositories) > 1:
        names = ", ".join(sorted(str(repository.name) for repository in repositories))
        raise SourceError(f"it has images of several repositories ({names}): leave NAME out")
    [repository] = repositories
    roots = _tagged(repository.roots, target.tag) if target.tag else repository.roots
    return [replace(repository, name=target.name, roots=roots)]


def _tagged(roots: tuple[Root, ...], tag: str) -> tuple[Root, ...]:
    """Give the tag to the only image, or to the only one that has a tag; what else there is keeps to its digest."""
    candidates = [root for root in roots if root.tags] or list(roots)
    if len(candidates) != 1:
        raise SourceError(f"there are {len(candidates)} images in it, which cannot all be tagged {tag}")
    return tuple(replace(root, tags=(tag,)) if root is candidates[0] else root for root in roots)
