"""``tasks``: what was read of each task."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_config, add_json, config_of, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "what was read of each task, and its first examples as the model sees them"
    sub = commands.add_parser("tasks", help=text, description=text)
    add_config(sub)
    sub.add_argument("--examples", type=int, default=1, metavar="N", help="examples of each task (default 1)")
    add_json(sub, "print all of it as JSON")
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """A table, or JSON."""
    from taskpgm_ray.models import resolve
    from taskpgm_ray.storage import Storage
    from taskpgm_ray.tasks.preview import preview, print_preview

    config = config_of(options)
    shown = preview(config, resolve(config.model, Storage(config.storage)), max(options.examples, 0))
    if options.json:
        print_json(shown.as_json())
    else:
        print_preview(shown)
