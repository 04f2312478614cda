"""``taskpgm regress``: what regressions make of anybody's runs. Needs scikit-learn beside what ``solve`` needs."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taskpgm_ray.commands.limits import add_limits, constraints
from taskpgm_ray.errors import InputError
from taskpgm_ray.mixture.constraints import combined
from taskpgm_ray.numerics.types import FloatArray

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands
    from taskpgm_ray.search.regression import Regression, Tried

ROUNDING = 1e-6
"""How far the weights of a run may be from the sum 1."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs as a table has them."""

    names: list[str]
    """The n tasks."""
    mixtures: FloatArray
    """[runs, n], each of sum 1."""
    scores: FloatArray
    """[runs], as they stand in the table."""
    lines: list[int]
    """[runs]: where each is in the file."""


def add(commands: Commands) -> None:
    """See the module."""
    text = (
        "the mixture that a regression of your own runs' scores on their weights proposes, and whether it tells "
        "mixtures apart"
    )
    sub = commands.add_parser("regress", help=text, description=text)
    add = sub.add_argument
    add("runs", metavar="RUNS.csv", help="a line for each run: a column of weights for each task, and one of scores")
    add("--score", default="score", metavar="NAME", help="the column of scores; default: score")
    add("--lower-is-better", action="store_true", help="the scores are losses")
    add_limits(sub.add_argument_group("what the mixture has to keep to"))
    output = sub.add_argument_group("what is shown")
    output.add_argument("--seed", type=int, default=0, help="of the mixtures that are drawn; default: 0")
    output.add_argument("--json", action="store_true")
    output.add_argument(
        "--out", metavar="FILE.csv", help="also write task,weight, for search.baselines: [mixture:FILE.csv]"
    )
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from taskpgm_ray.search.proposal import propose
    from taskpgm_ray.search.regression import pooled, regress

    runs = read_runs(options.runs, options.score)
    limits = combined(constraints(options, runs.names), len(runs.names))
    sign = -1.0 if options.lower_is_better else 1.0
    tried = pooled(runs.mixtures, sign * runs.scores)
    found = regress(tried)
    weights = propose(found.predict, limits, tried.mixtures, options.seed)
    if options.out:
        _write(options.out, runs.names, weights)
    _print(runs, tried, found, weights, options)


def read_runs(file: str, score: str) -> Runs:
    """The runs of a table.

    Args:
        file: CSV with names of columns in its first line.
        score: The column of scores; all others are tasks.

    Raises:
        InputError: It cannot be read, lacks the column, or a run has weights that are no mixture; the line is named.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file} is no readable table: {error}") from error
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    if score not in header:
        raise InputError(f"{file} has no column {score!r} (--score names another): its first line is {header}")
    names = [name for name in header if name != score]
    if len(set(header)) < len(header) or "" in names or len(names) < 2:
        raise InputError(f"{file}: needs two tasks or more, each a column with a name of its own, not {names}")
    made = [_numbers(f"{file}, line {line}", header, row) for line, row in rows[1:]]
    lines = [line for line, _ in rows[1:]]
    at = header.index(score)
    table = np.array(made).reshape(len(made), len(header))
    mixtures = np.delete(table, at, axis=1)
    for line, mixture in zip(lines, mixtures, strict=True):
        _check(f"{file}, line {line}", names, mixture)
    return Runs(names, mixtures / mixtures.sum(axis=1, keepdims=True), table[:, at], lines)


def _numbers(where: str, header: list[str], row: list[str]) -> list[float]:
    if len(row) != len(header):
        raise InputError(f"{where}: {len(row)} cells under {len(header)} names")
    found = []
    for name, cell in zip(header, row, strict=True):
        try:
            found.append(float(cell))
        except ValueError:
            raise InputError(f"{where}: {cell!r} under {name!r} is no number; columns are tasks or the score") from None
        if not np.isfinite(found[-1]):
            raise InputError(f"{where}: {cell!r} under {name!r} is no finite number")
    return found


def _check(where: str, names: list[str], mixture: FloatArray) -> None:
    if (mixture < 0).any():
        name = names[int(np.argmin(mixture))]
        raise InputError(f"{where}: the weight of {name!r} is {mixture.min():g}, and must be at least 0")
    total = float(mixture.sum())
    if abs(total - 1) > ROUNDING:
        raise InputError(
            f"{where}: the weights sum to {total:.9g}, not to 1; divide them by their sum if they are shares of one "
            "run, and leave out columns that are no tasks"
        )


def _write(file: str, names: list[str], weights: FloatArray) -> None:
    """A table that ``mixture:FILE`` reads."""
    try:
        with open(file, "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerows([("task", "weight"), *zip(names, weights.tolist(), strict=True)])
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error}") from error


def _print(runs: Runs, tried: Tried, found: Regression, weights: FloatArray, options: argparse.Namespace) -> None:
    sign = -1.0 if options.lower_is_better else 1.0
    top = int(np.argmax(tried.scores))
    uniform = np.full(len(weights), 1 / len(weights))
    expected = {
        name: float(sign * found.predict(mixture[None])[0])
        for name, mixture in (("proposed", weights), ("uniform", uniform), ("best", tried.mixtures[top]))
    }
    first = runs.lines[int(np.flatnonzero(tried.of_run == top)[0])]
    best = {"line": first, "score": float(sign * tried.scores[top]), "runs": int(tried.counts[top])}
    columns: dict[str, list[Any]] = {"task": runs.names, "proposed": weights.tolist(), "uniform": uniform.tolist()}
    columns["best"] = tried.mixtures[top].tolist()
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if options.json:
        models = {name: {"correlation": correlation, "low": low} for name, (correlation, low) in found.judged.items()}
        facts = {"runs": len(runs.scores), "mixtures": found.mixtures, "models": models, "model": found.model}
        facts |= {"tells_apart": found.tells_apart, "expected": expected, "best": best, "rows": rows}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    print("\t".join(columns))
    for row in rows:
        print("\t".join(value if isinstance(value, str) else f"{value:.4f}" for value in row.values()))
    for line in _said(runs, found, expected, best):
        print(f"# {line}", file=sys.stderr)


def _said(runs: Runs, found: Regression, expected: dict[str, float], best: dict[str, Any]) -> list[str]:
    """What the columns are, and how much there is to them."""
    lines = [f"{len(runs.scores)} runs of {found.mixtures} mixtures"]
    for name, (correlation, low) in found.judged.items():
        used = ", used" if name == found.model else ""
        lines.append(
            f"{name}{used}: ranks mixtures that were left out with a correlation of {correlation:.2f} (Spearman; at "
            f"least {low:.2f})"
        )
    of = f", mean of {best['runs']} runs" if best["runs"] > 1 else ""
    lines += [
        f"proposed: expected {expected['proposed']:.4g}; uniform: expected {expected['uniform']:.4g}",
        f"best: line {best['line']}, scored {best['score']:.4g}{of}, expected {expected['best']:.4g}",
    ]
    if not found.tells_apart:
        lines.append("WARNING: these runs do not tell mixtures apart; take uniform, or make more runs or seeds")
    return lines
