"""Private files whose directory somebody else has just made, and whose group is not that of who replaces them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from storage.durable import replace_file
from tests.durability.private_files import Place, Write, first_key, first_signing_key, first_user
from tests.durability.test_private_files import ReadingDisk, Recorded


@pytest.mark.parametrize(
    "operation", [first_key, first_signing_key, first_user], ids=lambda operation: operation.__name__
)
def test_a_directory_that_is_there_may_not_be_durable(
    monkeypatch: pytest.MonkeyPatch, operation: Callable[[Place], Write]
) -> None:
    """Whoever made it may have been killed before its name was on the disk, or be about to sync it."""
    with TemporaryDirectory() as name, monkeypatch.context() as patch:
        disk = ReadingDisk(Path(name) / "disk")
        patch.setattr(os, "fsync", disk.fsync)
        place = Recorded(disk)
        os.makedirs(place.auth)
        moved = place.htpasswd.parent.with_name("elsewhere")
        moved.mkdir()
        place.htpasswd = moved / "htpasswd"
        operation(place)()
        with TemporaryDirectory() as target:
            disk.after_power_loss(Path(target) / "left")
            left = Place(Path(target) / "left")
            left.htpasswd = left.anchor / "elsewhere" / "htpasswd"
            assert left.said() == place.said()
        disk.close()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("is_member", [True, False], ids=["member", "no member"])
def test_a_file_keeps_its_group_or_is_for_none(is_member: bool) -> None:
    """A registry that reads a file as a member of its group goes on; the editor's own group has no part in it."""
    with TemporaryDirectory() as directory:
        _check_group(Path(directory), is_member)


def _check_group(directory: Path, is_member: bool) -> None:
    file, group, somebody = directory / "file", 23456, 12345
    directory.chmod(0o777)
    file.write_bytes(b"old")
    os.chown(file, 0, group)
    file.chmod(0o640)
    _as_somebody(somebody, [group] if is_member else [], partial(replace_file, str(file), b"new"))
    status = file.stat()
    assert (status.st_uid, file.read_bytes()) == (somebody, b"new")
    assert (status.st_gid, _mode(file)) == ((group, 0o640) if is_member else (somebody, 0o600))


def _as_somebody(user: int, groups: list[int], write: Write) -> None:
    """Carry a write out in a process of a user who is in these groups, too."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(user)
            os.setuid(user)
            write()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
