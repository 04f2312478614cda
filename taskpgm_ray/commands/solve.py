"""``taskpgm solve``: the mixture of anybody's affinity matrix. Works with NumPy, SciPy and Numba alone."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from taskpgm_ray.commands.arguments import print_json
from taskpgm_ray.commands.limits import add_limits, constraints
from taskpgm_ray.errors import InputError
from taskpgm_ray.matrix_file import complete, read_matrix, to_affinity
from taskpgm_ray.mixture import counts
from taskpgm_ray.mixture.constraints import combined
from taskpgm_ray.mixture.given import read_given
from taskpgm_ray.mrf import (
    Limits,
    Mixture,
    MixturePath,
    RepairMethod,
    beside_exact,
    influence,
    laplacian,
    repaired,
    select,
    solve,
    solve_grouped,
)
from taskpgm_ray.numerics.types import FloatArray

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands

BRIEF = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
"""Balances of which a path in brief shows the mixtures."""
COLUMNS = 12
"""Tasks that a path in brief shows, the heaviest at any balance first."""


def add(commands: Commands) -> None:
    """See the module."""
    text = "the mixture of your own affinity matrix; without a balance, the mixtures of several in brief"
    sub = commands.add_parser("solve", help=text, description=text)
    add = sub.add_argument
    add("matrix", help="square matrix (.npy, .npz, .json, .parquet or text, names or none), or a study's folder")
    balance = sub.add_argument_group("the balance")
    balance.add_argument(
        "--tau", type=float, help="n * beta / lambda: 0 diversity, 1 the target, larger: representative"
    )
    balance.add_argument("--beta", type=float, help="with --lambda, in the place of --tau")
    balance.add_argument("--lambda", dest="lambda_", type=float, metavar="LAMBDA")
    reading = sub.add_argument_group("what the matrix is")
    reading.add_argument(
        "--distance",
        nargs="?",
        const="median",
        metavar="GAMMA",
        help="distances: S = exp(-GAMMA d); by default GAMMA = ln 2 / median distance",
    )
    reading.add_argument("--triangle", choices=["upper", "lower"], help="only this triangle is filled in")
    reading.add_argument("--diagonal", type=float, metavar="VALUE", help="in the place of a diagonal that is missing")
    reading.add_argument(
        "--repair",
        choices=get_args(RepairMethod),
        help="mend an indefinite matrix: nearest one that will do, shifted diagonal, or negative eigenvalues clipped",
    )
    limits = sub.add_argument_group("what the mixture has to keep to")
    add_limits(limits)
    limits.add_argument(
        "--target", metavar="FILE", help="the mixture at tau = 1: a mixture.json, or a CSV of task,weight"
    )
    limits.add_argument("--utility", metavar="FILE", help="CSV of task,utility in the place of the row sums")
    limits.add_argument("--max-tasks", type=int, metavar="K", help="the best K tasks")
    limits.add_argument(
        "--method",
        choices=["exact", "paper", "laplacian"],
        default="exact",
        help="paper: closed form of the shifted matrix, projected, with what that costs beside the exact mixture; "
        "laplacian: its variant that gives like shares to tasks that are alike",
    )
    output = sub.add_argument_group("what is shown")
    output.add_argument("--examples", type=int, help="also integer counts that sum to this")
    output.add_argument("--path", action="store_true", help="every balance at which the mixture bends")
    output.add_argument(
        "--influence", action="store_true", help="what each task contributes, and what it costs to drop"
    )
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--csv", action="store_true")
    output.add_argument("--plot", metavar="FILE.html", help="the mixture over the balance, as a figure")
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    names, given = read_matrix(options.matrix)
    S = to_affinity(complete(given, options.triangle, options.diagonal), options.distance)
    if options.method == "paper":
        _print_shortcut(S, names, options)
        return
    if options.repair:
        S = _mended(S, options.repair)
    limits = _limits(options, names)
    utility = _column(options.utility, names) if options.utility else None
    if options.method == "laplacian":
        if others := [option for option in ("repair", "utility", "target", "influence") if getattr(options, option)]:
            raise InputError(f"--method laplacian knows no --{others[0]}: it has a matrix and a utility of its own")
        S, utility = laplacian(S)
    tau = _balance(options, len(S))
    if tau is None or options.path or options.plot:
        whole = limits.path(S, utility)
        if options.plot:
            _plot(whole, names, options.plot)
        if options.path:
            _print_path(whole, names, options)
            return
        if tau is None:
            _print_brief(whole, names, options)
            return
    _print_mixture(_solved(S, tau, limits, utility), S, names, options)


def _mended(S: FloatArray, method: RepairMethod) -> FloatArray:
    mended, change = repaired(S, method)
    if change is not None:
        print(
            f"# repaired: {change.method}; {change.clipped} eigenvalues were negative, the least on the simplex "
            f"{change.lambda_min:.4g}; S changed by {change.relative_change:.1%} (Frobenius)",
            file=sys.stderr,
        )
    return mended


def _print_shortcut(S: FloatArray, names: Sequence[str], options: argparse.Namespace) -> None:
    """The paper's mixture, and what it costs."""
    tau = _balance(options, len(S))
    if tau is None:
        raise InputError("--method paper needs a balance: --tau, or --beta and --lambda")
    asked = [*("floor", "min", "max", "fix", "group_min", "group_max", "target", "utility", "max_tasks", "repair")]
    if given := [option for option in [*asked, "influence", "path", "plot"] if getattr(options, option)]:
        raise InputError(
            f"--method paper knows no --{given[0].replace('_', '-')}: its closed form has no conditions but the sum, "
            "and its repair is the shift"
        )
    found = beside_exact(S, tau)
    table: dict[str, Sequence[Any]] = {"task": list(names), "weight": found.weights.tolist()}
    table["exact"] = found.exact.weights.tolist()
    if options.examples:
        table["count"] = counts(found.weights, options.examples).tolist()
    facts = {
        "method": "paper",
        "tau": tau,
        "energy": found.energy,
        "gap": found.gap,
        "excess": found.excess,
        "distance": found.distance,
        "support": int((found.weights > 0).sum()),
        "exact_support": int((found.exact.weights > 0).sum()),
    }
    _print(table, facts, options)
    if not options.json:
        print(
            f"# tau {tau:g}: the paper's mixture has {facts['support']} tasks, the exact one {facts['exact_support']}; "
            f"{found.distance:.1%} of it lies elsewhere, its energy is {found.excess:.4g} above the least",
            file=sys.stderr,
        )


