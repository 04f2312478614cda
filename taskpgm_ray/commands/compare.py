"""``compare``: the mixtures of several studies side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from taskpgm_ray.commands.arguments import add_json, print_json
from taskpgm_ray.paths import without_options

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands
    from taskpgm_ray.runtime.fitted_table import FittedTable


def add(commands: Commands) -> None:
    """See the module."""
    text = "the mixtures of several finished studies side by side, how far they are apart, and whether affinities agree"
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
    ranked = ranked_as_first(options.studies, documents)
    if options.json:
        rows = [
            {key: document.get(key) for key in ("study", "affinity", "tau", "gap", "recommended")}
            | {"folder": folder, "from_first": distance, "ranked_as_first": rank, "weights": one}
            for folder, document, distance, rank, one in zip(
                options.studies, documents, apart, ranked, weights, strict=True
            )
        ]
        print_json(rows)
    else:
        Console().print(table(options.studies, documents, names, weights, apart, ranked))


def ranked_as_first(folders: Sequence[str], documents: Sequence[dict[str, Any]]) -> list[float | None]:
    """Spearman's correlation of each study's affinities with the first one's, over the pairs of tasks that both have.

    ``None`` where the two rest on affinities of different kinds, or share fewer than three tasks.
    """
    matrices = [_affinities(folder) for folder in folders]
    kinds = [document.get("affinity") for document in documents]
    return [
        _correlation(matrices[0], matrix) if kind == kinds[0] else None
        for kind, matrix in zip(kinds, matrices, strict=True)
    ]


def _affinities(folder: str) -> dict[frozenset[str], float]:
    """{pair of tasks: how alike they are} of a study; nothing where it has no such file."""
    from taskpgm_ray.matrix_file import STUDY, parse_table
    from taskpgm_ray.storage import Storage

    storage = Storage(folder)
    if not storage.exists(STUDY):
        return {}
    names, S = parse_table(storage.read_bytes(STUDY).decode())
    return {frozenset(pair): float(S[names.index(pair[0]), names.index(pair[1])]) for pair in combinations(names, 2)}


def _correlation(one: dict[frozenset[str], float], other: dict[frozenset[str], float]) -> float | None:
    from scipy.stats import spearmanr

    shared = one.keys() & other.keys()
    a, b = ([affinities[pair] for pair in shared] for affinities in (one, other))
    # Fewer than three tasks have no two pairs, and what does not differ has no ranks.
    return float(spearmanr(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else None


def table(
    folders: Sequence[str],
    documents: Sequence[dict[str, Any]],
    names: Sequence[str],
    weights: Sequence[dict[str, float]],
    apart: Sequence[float],
    ranked: Sequence[float | None],
) -> FittedTable:
    """Tasks in rows, studies in columns."""
    from taskpgm_ray.runtime.fitted_table import FittedTable

    made = FittedTable()
    made.column("", len(folders) + 1, text=True)
    # Options of a URI hold slashes too.
    ends = [without_options(folder)[0].rstrip("/").rpartition("/")[2] for folder in folders]
    for k, folder in enumerate(folders):
        made.column(ends[k] if ends.count(ends[k]) == 1 else folder, len(folders) - k)
    for name in sorted(names, key=lambda name: -max(one.get(name, 0.0) for one in weights)):
        made.row(name, *(f"{100 * one[name]:.1f} %" if name in one else "–" for one in weights))
    made.row("", *("" for _ in folders))
    made.row("affinity", *(str(document.get("affinity", "")) for document in documents))
    made.row("tau", *(f"{document['tau']:.3g}" for document in documents))
    made.row("recommended", *(str(document.get("recommended", "")) for document in documents))
    made.row("elsewhere than in the first", *(f"{100 * distance:.1f} %" for distance in apart))
    made.row("pairs of tasks ranked as in the first", *("–" if rank is None else f"{rank:.2f}" for rank in ranked))
    return made
