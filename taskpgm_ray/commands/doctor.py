"""``doctor``: whether this machine can run studies."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_json, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "what this machine has for studies: packages, CPUs, memory, GPUs, disk; and what is missing"
    sub = commands.add_parser("doctor", help=text, description=text)
    sub.add_argument(
        "--stack",
        nargs="?",
        const="",
        metavar="MODEL",
        help="also train an adapter and have both engines score it, on a GPU where there is one: some minutes "
        "(default model: the packaged SmolLM2-135M)",
    )
    sub.add_argument("--storage", default="runs", help="where studies are to lie (default: %(default)s)")
    add_json(sub)
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """A line for everything; what is missing ends the command with an error."""
    from taskpgm_ray.checkup import checkup
    from taskpgm_ray.errors import raise_all

    lines, problems = checkup(options.storage)
    if options.stack is not None and not problems:
        from rich.console import Console

        from taskpgm_ray.models import PACKAGED
        from taskpgm_ray.stack_check import check_stack

        lines += check_stack(options.stack or PACKAGED, Console(stderr=True)).lines()
    if options.json:
        print_json({"found": lines, "missing": [str(problem) for problem in problems]})
    else:
        print("\n".join(lines))
    raise_all(problems)
