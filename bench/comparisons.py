"""The comparisons: which two registries are loaded in turn, with what, and the rounds of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import click

from bench.files import FilesAlone
from bench.guarded import GuardedDockerRegistry, GuardedPierhead
from bench.registries import BareNginx, BehindNginx, DockerRegistry, Pierhead, Registry
from bench.report import Compared, Figures
from bench.workloads import (
    Row,
    Scale,
    Site,
    Workload,
    behind_nginx,
    login_costs,
    logins,
    of_a_file,
    of_files,
    workloads,
)

STARTED_SECONDS = 3.0  # after which a registry that answers has nothing left to start

MEMORY_IDLE = Row("memory-idle", "memory (PSS) idle", "MB", 1.9, less_is_better=True)
MEMORY_AFTER = Row("memory-after", "memory (PSS) after the run", "MB", 1.9, less_is_better=True)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two registries, each a class and a name, and the loads they are compared under."""

    pair: tuple[tuple[type[Registry], str], tuple[type[Registry], str]]
    workloads: tuple[Workload, ...]
    memory: bool = False

    def only(self, names: tuple[str, ...]) -> Comparison:
        """Leave only the workloads that have a row whose name begins like one of these; all, if there are none."""
        if not names:
            return self
        return replace(self, workloads=tuple(one for one in self.workloads if one.is_named(names)))


def comparisons(scale: Scale, *, self_check: bool) -> tuple[Comparison, ...]:
    """List the comparisons in the order in which they are made."""
    docker = (DockerRegistry, "docker-registry")
    if self_check:
        pair = ((DockerRegistry, "docker A"), (DockerRegistry, "docker B"))
        return (Comparison(pair, workloads(scale), memory=True),)
    guarded = (GuardedPierhead, "pierhead, users")
    return (
        Comparison(((Pierhead, "pierhead"), docker), workloads(scale), memory=True),
        Comparison(((BehindNginx, "pierhead, nginx"), docker), behind_nginx(scale)),
        Comparison(((Pierhead, "pierhead"), (BareNginx, "nginx alone")), of_a_file(scale, "file-")),
        Comparison(((BehindNginx, "pierhead, nginx"), (BareNginx, "nginx alone")), of_a_file(scale, "nginx-file-")),
        Comparison(((Pierhead, "pierhead"), (FilesAlone, "files alone")), of_files(scale)),
        Comparison((guarded, (Pierhead, "pierhead, open")), login_costs()),
        Comparison((guarded, (GuardedDockerRegistry, "docker-registry, users")), logins()),
    )


def measure(comparison: Comparison, directory: Path, scale: Scale, rounds: int) -> Compared:
    """Start both registries below a directory, run every workload on both, and end them."""
    with ExitStack() as stack:
        places = zip(comparison.pair, "ab", strict=True)
        registries = [stack.enter_context(kind(name, directory / letter)) for (kind, name), letter in places]
        sites = [Site(registry, scale) for registry in registries]
        results = [_memory_idle(sites)] if comparison.memory else []
        results = [figures for one in comparison.workloads for figures in _alternate(one, sites, rounds)] + results
        if comparison.memory:
            results.append(_memory(MEMORY_AFTER, sites))
        first, second = registries
        return Compared((first.name, second.name), results)


def _alternate(workload: Workload, sites: Sequence[Site], rounds: int) -> Iterator[Figures]:
    """Run one workload on both registries round by round; who goes first changes with each round."""
    results = [Figures(row) for row in workload.rows]
    for number in range(rounds):
        click.echo(f"{workload.rows[0].title}: round {number + 1} of {rounds}", file=sys.stderr)
        first, second = (number % 2, 1 - number % 2)
        values = {place: workload.run(sites[place]) for place in (first, second)}
        for figures, ours, theirs in zip(results, values[0], values[1], strict=True):
            figures.rounds.append((ours, theirs))
    yield from results


def _memory_idle(sites: Sequence[Site]) -> Figures:
    """Look at the memory once both have started all of their processes, which may go on when one answers already."""
    time.sleep(STARTED_SECONDS)
    return _memory(MEMORY_IDLE, sites)


def _memory(row: Row, sites: Sequence[Site]) -> Figures:
    first, second = (site.registry.memory() for site in sites)
    return Figures(row, [(first, second)])
