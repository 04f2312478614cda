"""``merge``: the final adapter folded into its base model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_json, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "the study's final adapter folded into its base model, with tokenizer and model card"
    sub = commands.add_parser("merge", help=text, description=text)
    sub.add_argument("study", help="folder of a finished study")
    sub.add_argument("folder", help="where the model goes")
    add_json(sub)
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print where it lies."""
    from taskpgm_ray.export.merged import merge_final

    folder = merge_final(options.study, options.folder)
    if options.json:
        print_json({"folder": str(folder)})
    else:
        print(folder)
