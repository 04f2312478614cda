"""``validate``: what can be found wrong before anything costs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_config, add_json, config_of, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "check config, task sources, model and storage, and stop"
    sub = commands.add_parser("validate", help=text, description=text)
    add_config(sub)
    text = "the study is for a cluster: leave out this machine's CPUs, GPUs, packages and access to the storage"
    sub.add_argument("--cluster", action="store_true", help=text)
    add_json(sub, "print what is fine and what is wrong as JSON")
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """A line for everything that is fine; what is not ends the command with an error, printed as such."""
    from taskpgm_ray.errors import Problems, TaskPGMError
    from taskpgm_ray.validate import validate

    try:
        lines = validate(config_of(options), cluster=options.cluster)
    except TaskPGMError as error:
        if options.json:
            print_json({"fine": [], "wrong": error.lines if isinstance(error, Problems) else [str(error)]})
        raise
    if options.json:
        print_json({"fine": lines, "wrong": []})
    else:
        print("\n".join(lines))
