"""The command line of the benchmark: python -m bench."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from bench.client import WrongAnswer
from bench.collection import NAME as COLLECTION
from bench.collection import measure_collection
from bench.comparisons import Comparison, comparisons, measure
from bench.registries import CannotStart
from bench.report import document, machine, table
from bench.workloads import QUICK, Scale

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
    """Load this registry and Debian's docker-registry in alternation, then this one with users and without.

    A ratio is the first registry's figure to the second's in the same round; more is better
    unless the row says otherwise.
    """
    scale = QUICK if quick else Scale()
    collection = not self_check and (not only or any(COLLECTION.startswith(name) for name in only))
    chosen = _choose(comparisons(scale, self_check=self_check), only, collection)
    if listing:
        rows = [row for comparison in chosen for workload in comparison.workloads for row in workload.rows]
        click.echo("\n".join(f"{row.name:20} {row.title}" for row in rows))
        click.echo(f"{COLLECTION:20} memory and time of a garbage collection, of this registry alone")
        return
    parent.mkdir(parents=True, exist_ok=True)
    rounds = rounds or (1 if quick else ROUNDS)
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as directory:
        surroundings = machine(Path(directory))
        try:
            for number, comparison in enumerate(chosen):
                results.append(measure(comparison, Path(directory, str(number)), scale, rounds))
                click.echo(table(results[-1]) + "\n")
        except (CannotStart, WrongAnswer) as error:
            raise click.ClickException(str(error)) from error
        if collection:
            surroundings[COLLECTION] = measure_collection(Path(directory, COLLECTION), scale.collected)
    click.echo("\n".join(f"{key}: {value}" for key, value in surroundings.items()))
    if target is not None:
        target.write_text(document(results, surroundings) + "\n", encoding="utf-8")


def _choose(offered: Sequence[Comparison], only: tuple[str, ...], collection: bool) -> list[Comparison]:
    chosen = [comparison for one in offered if (comparison := one.only(only)).workloads]
    if not chosen and not collection:
        raise click.UsageError("no workload has such a name; --list names them")
    return chosen


if __name__ == "__main__":
    main(prog_name="python -m bench")
