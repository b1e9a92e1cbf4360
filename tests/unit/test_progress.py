"""`progress`: what it writes to stderr, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from itertools import count

import pytest

from registry.commands.progress import progress, telling


def test_without_a_terminal_one_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("repositories checked", 2) as advance:
        advance(1, "team/a")
        advance(1, "team/b")
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", "repositories checked: 2 of 2\n")


def test_long_work_tells_now_and_then_where_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(step=2)  # two seconds pass between any two looks
    monkeypatch.setattr("registry.commands.progress.time.monotonic", lambda: next(clock))
    with progress("repositories checked") as advance:
        for number in range(8):
            advance(1, f"team/{number}")
    *lines, last = capsys.readouterr().err.splitlines()
    assert 1 < len(lines) <= 4
    assert all(line.startswith("repositories checked: ") and "(team/" in line for line in lines)
    assert last == "repositories checked: 8"


def test_nothing_is_said_to_be_done_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError), progress("repositories checked", 2):
        raise OSError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("total", ["3", "None"])
def test_on_a_terminal_a_bar_and_nothing_on_stdout(total: str) -> None:
    script = (
        "from registry.commands.progress import progress\n"
        f"with progress('checked', {total}) as advance:\n"
        "    for name in 'abc':\n"
        "        advance(1, name)\n"
    )
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], stderr=theirs, stdout=subprocess.PIPE, check=True, timeout=60
        )
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout == b""
    assert "checked" in shown
    assert "3/3" in shown


def test_what_is_told_without_a_terminal_is_told_at_once() -> None:
    told: list[str] = []
    with telling(told.append) as tell:
        tell("a")
        assert told == ["a"]


def test_what_is_told_on_a_terminal_does_not_break_the_bar() -> None:
    """Nor is it lost where the work fails."""
    script = (
        "from registry.commands.progress import progress, telling\n"
        "with telling(print) as tell, progress('checked', 2) as advance:\n"
        "    advance(1)\n"
        "    tell('found something')\n"
        "    advance(1)\n"
        "    raise SystemExit(1)\n"
    )
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run([sys.executable, "-c", script], stdout=theirs, stderr=theirs, check=False, timeout=60)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert shown.index("2/2") < shown.index("found something")
    assert shown.splitlines()[-1] == "found something"
