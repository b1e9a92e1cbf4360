"""The copy of a repository's last good index: whole, or none; and cheap for an index that has only grown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.durable import write_at
from storage.last_good import LastGood
from storage.layout import Layout

NAME = "team/app"


def index(*entries: str) -> bytes:
    return b'{"manifests":[' + b",".join(entry.encode() for entry in entries) + b"]}"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield the sizes of what is written."""
    sizes: list[int] = []

    def counting(descriptor: int, data: bytes | memoryview, offset: int) -> None:
        sizes.append(len(data))
        write_at(descriptor, data, offset)

    monkeypatch.setattr("storage.last_good.write_at", counting)
    yield sizes


def test_of_what_has_grown_the_growth_is_written(layout: Layout, written: list[int]) -> None:
    ours, theirs = LastGood(layout), LastGood(layout)
    long = [f'"{number:0100}"' for number in range(100)]
    ours.keep(NAME, index(*long))
    theirs.keep(NAME, index(*long), wait=False)  # another worker has read what we wrote
    assert written == [len(index(*long)), 65]
    theirs.keep(NAME, index(*long, '"1"'))
    ours.keep(NAME, index(*long, '"1"'), wait=False)
    ours.keep(NAME, index(*long, '"1"', '"2"'))
    assert written[2:] == [len(b',"1"]}'), 65] * 2
    assert ours.read(NAME) == theirs.read(NAME) == index(*long, '"1"', '"2"')


def test_one_that_somebody_else_has_changed_is_written_whole(layout: Layout, written: list[int]) -> None:
    ours, theirs = LastGood(layout), LastGood(layout)
    ours.keep(NAME, index('"1"'))
    theirs.keep(NAME, index('"2"'))
    ours.keep(NAME, index('"1"', '"3"'))
    assert written[-2] == len(index('"1"', '"3"'))
    assert ours.read(NAME) == index('"1"', '"3"')


@pytest.mark.parametrize("size", [0, 10, 64, 65, 70])
def test_one_that_is_cut_off_is_none_and_written_anew(layout: Layout, size: int) -> None:
    ours = LastGood(layout)
    ours.keep(NAME, index('"1"'))
    os.truncate(layout.last_good_index(NAME), size)
    assert ours.read(NAME) is None
    ours.keep(NAME, index('"1"', '"2"'))
    assert ours.read(NAME) == index('"1"', '"2"')


def test_what_is_not_the_newest_is_not_kept(layout: Layout) -> None:
    ours = LastGood(layout)
    ours.keep(NAME, index('"1"'))
    ours.keep(NAME, index('"0"'), is_newest=lambda: False)
    assert ours.read(NAME) == index('"1"')
    ours.keep(NAME, index('"0"', '"2"'))
    assert ours.read(NAME) == index('"0"', '"2"')


@given(versions=st.lists(st.tuples(st.booleans(), st.binary(max_size=6)), max_size=8))
def test_whoever_writes_whatever_the_last_is_read(
    tmp_path_factory: pytest.TempPathFactory, versions: list[tuple[bool, bytes]]
) -> None:
    layout = Layout(str(tmp_path_factory.mktemp("store")))
    workers = [LastGood(layout), LastGood(layout)]
    data = b""
    for first, change in versions:
        data = data[:-2] + change if change[:1] > b"\x40" else change
        workers[first].keep(NAME, data)
        assert [worker.read(NAME) for worker in workers] == [data, data]
