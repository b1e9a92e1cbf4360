"""The command line of the benchmark: python -m bench."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from bench.client import WrongAnswer
from bench.registries import CannotStart, DockerRegistry, Pierhead, Registry
from bench.report import Figures, document, machine, table
from bench.workloads import QUICK, Row, Scale, Site, Workload, workloads

MEMORY_IDLE = Row("memory-idle", "memory (PSS) idle, less is better", "MB")
MEMORY_AFTER = Row("memory-after", "memory (PSS) after the run, less is better", "MB")
ROUNDS = 5


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Run only workloads whose name begins so; may be repeated.")
@click.option(
    "--rounds", type=click.IntRange(min=1), help=f"How often each workload runs; {ROUNDS}, or 1 with --quick."
)
@click.option("--quick", is_flag=True, help="Run small loads: shows that all works, measures little.")
@click.option("--self-check", is_flag=True, help="Run docker-registry against itself; all ratios should be about 1.")
@click.option(
    "--dir",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Where the registries' data lies during the run: a real disk, not a tmpfs.",
)
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write the results there too.")
@click.option("--list", "listing", is_flag=True, help="List the workloads and end.")
def main(  # noqa: PLR0913, PLR0917 - one parameter for each option
    only: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    self_check: bool,
    parent: Path,
    target: Path | None,
    listing: bool,
) -> None:
    """Load this registry and Debian's docker-registry in alternation and compare them.

    A ratio is this registry's figure to docker-registry's in the same round; more is better
    unless the row says otherwise.
    """
    scale = QUICK if quick else Scale()
    chosen = _choose(workloads(scale), only)
    if listing:
        for workload in chosen:
            click.echo("\n".join(f"{row.name:20} {row.title}" for row in workload.rows))
        return
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as directory:
        surroundings = machine(Path(directory))
        try:
            names, results = _measure(
                _pair(Path(directory), self_check), scale, chosen, rounds or (1 if quick else ROUNDS)
            )
        except (CannotStart, WrongAnswer) as error:
            raise click.ClickException(str(error)) from error
    click.echo("\n".join(f"{key}: {value}" for key, value in surroundings.items()) + "\n")
    click.echo(table(names, results))
    if target is not None:
        target.write_text(document(names, results, surroundings) + "\n", encoding="utf-8")


def _choose(offered: Sequence[Workload], only: tuple[str, ...]) -> list[Workload]:
    chosen = [workload for workload in offered if not only or any(row.name.startswith(only) for row in workload.rows)]
    if not chosen:
        raise click.UsageError("no workload has such a name; --list names them")
    return chosen


def _pair(directory: Path, self_check: bool) -> tuple[Registry, Registry]:
    if self_check:
        return DockerRegistry("docker A", directory / "a"), DockerRegistry("docker B", directory / "b")
    return Pierhead("pierhead", directory / "a"), DockerRegistry("docker-registry", directory / "b")


def _measure(
    pair: tuple[Registry, Registry], scale: Scale, chosen: Sequence[Workload], rounds: int
) -> tuple[list[str], list[Figures]]:
    """Start both registries, run every workload on both, and give their names and the figures."""
    with ExitStack() as stack:
        sites = [Site(stack.enter_context(registry), scale) for registry in pair]
        idle = _memory(MEMORY_IDLE, sites)
        results = [figures for workload in chosen for figures in _alternate(workload, sites, rounds)]
        return [registry.name for registry in pair], [*results, idle, _memory(MEMORY_AFTER, sites)]


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


def _memory(row: Row, sites: Sequence[Site]) -> Figures:
    first, second = (site.registry.memory() for site in sites)
    return Figures(row, [(first, second)])


if __name__ == "__main__":
    main(prog_name="python -m bench")
