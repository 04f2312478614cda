"""What a mixture has to keep to, as options of the commands that need no config."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from taskpgm_ray.errors import InputError
from taskpgm_ray.mixture.constraints import Constraint
from taskpgm_ray.mrf import Group
from taskpgm_ray.numerics.types import IntArray


def add_limits(group: argparse._ArgumentGroup) -> None:
    """Shares of tasks, and of groups of them."""
    group.add_argument("--floor", type=float, default=0.0, help="part of its uniform share that every task keeps")
    for option, text in (
        ("--min", "the least share of a task, or of each task of a pattern such as 'math/*'"),
        ("--max", "the largest share"),
        ("--fix", "exactly this share"),
        ("--group-min", "the least share of all tasks of a pattern together"),
        ("--group-max", "the largest share of all of them together"),
    ):
        group.add_argument(option, action="append", default=[], metavar="TASK=SHARE", help=text)


def constraints(options: argparse.Namespace, names: Sequence[str]) -> list[Constraint]:
    """What these options ask of the tasks.

    Raises:
        InputError: One of them is not TASK=SHARE.
    """
    n = len(names)
    parts = [Constraint(f"--floor {options.floor:g}", lower=np.full(n, options.floor / n))] if options.floor else []
    for option in ("min", "max", "fix", "group_min", "group_max"):
        for entry in getattr(options, option):
            name, members, share = _entry(entry, names)
            said = f"--{option.replace('_', '-')} {name}={share:g}"
            if option.startswith("group"):
                group = Group(members, low=share) if option == "group_min" else Group(members, high=share)
                parts.append(Constraint(said, group=group))
                continue
            inside = np.isin(np.arange(n), members)
            lower = None if option == "max" else np.where(inside, share, 0.0)
            upper = None if option == "min" else np.where(inside, share, 1.0)
            parts.append(Constraint(said, lower, upper))
    return parts


def _entry(entry: str, names: Sequence[str]) -> tuple[str, IntArray, float]:
    """(pattern, tasks that it matches, share) of PATTERN=SHARE."""
    pattern, _, number = entry.rpartition("=")
    members = [i for i, name in enumerate(names) if name == pattern or fnmatchcase(name, pattern)]
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not members or not 0 <= share <= 1:
        raise InputError(
            f"{entry!r} is not TASK=SHARE with one of the tasks {', '.join(names[:20])} (or a pattern of names) and a "
            "share from 0 to 1"
        )
    return pattern, np.array(members), share
