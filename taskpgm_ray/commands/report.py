"""``report``: a finished study's report and its other files once more, without computing anything."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_json, on_stderr, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "write a finished study's report, mixture and tables once more; nothing is trained or scored"
    sub = commands.add_parser("report", help=text, description=text)
    sub.add_argument("study", help="the study's folder")
    add_json(sub, "print the mixture as JSON, and the rest on standard error")
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """The study's stages on finished units alone."""
    from rich.console import Console

    from taskpgm_ray import Study

    result = Study.finished(options.study, on_stderr() if options.json else Console())
    if options.json:
        print_json(result.mixture)
