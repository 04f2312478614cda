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
    text = "what a study takes, before a run: fine-tunes, engines, hours, GPU-hours, storage and cost"
    sub = commands.add_parser("plan", help=text, description=text)
    add_config(sub)
    sub.add_argument("--tasks", type=_positive(int), help="tasks in the pool (default: those of the config)")
    sub.add_argument(
        "--tokens-per-second", type=_positive(float), help="of one lane (default: as measured in the study)"
    )
    sub.add_argument(
        "--proxy-tokens-per-second",
        type=_positive(float),
        help="of one lane that trains affinity.model (default: as measured in the study)",
    )
    sub.add_argument(
        "--engine-tokens-per-second",
        type=_positive(float),
        help="of one engine, reading prompts (default: as measured in the study)",
    )
    sub.add_argument("--gpu", choices=GPUS, help="a kind of GPU: speeds as estimated for it, where they are not given")
    sub.add_argument(
        "--example-tokens",
        type=_positive(float),
        help="mean tokens of an example (default: as measured, else by a sample of the tasks)",
    )
    sub.add_argument("--adapter-mib", type=_positive(float), help="size of an adapter (default: from the model)")
    sub.add_argument("--price", type=_positive(float), help="of a GPU per hour, or of a CPU where lanes have no GPU")
    add_json(sub, "print the rows as JSON")
    sub.set_defaults(command=run)


GPUS = ("A10", "A100", "B200", "H100", "H200", "L4", "L40S")
"""Those of `taskpgm_ray.gpu_speeds`, which takes seconds to import."""
LEAST_HOURS = 0.01


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

    from taskpgm_ray.engine_forecast import affinity_core_hours, engines_table, plan_engines, probe_rounds
    from taskpgm_ray.forecast import engine_speed_of, plan_study, plan_table, proxy_speed_of, speed_of
    from taskpgm_ray.tasks.sources import task_sources

    config = config_of(options)
    speed = speed_of(config, options.tokens_per_second, options.example_tokens, options.adapter_mib, options.gpu)
    engine = engine_speed_of(config, speed, options.engine_tokens_per_second, options.gpu)
    tasks = options.tasks or len(task_sources(config.pool))
    proxy = proxy_speed_of(config, options.proxy_tokens_per_second, speed, options.gpu)
    rows = plan_study(config, tasks, speed, options.price, proxy)
    engines = plan_engines(config, tasks, speed.example_tokens, engine, options.price)
    hours = affinity_core_hours(config, tasks)
    if options.json:
        print_json(
            {
                "speed": asdict(speed),
                "proxy_speed": proxy and asdict(proxy),
                "fine_tunes": [asdict(row) for row in rows],
                "engine_speed": engine and asdict(engine),
                "engines": [asdict(row) for row in engines],
                "affinity_core_hours": hours,
            }
        )
        return
    console = Console()
    console.print(plan_table(rows, speed, options.price))
    if proxy is not None:
        console.print(
            f"adapters and noise: the proxy's, {proxy.tokens_per_second:,.0f} tokens/s a lane ({proxy.source})"
        )
    console.print(engines_table(engines, engine))
    if engine is None:
        console.print("The engines' speed was neither given nor measured: --engine-tokens-per-second, or --gpu.")
    if rounds := probe_rounds(config):
        console.print(f"Probes: {rounds}; the table counts the most.")
    taken = f"{hours:.2g}" if hours >= LEAST_HOURS else f"less than {LEAST_HOURS:g}"
    console.print(f"Affinities of all pairs: {taken} core-hours. Counts are the most that a study can need.")
