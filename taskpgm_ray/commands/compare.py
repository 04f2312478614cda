"""``compare``: the mixtures of several studies side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskpgm_ray.commands.arguments import add_json, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands
    from taskpgm_ray.runtime.fitted_table import FittedTable


def add(commands: Commands) -> None:
    """See the module."""
    text = "the mixtures of several finished studies side by side, and how far they are apart"
    sub = commands.add_parser("compare", help=text, description=text)
    sub.add_argument("studies", nargs="+", metavar="study", help="folders of finished studies")
    add_json(sub)
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """A table, or JSON."""
    from rich.console import Console

    from taskpgm_ray.errors import InputError
    from taskpgm_ray.export.examples import mixture_of

    if len(options.studies) < 2:
        raise InputError("one study has nothing to be compared with; give two folders or more")
    documents = [mixture_of(study) for study in options.studies]
    names = list(dict.fromkeys(task["name"] for document in documents for task in document["tasks"]))
    weights = [{task["name"]: task["weight"] for task in document["tasks"]} for document in documents]
    apart = [sum(abs(one.get(n, 0.0) - weights[0].get(n, 0.0)) for n in names) / 2 for one in weights]
    if options.json:
        rows = [
            {key: document.get(key) for key in ("study", "affinity", "tau", "gap", "recommended")}
            | {"folder": folder, "from_first": distance, "weights": one}
            for folder, document, distance, one in zip(options.studies, documents, apart, weights, strict=True)
        ]
        print_json(rows)
    else:
        Console().print(table(options.studies, documents, names, weights, apart))


def table(
    folders: Sequence[str],
    documents: Sequence[dict[str, Any]],
    names: Sequence[str],
    weights: Sequence[dict[str, float]],
    apart: Sequence[float],
) -> FittedTable:
    """Tasks in rows, studies in columns."""
    from taskpgm_ray.runtime.fitted_table import FittedTable

    made = FittedTable()
    made.column("", len(folders) + 1, text=True)
    ends = [folder.rstrip("/").rpartition("/")[2] for folder in folders]
    for k, folder in enumerate(folders):
        made.column(ends[k] if ends.count(ends[k]) == 1 else folder, len(folders) - k)
    for name in sorted(names, key=lambda name: -max(one.get(name, 0.0) for one in weights)):
        made.row(name, *(f"{100 * one[name]:.1f} %" if name in one else "–" for one in weights))
    made.row("", *("" for _ in folders))
    made.row("affinity", *(str(document.get("affinity", "")) for document in documents))
    made.row("tau", *(f"{document['tau']:.3g}" for document in documents))
    made.row("recommended", *(str(document.get("recommended", "")) for document in documents))
    made.row("elsewhere than in the first", *(f"{100 * distance:.1f} %" for distance in apart))
    return made
