"""``plan``: what a study will take."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_config, add_json, config_of, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = "lanes, hours, GPU-hours, storage and cost of the fine-tunes, before a run"
    sub = commands.add_parser("plan", help=text, description=text)
    add_config(sub)
    sub.add_argument("--tasks", type=_positive(int), help="tasks in the pool (default: those of the config)")
    sub.add_argument(
        "--tokens-per-second", type=_positive(float), help="of one lane (default: as measured in the study)"
    )
    sub.add_argument("--example-tokens", type=_positive(float), help="mean tokens of an example (default: as measured)")
    sub.add_argument("--adapter-mib", type=_positive(float), help="size of an adapter (default: from the model)")
    sub.add_argument("--price", type=_positive(float), help="of a GPU per hour, or of a CPU where lanes have no GPU")
    add_json(sub, "print the rows as JSON")
    sub.set_defaults(command=run)


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return value

    number.__name__ = "number"
    return number


def run(options: argparse.Namespace) -> None:
    """A table, or JSON."""
    from dataclasses import asdict

    from rich.console import Console

    from taskpgm_ray.forecast import plan_study, plan_table, speed_of
    from taskpgm_ray.tasks.sources import task_sources

    config = config_of(options)
    speed = speed_of(config, options.tokens_per_second, options.example_tokens, options.adapter_mib)
    rows = plan_study(config, options.tasks or len(task_sources(config.pool)), speed, options.price)
    if options.json:
        print_json({"speed": asdict(speed), "fine_tunes": [asdict(row) for row in rows]})
    else:
        Console().print(plan_table(rows, speed, options.price))
