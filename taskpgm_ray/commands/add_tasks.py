"""``add-tasks``: more tasks for the pool of a config, which a study that is there goes on with."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_json, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "write further tasks into a config; a study that is finished then trains and scores these alone"
    sub = commands.add_parser("add-tasks", help=text, description=text)
    sub.add_argument("config", help="YAML file of the study; its comments and its layout stay")
    sub.add_argument(
        "sources", nargs="+", metavar="source", help="files, folders, globs, or hf:... and reasoning_gym:..."
    )
    sub.add_argument("--out", metavar="FILE", help="where to write (default: the config itself)")
    add_json(sub)
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Write the file, and say what the study then does."""
    from pathlib import Path

    from taskpgm_ray.config import load_config
    from taskpgm_ray.config_file import parse, read_text, with_entries
    from taskpgm_ray.errors import ConfigError
    from taskpgm_ray.tasks.sources import source_of, task_sources

    before = {source.name for source in task_sources(load_config(options.config).pool)}
    entries = [source_of(one) for one in options.sources]
    text = with_entries(read_text(options.config), options.config, ("pool", "tasks"), entries)
    new = load_config(parse(text, options.config))
    added = [source.name for source in task_sources(new.pool) if source.name not in before]
    out = options.out or options.config
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}") from error
    if options.json:
        print_json({"config": str(out), "tasks": len(before) + len(added), "added": added})
        return
    print(
        f"{out}: {len(added)} task{'s'[: len(added) != 1]} more, {len(before) + len(added)} in all: {', '.join(added)}"
    )
    print(
        "what is finished of the study stays: only these are fine-tuned, and every adapter meets their probes; the "
        "search is made anew, because all mixtures change"
    )
    print(f"next: taskpgm run --config {out}")
