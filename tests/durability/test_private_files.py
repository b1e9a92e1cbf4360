"""API keys, signing keys and users: what was acknowledged survives, and every other moment has the old or the new."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import pytest

from registry.auth.identity import Identity
from storage.durable import replace_file
from tests.durability.disk import Disk
from tests.durability.mounts import fill, small_disk
from tests.durability.private_files import (
    OPERATIONS,
    Place,
    Said,
    Write,
    another_key,
    another_user,
    first_key,
    first_signing_key,
    first_user,
    rotate,
    run_user_command,
    user_by_a_link,
)
from tests.durability.steps import Steps, dies_at, fail

Operation = Callable[[Place], Write]
MakePlace = Callable[[], Any]

TREE = Path(__file__).parents[2]
_MEMORY = "/dev/shm"
_DIRECTORY = _MEMORY if os.access(_MEMORY, os.W_OK) else gettempdir()

each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)


class ReadingDisk(Disk):
    """Record files that are open for writing only, too."""

    def _record(self, descriptor: int) -> None:
        reading = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
        try:
            super()._record(reading)
        finally:
            os.close(reading)


class Recorded(Place):
    """A place whose disk may lose its power; nothing is durable in the beginning."""

    def __init__(self, disk: Disk) -> None:
        """Make the directory of the users' file."""
        super().__init__(disk.anchor)
        self.disk = disk
        self.htpasswd.parent.mkdir()

    def left(self) -> set[Said]:
        """Return what the files say in each of the trees that a power loss now may leave."""
        with TemporaryDirectory(dir=self.anchor.parent) as directory:
            trees = {all_names: Place(Path(directory) / str(all_names)) for all_names in (False, True)}
            for all_names, tree in trees.items():
                self.disk.after_power_loss(tree.anchor, all_names=all_names)
            return {tree.said() for tree in trees.values()}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> MakePlace:
    """Give a context manager that yields a place whose disk takes fsync's place."""

    @contextmanager
    def make() -> Iterator[Recorded]:
        with TemporaryDirectory(dir=_DIRECTORY) as directory, monkeypatch.context() as patch:
            disk = ReadingDisk(Path(directory) / "disk")
            patch.setattr(os, "fsync", disk.fsync)
            try:
                yield Recorded(disk)
            finally:
                disk.close()

    return make


@pytest.fixture
def place(directory: Path) -> Place:
    """Give a place without a recorder."""
    return made(directory / "place")


def made(anchor: Path) -> Place:
    found = Place(anchor)
    found.htpasswd.parent.mkdir(parents=True)
    return found


@each_operation
def test_a_power_loss_leaves_the_old_or_the_new(recorded: MakePlace, operation: Operation) -> None:
    """At each step either may be there, and nothing else; once the write has returned, only the new."""
    with recorded() as place:
        write = operation(place)
        before: Said = place.said()
        seen: set[Said] = set()
        place.disk.on_step = lambda: seen.update(place.left())
        write()
        place.disk.on_step = lambda: None
        after = place.said()
        assert before != after
        assert before in seen
        assert seen <= {before, after}
        assert place.left() == {after}


@each_operation
def test_no_fsync_can_be_taken_away(recorded: MakePlace, operation: Operation) -> None:
    """Without any one of the lines that sync, this write may be lost or torn: each is needed, and is recorded."""
    with recorded() as place:
        write = operation(place)
        place.disk.sites.clear()
        write()
        sites = set(place.disk.sites)
    assert len(sites) >= 2
    superfluous = [site for site in sites if not _loses(recorded, operation, site)]
    assert not superfluous


def _loses(recorded: MakePlace, operation: Operation, site: str) -> bool:
    """Tell whether a power loss would be noticed if the calls of fsync from one place did nothing."""
    with recorded() as place:
        write = operation(place)
        place.disk.ignored = site
        write()
        try:
            return bool(place.left() != {place.said()})
        except ValueError:  # zeros where there should be content
            return True


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@each_operation
def test_every_step_may_fail(
    recorded: MakePlace, monkeypatch: pytest.MonkeyPatch, operation: Operation, lasting: bool, error: int
) -> None:
    """Let the first step fail, then the second, and so on: the old or the new is there, nothing else, and it goes on.

    What is written later is as durable as if nothing had failed: a directory whose name could not be synced when it
    was made is not taken for one that is there for good.
    """
    for number in count(1):
        with recorded() as place:
            write = operation(place)
            before = place.said()
            with monkeypatch.context() as patch, suppress(OSError):
                steps = Steps(patch, number, partial(fail, place.disk, error), lasting=lasting)
                write()
            after = place.said()
            assert not place.temporary()
            assert place.left() <= {before, after}
            _write_each(place)
            assert place.left() == {place.said()}
        if not steps.fired:
            assert number > 3
            assert after != before
            return


