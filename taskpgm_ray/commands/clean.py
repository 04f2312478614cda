"""``clean``: remove what no later run of a study needs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_json, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "list, and with --yes remove, what no later run needs: units that were begun and never finished, Ray's files"
    sub = commands.add_parser("clean", help=text, description=text)
    sub.add_argument("study", help="the study's folder")
    sub.add_argument("--failed", action="store_true", help="also records of failures, so that a run tries those again")
    sub.add_argument(
        "--begun", action="store_true", help="also fine-tunes that were saved on their way: begun anew then"
    )
    sub.add_argument("--yes", action="store_true", help="remove them")
    add_json(sub)
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """A line for each folder, and what they come to."""
    from taskpgm_ray.runtime.lease import sole_driver
    from taskpgm_ray.state import leftovers
    from taskpgm_ray.storage import Storage

    storage = Storage(options.study)
    found = leftovers(storage, options.failed, options.begun)
    if options.yes:
        # What a driver has begun is not left over.
        with sole_driver(storage, lambda text: print(text, file=sys.stderr)):
            for folder in found:
                storage.delete(folder)
    if options.json:
        print_json({"bytes": found, "removed": options.yes})
        return
    for folder, size in found.items():
        print(f"{size / 2**20:8.1f} MiB  {folder}")
    whole = f"{len(found)} folder{'s'[: len(found) != 1]}, {sum(found.values()) / 2**20:,.1f} MiB"
    print(f"{whole} removed" if options.yes else f"{whole}; --yes removes them")
