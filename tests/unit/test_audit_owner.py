"""Whose the audit log is, and who may write to it at a time: across users, and across forks."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from registry.audit import Audit

FORKING = multiprocessing.get_context("fork")
SERVICE = 12345  #: the id of a user that nobody is


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for others")
def test_what_root_makes_is_the_directorys_owners(tmp_path: Path) -> None:
    """A command that root runs before the first start must not lock the registry out of its own log."""
    directory = tmp_path / "log"
    directory.mkdir()
    os.chown(directory, SERVICE, SERVICE + 1)
    path = directory / "audit.log"
    Audit(str(path)).write({"action": "key create"})
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (SERVICE, SERVICE + 1, 0o600)


def test_a_forked_process_waits_for_its_parent(tmp_path: Path) -> None:
    """With the parent's open file the child would have the parent's lock, and write whenever it liked."""
    path = tmp_path / "audit.log"
    audit = Audit(str(path))
    audit.write({"by": "parent"})
    audit._acquire()
    child = FORKING.Process(target=audit.write, args=({"by": "child"},))
    child.start()
    child.join(0.5)
    assert child.is_alive()
    assert "child" not in path.read_text()
    audit._close()
    child.join(30)
    assert child.exitcode == 0
    assert [line.count('"by"') for line in path.read_text().splitlines()] == [1, 1]
