"""``completion``: the script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Commands) -> None:
    """See the module."""
    text = "print a script that completes commands and options: taskpgm completion bash >> ~/.bash_completion"
    sub = commands.add_parser("completion", help=text, description=text)
    sub.add_argument("shell", choices=SHELLS)
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print it."""
    import shtab

    print(shtab.complete(options.parser, shell=options.shell))
