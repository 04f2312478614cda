"""``export``: what a finished study decided, for a trainer."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_json, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands

FORMATS = (
    *("axolotl", "csv", "datasets", "jsonl", "llamafactory", "megatron", "nemo", "olmo-core", "open-instruct"),
    *("parquet", "ray", "streaming", "swift", "torchtune", "trl"),
)
"""Those of `taskpgm_ray.export`, which takes a second to import."""

EXAMPLES = "examples in all, of the pool's mean length where shares are of tokens (default: as in mixture.json)"


def add(commands: Commands) -> None:
    """See the module."""
    text = "write what a finished study decided for a trainer, from the study's own training examples"
    sub = commands.add_parser("export", help=text, description=text)
    sub.add_argument("trainer", metavar="format", help=f"{', '.join(FORMATS)}")
    sub.add_argument("study", help="folder of a finished study")
    sub.add_argument("folder", help="where the files go")
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "--recommended", dest="mixture", action="store_const", const="recommended", help="as recommended (default)"
    )
    which.add_argument("--chosen", dest="mixture", action="store_const", const="chosen", help="what the search chose")
    which.add_argument("--mixture", metavar="FILE", help="other weights: a mixture.json, or a CSV of task and weight")
    sub.add_argument("--examples", type=int, metavar="N", help=EXAMPLES)
    sub.add_argument("--seed", type=int, default=0, help="of the draw and the order (default 0)")
    add_json(sub, "print the files and the remarks as JSON")
    sub.set_defaults(command=run, mixture="recommended")


def run(options: argparse.Namespace) -> None:
    """Print the files that were written."""
    from taskpgm_ray.export import export, load_mixture

    remarks: list[str] = []

    def tell(text: str) -> None:
        remarks.append(text)
        print(f"# {text}", file=sys.stderr)

    study = options.study.removesuffix("/mixture.json").rstrip("/")
    if options.mixture in ("recommended", "chosen"):
        document = load_mixture(f"{study}/mixture.json")
        better = document.get("recommended", document.get("chosen"))
        if better != document.get("chosen"):
            other = f"{document['chosen']} was not shown to be better"
            told = (
                f"uses {better}: {other}" if options.mixture == "recommended" else f"uses the chosen mixture: {other}"
            )
            tell(f"{told} (--recommended | --chosen)")
    files = export(
        options.trainer,
        study,
        options.folder,
        mixture=options.mixture,
        examples=options.examples,
        seed=options.seed,
        tell=tell,
    )
    if options.json:
        print_json({"files": [str(file) for file in files], "remarks": remarks})
    else:
        for file in files:
            print(file)
