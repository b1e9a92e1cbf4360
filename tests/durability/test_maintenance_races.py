"""Scrubs and moves beside pushes, deletions and collections: no false alarm, and nothing acknowledged is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.controller import StoreController
from storage.digest import Digest
from storage.errors import IndexChanged, ManifestUnknown, RepositoryUnknown, StillReferenced
from storage.gc import Collector
from storage.gc import Result as Collected
from storage.image_store import ImageStore
from storage.local import LocalBackend
from storage.moving import move
from storage.scrub import Finding, Result, Scrubber
from tests.durability.test_gc_races import check_whole, push

_NAMES = ("app", "app/nested", "other")
_SECONDS = 4.0

Work = Callable[[LocalBackend, random.Random], object]


def together(root: Path, *work: Work) -> None:
    """Let threads, as independent as processes, do their work again and again for a while; none may fail."""
    end, faults = time.monotonic() + _SECONDS, list[BaseException]()

    def repeat(work: Work, seed: int) -> None:
        backend, chance = LocalBackend(str(root)), random.Random(seed)
        try:
            while time.monotonic() < end and not faults:
                work(backend, chance)
        except BaseException as fault:
            faults.append(fault)
            raise

    threads = [threading.Thread(target=repeat, args=(one, seed)) for seed, one in enumerate(work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def push_and_delete(backend: LocalBackend, chance: random.Random) -> None:
    store, name, tag = ImageStore(backend), chance.choice(_NAMES), f"t{chance.randrange(12)}"
    try:
        push(store, name, chance.randrange(1000), tag)
        if chance.random() < 0.5:
            store.delete_manifest(name, store.get_manifest(name, tag).digest)
    except (ManifestUnknown, RepositoryUnknown, StillReferenced):
        return  # another one was faster


def collect(backend: LocalBackend, _: random.Random) -> None:
    for name in list(backend.places()):
        Collector(backend, delay=0.02, undo=0).collect(name, Collected())


def test_scrubs_beside_everything_raise_no_alarm(tmp_path: Path) -> None:
    """What goes while a scrub looks for it was not damaged."""
    alarms, runs = list[Finding](), Result()

    def scrub(backend: LocalBackend, _: random.Random) -> None:
        scrubber = Scrubber(backend, tell=alarms.append)
        for name in list(backend.places()):
            scrubber.scrub(name, runs)
        scrubber.tidy()

    together(tmp_path, push_and_delete, push_and_delete, collect, scrub, scrub)
    assert runs.blobs > 100
    assert alarms == []
    assert check_whole(tmp_path) > 0


def test_damage_beside_everything_is_found_and_healed(tmp_path: Path) -> None:
    """Whoever pushes what is damaged has it whole."""
    data, found = b"layer 1", list[Finding]()

    def damage(backend: LocalBackend, _: random.Random) -> None:
        path = tmp_path / "app" / "blobs" / Digest.of(data).replace(":", "/")
        try:
            with path.open("r+b") as file:
                file.write(b"damaged")
        except FileNotFoundError:
            time.sleep(0.01)
        Scrubber(backend, tell=found.append).scrub("app", Result())

    def push_shared(backend: LocalBackend, _: random.Random) -> None:
        for name in _NAMES:
            push(ImageStore(backend), name, 1, "1")

    together(tmp_path, push_shared, push_shared, damage)
    backend = LocalBackend(str(tmp_path))
    for name in _NAMES:
        Scrubber(backend, tell=found.append).scrub(name, Result())
    assert any(finding.quarantined for finding in found)
    push_shared(backend, random.Random())
    assert check_whole(tmp_path) == len(_NAMES)
    assert list(backend.quarantined()) == []


@pytest.mark.parametrize("collecting", [False, True], ids=["alone", "collecting"])
def test_moves_beside_pushes(tmp_path: Path, collecting: bool) -> None:
    """Whatever was acknowledged under the old name is there, or under one that the repository was given."""
    accepted: set[str] = set()
    moves: list[str] = []

    def push_more(backend: LocalBackend, chance: random.Random) -> None:
        tag = f"t{chance.randrange(10**9)}"
        if push(ImageStore(backend), "app", chance.randrange(10**6), tag):
            accepted.add(tag)

    def move_on(backend: LocalBackend, _: random.Random) -> None:
        time.sleep(0.05)
        try:
            move(StoreController(ImageStore(backend)), "app", f"moved/{len(moves)}")
        except (RepositoryUnknown, IndexChanged):
            return
        moves.append(f"moved/{len(moves)}")

    together(tmp_path, push_more, push_more, move_on, *([collect] if collecting else []))
    store = ImageStore(LocalBackend(str(tmp_path)))
    assert len(moves) > 1
    check_whole(tmp_path)
    there = [tag for name in store.backend.repositories() for tag in store.tags(name)[0]]
    assert sorted(there) == sorted(accepted)