def _balance(options: argparse.Namespace, n: int) -> float | None:
    if (options.beta is None) != (options.lambda_ is None):
        raise InputError("--beta and --lambda go together")
    if options.beta is None:
        return options.tau
    if options.tau is not None:
        raise InputError("give the balance once: --tau, or --beta and --lambda")
    if not options.lambda_ > 0:
        raise InputError(f"--lambda must be positive, got {options.lambda_:g}")
    return float(n * options.beta / options.lambda_)


def _limits(options: argparse.Namespace, names: Sequence[str]) -> Limits:
    target = read_given(options.target, names) if options.target else None
    limits = combined(constraints(options, names), len(names), target, options.max_tasks)
    if limits.groups and (limits.most is not None or options.influence):
        other = "--influence" if options.influence else "--max-tasks"
        raise InputError(f"{other} is not known where groups of tasks are tied together: leave out --group-min/-max")
    return limits


def _solved(S: FloatArray, tau: float, limits: Limits, utility: FloatArray | None) -> Mixture:
    lower, upper = limits.bounds
    if limits.groups:
        return solve_grouped(S, tau, limits.groups, utility=utility, target=limits.target, lower=lower, upper=upper)
    if limits.most is not None:
        found = select(S, limits.most, tau, utility=utility, target=limits.target, lower=lower, upper=upper)
        print(
            f"# {len(found.tasks)} of {len(S)} tasks: energy {found.energy:.6g}, at most {found.gap:.3g} above that of "
            f"any number of tasks; greedy's guarantee {found.guarantee:.3f}",
            file=sys.stderr,
        )
        allowed = np.isin(np.arange(len(S)), found.tasks)
        upper = np.where(allowed, limits.upper, 0.0)
    mixture = solve(S, tau, utility=utility, target=limits.target, lower=lower, upper=upper)
    return replace(mixture, most=limits.most)