def _write_each(place: Place) -> None:
    """Write each of the files once more, whatever has become of them."""
    first_key(place)()
    place.tokens().rotate()
    run_user_command(place, "add", "zoe")


@each_operation
def test_kill_at_each_step(directory: Path, operation: Operation) -> None:
    """Whoever is killed leaves the old or the new, no lock, and at most one temporary file, which shows nobody more."""
    for number in count(1):
        place = made(directory / str(number))
        write = operation(place)
        before, modes = place.said(), {_mode(path) for path in place.secret()} | {0o600}
        killed = dies_at(number, write)
        assert len(place.temporary()) <= killed
        assert {_mode(path) for path in place.temporary()} <= modes
        after = place.said()
        if not killed:
            assert number > 3
            assert after != before
            return
        _write_each(place)
        assert place.tokens().verify(place.tokens().issue(Identity("alice"))[0]).name == "alice"
        assert set(after.keys) < set(place.said().keys)
        assert set(after.users) < set(place.said().users)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077], ids=oct)
def test_nobody_else_reads_them(place: Place, umask: int) -> None:
    """Whatever is usual here, their directories are their owner's alone, and so is every file with something in it."""
    place.root.mkdir(parents=True)
    old = os.umask(umask)
    try:
        for operation in (first_key, first_signing_key, first_user):
            operation(place)()
    finally:
        os.umask(old)
    assert _mode(Path(place.auth)) == 0o700
    assert {_mode(path) for path in place.secret()} == {0o600}


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o644])
def test_a_file_that_is_replaced_leaves_its_mode(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    file.chmod(mode)
    replace_file(str(file), b"new")
    assert (file.read_bytes(), _mode(file)) == (b"new", mode)


def test_a_link_is_replaced_where_it_leads(recorded: MakePlace) -> None:
    with recorded() as place:
        user_by_a_link(place)()
        assert place.htpasswd.is_symlink()
        assert [line.partition(b":")[0] for line in place.said().users] == [b"alice", b"bob"]
        assert [path.name for path in place.secret()] == ["users"]


@pytest.mark.parametrize("leave", [0, 4096])
@pytest.mark.parametrize("operation", [another_key, rotate, another_user], ids=lambda operation: operation.__name__)
def test_full_disk(tmp_path: Path, operation: Operation, leave: int) -> None:
    """What does not fit changes nothing and leaves nothing; once there is room it works, with no restart."""
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        place = made(disk)
        write = operation(place)
        process, before = place.keys(), place.said()
        filler = fill(disk, leave)
        with suppress(OSError):
            write()
        assert leave or place.said() == before
        assert not place.temporary()
        filler.unlink()
        written = place.said()
        _write_each(place)
        assert set(written.keys) < set(place.said().keys) == {info.id for info in process.list()}
        assert set(written.users) < set(place.said().users)


WRITE = """
import sys
from pathlib import Path
from tests.durability.private_files import Place, run_user_command
place = Place(Path(sys.argv[1]))
for number in range(15):
    place.keys().create("ci", None, None)
    place.tokens().rotate()
    run_user_command(place, "add", f"user{sys.argv[2]}.{number}")
"""


def test_who_reads_meanwhile_never_sees_half(place: Place) -> None:
    """While two processes write all the files, they can be read at any moment, and nothing that was there goes."""
    for operation in (first_key, first_signing_key, first_user):
        operation(place)()
    command = [sys.executable, "-c", WRITE, str(place.anchor)]
    writers = [subprocess.Popen([*command, str(number)], cwd=TREE) for number in range(2)]
    seen = [place.said()]
    while None in {writer.poll() for writer in writers}:
        seen.append(place.said())
    assert [writer.returncode for writer in writers] == [0, 0]
    for earlier, later in zip(seen, [*seen[1:], place.said()], strict=True):
        assert set(earlier.keys) <= set(later.keys)
        assert set(earlier.users) <= set(later.users)
        assert {kid for kid, _ in earlier.signing} <= {kid for kid, _ in later.signing}
    assert len(set(seen)) > 5
    assert [len(part) for part in place.said()] == [31, 31, 31]
    assert not place.temporary()
