"""The result: figures of every round, their medians and ratios, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.load import Request, generator
from bench.workloads import Row


@dataclass(slots=True)
class Figures:
    """What the rounds gave for one row; a round is one figure of the first registry and one of the second."""

    row: Row
    rounds: list[tuple[float, float]] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float]:
        """The median figure of each registry."""
        return median(first for first, _ in self.rounds), median(second for _, second in self.rounds)

    @property
    def ratios(self) -> list[float]:
        """First to second, round by round: what disturbs the machine disturbs both."""
        return [first / second for first, second in self.rounds]


@dataclass(frozen=True, slots=True)
class Compared:
    """Two registries by name, and what the loads gave for them."""

    names: tuple[str, str]
    results: list[Figures]


def table(compared: Compared) -> str:
    """Draw the results as a Markdown table."""
    lines: list[tuple[str, ...]] = [("", "unit", *compared.names, "ratio", "spread", "goal")]
    for figures in compared.results:
        row, ratios = figures.row, figures.ratios
        title = f"{row.title}, less is better" if row.less_is_better else row.title
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        lines.append((title, row.unit, *map(_number, figures.medians), f"{median(ratios):.2f}x", spread, _goal(row)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = 2  # the columns to the left that hold words
    drawn = [
        [
            cell.ljust(width) if n < texts else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    rule = ["-" * width if n < texts else "-" * (width - 1) + ":" for n, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [drawn[0], rule, *drawn[1:]])


def machine(directory: Path) -> dict[str, Any]:
    """Describe where the figures come from."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": _filesystem(directory),
        "get": generator(Request("GET", "/")),
    }


def document(comparisons: Sequence[Compared], surroundings: dict[str, Any]) -> str:
    """Write the results as JSON."""
    rows = [
        {
            "name": figures.row.name,
            "title": figures.row.title,
            "registries": compared.names,
            "unit": figures.row.unit,
            "less_is_better": figures.row.less_is_better,
            "goal": figures.row.goal,
            "rounds": figures.rounds,
            "medians": figures.medians,
            "ratio": median(figures.ratios),
            "spread": (min(figures.ratios), max(figures.ratios)),
        }
        for compared in comparisons
        for figures in compared.results
    ]
    return json.dumps({"machine": surroundings, "results": rows}, indent=2)


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"{'≤ ' if row.less_is_better else ''}{row.goal:g}x"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(directory: Path) -> str:
    """Name the type of file system that a directory lies on."""
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == number:
            return kind.split()[0]
    return "unknown"