def _column(file: str, names: Sequence[str]) -> FloatArray:
    """Numbers [n] of a CSV with a line ``task,number`` each."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            rows = [(row[0].strip(), row[1]) for row in csv.reader(stream) if len(row) > 1]
        found = {name: float(value) for name, value in rows if name in names}
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{file} is no table of task and number: {error}") from error
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{file} has no number for {', '.join(missing[:10])}")
    return np.array([found[name] for name in names])


def _print_mixture(mixture: Mixture, S: FloatArray, names: Sequence[str], options: argparse.Namespace) -> None:
    table: dict[str, Sequence[Any]] = {"task": list(names), "weight": mixture.weights.tolist()}
    if options.examples:
        table["count"] = counts(mixture.weights, options.examples).tolist()
    if options.influence:
        rows = {row["task"]: row for row in influence(S, mixture).rows(list(names))}
        for key in (
            "representativeness",
            "redundancy",
            "drop_cost",
            "reduced_cost",
            "novelty",
            "entry_tau",
            "exit_tau",
        ):
            table[key] = [rows[name][key] for name in names]
    facts = {
        "tau": mixture.tau,
        "energy": mixture.energy,
        "gap": mixture.gap,
        "effective_tasks": mixture.effective_tasks,
    }
    _print(table, facts, options)
    if not options.json:
        print(f"# tau {mixture.tau:g}  energy {mixture.energy:.12g}  certified gap {mixture.gap:.3g}", file=sys.stderr)


def _print_path(path: MixturePath, names: Sequence[str], options: argparse.Namespace) -> None:
    table: dict[str, Sequence[Any]] = {"tau": path.tau.tolist()}
    table |= {name: path.weights[:, i].tolist() for i, name in enumerate(names)}
    _print(table, {"largest_gap": float(path.gap.max()), "complete": path.complete}, options)


def _print_brief(path: MixturePath, names: Sequence[str], options: argparse.Namespace) -> None:
    taus = [tau for tau in BRIEF if path.complete or tau <= path.tau[-1]]
    weights = path.at(taus)
    shown = np.argsort(-weights.max(axis=0), kind="stable")
    shown = shown if options.json or options.csv else shown[:COLUMNS]
    table: dict[str, Sequence[Any]] = {"task": [names[i] for i in shown]}
    table |= {f"tau={tau:g}": weights[k, shown].tolist() for k, tau in enumerate(taus)}
    table |= {"enters": path.entry[shown].tolist(), "leaves": path.exit[shown].tolist()}
    _print(table, {"breakpoints": len(path.tau)}, options)
    if not (options.json or options.csv):
        more = f"; {len(names) - len(shown)} more tasks with --csv" if len(shown) < len(names) else ""
        print(
            f"# no balance was given: --tau, or --beta and --lambda, takes one of these mixtures{more}", file=sys.stderr
        )


def _print(table: dict[str, Sequence[Any]], facts: dict[str, Any], options: argparse.Namespace) -> None:
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    if options.json:
        print_json({**facts, "rows": rows})
    elif options.csv:
        writer = csv.DictWriter(sys.stdout, list(table), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        if set(table) - {"task", "weight", "count"}:
            print("\t".join(table))
        for row in rows:
            print("\t".join(f"{value:.12g}" if isinstance(value, float) else str(value) for value in row.values()))


def _plot(path: MixturePath, names: Sequence[str], file: str) -> None:
    import plotly.graph_objects as go

    figure = go.Figure(
        [go.Scatter(x=path.tau, y=path.weights[:, i], name=name, stackgroup="all") for i, name in enumerate(names)]
    )
    figure.update_layout(xaxis_title="tau", yaxis_title="share of the mixture", template="plotly_white")
    try:
        figure.write_html(file)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error}") from error
    print(f"# {file}", file=sys.stderr)
