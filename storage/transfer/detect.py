"""Which kind of source a path is, told by its content."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from storage.layout import INDEX
from storage.transfer.docker import DOCKER_INDEX, DockerArchive, is_docker_index
from storage.transfer.errors import Missing, SourceError
from storage.transfer.files import Directory, Files, Tar, read_document
from storage.transfer.sources import OciLayout, Source
from storage.transfer.trees import LayoutTree, find_distribution, layouts_below


def detect(path: str) -> Source:
    """Return what a path is; raise SourceError with what is wrong with it."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SourceError(f"{path!r} is no path: {error}") from None
    if stat.S_ISREG(mode):
        return _archive(path)
    if stat.S_ISDIR(mode):
        return _directory(path)
    raise SourceError(f"{path} is neither a file nor a directory: write the archive to a file first")


def _archive(path: str) -> Source:
    files = Tar(path)
    if not any(files.has(name) for name in (INDEX, DOCKER_INDEX)):
        files.enter(INDEX) or files.enter(DOCKER_INDEX)
    found = _single(files)
    if found is None:
        raise SourceError(
            f"{path} has neither an {INDEX} nor a {DOCKER_INDEX}: it is no archive of images, or is cut off"
        )
    return found


def _directory(path: str) -> Source:
    try:
        found = _single(Directory(path)) or find_distribution(path) or _layout_tree(path)
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read: {error.strerror}") from None
    if found is None:
        raise SourceError(
            f"{path} is no source of images: it has no {INDEX}, neither itself nor in a directory below it, "
            "and no docker/registry/v2"
        )
    return found


def _single(files: Files) -> Source | None:
    """Return what is one layout or one archive; what docker writes now is both, and only the layout has manifests."""
    if files.has(INDEX):
        return OciLayout(files)
    with suppress(Missing):
        if is_docker_index(read_document(files, DOCKER_INDEX)):
            return DockerArchive(files)
    return None


def _layout_tree(path: str) -> Source | None:
    return LayoutTree(path) if next(layouts_below(path), None) else None
