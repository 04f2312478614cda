"""``explain``: what each task of a finished study contributes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

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
            for key, value in row.items():
                if key not in ("name", "sentence") and value not in (None, []):
                    print(f"    {key.replace('_', ' ')}: {_value(value)}")
    if insight["certainty"]:
        print(f"# {insight['certainty']}", file=sys.stderr)


def _value(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(" ".join(_value(part) for part in entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
