"""``explain``: what each task of a finished study contributes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from taskpgm_ray.commands.arguments import add_json, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands

FULLY_EXPLAINED = 3
"""Tasks of which every number is shown."""


def add(commands: Commands) -> None:
    """See the module."""
    text = "why the tasks of a finished study have the shares that they have"
    sub = commands.add_parser("explain", help=text, description=text)
    sub.add_argument("study", help="folder of a finished study")
    sub.add_argument("tasks", nargs="*", metavar="task", help="names or patterns such as 'math/*'; default: all")
    add_json(sub, "print all that is known of them as JSON")
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """A sentence for each task; of few of them all that is known."""
    from fnmatch import fnmatchcase

    from taskpgm_ray.errors import InputError
    from taskpgm_ray.export.examples import of_finished
    from taskpgm_ray.storage import Storage

    insight = of_finished(Storage(options.study), "insight.json")
    if insight is None:
        raise InputError(
            "this study's mixture ties groups of tasks together; what single tasks contribute is not known"
        )
    patterns = options.tasks or ["*"]
    chosen = [row for row in insight["tasks"] if any(fnmatchcase(row["name"], pattern) for pattern in patterns)]
    if not chosen:
        names = ", ".join(row["name"] for row in insight["tasks"])
        raise InputError(f"none of the study's tasks is called {' or '.join(options.tasks)}; there are: {names}")
    if options.json:
        print_json(chosen)
        return
    for row in sorted(chosen, key=lambda row: -row["weight"]):
        print(row["sentence"])
        if len(chosen) <= FULLY_EXPLAINED:
            _show(_facts(row))
    if insight["certainty"]:
        print(f"# {insight['certainty']}", file=sys.stderr)


def _show(facts: Iterator[tuple[str, list[str]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 2), pad_edge=True)
    grid.add_column(ratio=2)
    grid.add_column(ratio=3, overflow="fold")
    for label, texts in facts:
        grid.add_row(label, "\n".join(texts))
    Console(markup=False, highlight=False).print(grid)


def _facts(row: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """What is known of a task: what it is called, and the values with their units."""
    from taskpgm_ray.report.text import percent

    if row["inclusion"] is not None:
        yield "has a share, were the probes drawn anew", [f"in {percent(row['inclusion'], 0)} of the draws"]
    if row["enters"] is not None:
        until = f" to {row['leaves']:.3g}" if row["leaves"] else " on"
        yield "has a share at balances tau", [f"from {row['enters']:.3g}{until}"]
    if row["covered_by"]:
        yield (
            "most like it, in the mixture",
            [f"{name}: affinity {affinity:.2g}, share {percent(share)}" for name, affinity, share in row["covered_by"]],
        )
    if row["gainers"]:
        yield "who gets more without it", [f"{name}: {100 * more:+.1f} points" for name, more in row["gainers"]]
    if row["hangs_on"]:
        shown = [f"{a}, {b}: {100 * change:+.2g} points" for a, b, change in row["hangs_on"]]
        yield "its share, if two tasks were more alike by 0.01", shown
    shown = [f"{row['representativeness']:+.3g} by utility", f"{row['redundancy']:+.3g} by redundancy"]
    yield "its part of the energy", shown
    if row["novelty"] is not None:
        yield "what no others have: squared distance from their span", [f"{row['novelty']:.3g}"]
    if row["helps_others"] is not None:
        yield "its adapter on the other tasks' probes", [f"{row['helps_others']:+.3g} nats"]
    if row["search_lift"] is not None:
        error = row.get("search_lift_error")
        within = f" \u00b1 {error:.2g}" if error is not None else ""
        yield "its adapter alone, on the search split", [f"{row['search_lift']:+.3g}{within}, in the search's metric"]
