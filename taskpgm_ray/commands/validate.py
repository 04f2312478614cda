"""``validate``: what can be found wrong before anything costs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_config, config_of

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "check config, task sources, model and storage, and stop"
    sub = commands.add_parser("validate", help=text, description=text)
    add_config(sub)
    text = "the study is for a cluster: leave out this machine's CPUs, GPUs, packages and access to the storage"
    sub.add_argument("--cluster", action="store_true", help=text)
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """A line for everything that is fine."""
    from taskpgm_ray.validate import validate

    for line in validate(config_of(options), cluster=options.cluster):
        print(line)
