"""The user's constraints on a mixture: from the config to bounds and groups; what clashes, and what binds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import ConfigError
from taskpgm_ray.mixture.apportionment import counts, mean_length, token_counts
from taskpgm_ray.mixture.baselines import proportional
from taskpgm_ray.mixture.given import read_given
from taskpgm_ray.mrf.groups import Group, is_feasible
from taskpgm_ray.mrf.limits import Limits
from taskpgm_ray.numerics.types import FloatArray, IntArray

if TYPE_CHECKING:
    # Not needed to solve a matrix, which works without the config's own needs.
    from taskpgm_ray.config import MixtureConfig

USUAL_EPOCHS = 4.0
"""How often an example may be repeated where the config does not say: beyond it repeats are worth less and less
(Muennighoff et al., 2023, arXiv 2305.16264)."""
BINDS = 1e-9


@dataclass(frozen=True, eq=False)
class Constraint:
    """One of them, by the name that the config gives it."""

    name: str
    lower: FloatArray | None = None
    """[n]."""
    upper: FloatArray | None = None
    """[n]."""
    group: Group | None = None


@dataclass(frozen=True, eq=False)
class Constraints:
    """All of them together, and what they come to."""

    limits: Limits
    parts: tuple[Constraint, ...] = ()
    epochs: float | None = None
    """How often an example may be used; ``None``: not limited."""
    note: str = ""
    """What is not limited although a user may expect it, and why."""
    available: FloatArray = field(default_factory=lambda: np.zeros(0))
    examples: int = 0
    """Of the mixture."""
    lengths: FloatArray | None = None
    """Mean tokens of each task's examples [n] where weights are shares of tokens; ``examples`` are then those of the
    pool's mean length."""

    @property
    def capacity(self) -> FloatArray | None:
        """Examples that each task may give [n]; ``None``: any number."""
        if self.epochs is None:
            return None
        # Counts are whole: where epochs are not, the last example may be one more. A task that the user wants to have
        # more of may be repeated more often.
        usual = self.epochs * self.available
        wanted = self.limits.lower * _alone(self.available, self.examples, self.lengths)
        return np.asarray(np.ceil(np.maximum(usual, wanted) * (1 - BINDS)))

    def counts(self, weights: npt.ArrayLike) -> IntArray:
        """Examples of each task [n] that realise a mixture within the limits.

        Raises:
            InputError: The weights are none, or beyond the limits so far that the tasks do not have the examples.
        """
        if self.lengths is None:
            return counts(weights, self.examples, self.capacity)
        tokens = self.examples * mean_length(self.available, self.lengths)
        return token_counts(weights, tokens, self.lengths, self.capacity)

    def binding(self, weights: npt.ArrayLike) -> list[list[str]]:
        """Of each task [n] the names of the constraints that its weight (or its group's share) is held by."""
        p = np.asarray(weights, dtype=np.float64)
        found: list[list[str]] = [[] for _ in p]
        for part in self.parts:
            held = np.zeros(len(p), dtype=bool)
            if part.lower is not None:
                held |= (part.lower > 0) & (p <= part.lower + BINDS)
            if part.upper is not None:
                held |= (part.upper < 1) & (p >= part.upper - BINDS)
            if part.group is not None:
                share, low, high = float(p[part.group.members].sum()), part.group.low, part.group.high
                # A side that was not given, or asks for nothing, holds nothing.
                if (low > 0 and share <= low + BINDS) or (high < 1 and share >= high - BINDS):
                    held[part.group.members] = True
            for i in np.flatnonzero(held):
                # A fixed share is a lower and an upper bound of one name.
                if part.name not in found[i]:
                    found[i].append(part.name)
        return found


def constraints_of(
    config: MixtureConfig,
    names: Sequence[str],
    available: Sequence[int],
    tokens_per_example: Sequence[float] | None = None,
) -> Constraints:
    """The constraints of a pool of n tasks.

    Args:
        config: ``mixture``: constraints, target, number of tasks, examples.
        names: Of the tasks.
        available: Examples that each has.
        tokens_per_example: Mean length of each task's examples; needed where weights are shares of tokens.

    Raises:
        ConfigError: A name matches no task, or no mixture keeps all constraints: the fewest that clash are named.
        InputError: The target cannot be read.
    """
    n, given = len(names), config.constraints
    sizes = np.asarray(available, dtype=np.float64)
    parts = []
    if given.floor:
        parts.append(Constraint(f"floor {given.floor:g}", lower=np.full(n, given.floor / n)))
    for pattern, limit in given.tasks.items():
        members = _matching(pattern, names, "tasks")
        low, high = (limit.fixed, limit.fixed) if limit.fixed is not None else (limit.min, limit.max)
        word = "fixed" if limit.fixed is not None else "min"
        if low is not None and low > 0:
            parts.append(Constraint(f"tasks.{pattern}.{word} {low:g}", lower=_at(members, low, 0.0, n)))
        if high is not None and high < 1:
            word = "fixed" if limit.fixed is not None else "max"
            parts.append(Constraint(f"tasks.{pattern}.{word} {high:g}", upper=_at(members, high, 1.0, n)))
    for pattern, share in given.groups.items():
        members = _matching(pattern, names, "groups")
        if share.min is not None:
            parts.append(Constraint(f"groups.{pattern}.min {share.min:g}", group=Group(members, low=share.min)))
        if share.max is not None:
            parts.append(Constraint(f"groups.{pattern}.max {share.max:g}", group=Group(members, high=share.max)))
    epochs, note = _epochs(config, sizes)
    lengths = np.asarray(tokens_per_example, dtype=np.float64) if config.share == "tokens" else None
    if epochs is not None:
        upper = np.minimum(epochs * sizes / _alone(sizes, config.examples, lengths), 1.0)
        if given.max_epochs == "auto":
            # What the user asked for comes before what is usual.
            upper = np.maximum(upper, _together(parts, n).lower)
        repeats = Constraint(f"max_epochs {epochs:g}", upper=upper)
        if given.max_epochs != "auto" or _feasible([*parts, repeats], n) or not _feasible(parts, n):
            parts.append(repeats)
        else:
            epochs = None
            note = f"with {'; '.join(part.name for part in parts)} repeats cannot be limited to {USUAL_EPOCHS:g} epochs"
    target = None
    if config.target == "proportional":
        target = proportional(sizes)
    elif config.target != "uniform":
        target = read_given(config.target, names)
    limits = combined(parts, n, target, config.max_tasks)
    return Constraints(limits, tuple(parts), epochs, note, sizes, config.examples, lengths)


def _epochs(config: MixtureConfig, sizes: FloatArray) -> tuple[float | None, str]:
    """How often an example may be used, and why not where that is not limited."""
    wanted = config.constraints.max_epochs
    if not isinstance(wanted, str):
        return wanted, ""
    if wanted == "none":
        return None, ""
    once = float(sizes.sum())
    if config.examples <= USUAL_EPOCHS / 2 * once:
        return USUAL_EPOCHS, ""
    note = (
        f"mixture.examples ({config.examples:,}) is {config.examples / once:.1f} times all {once:,.0f} examples of the "
        f"pool: repeats are not limited to {USUAL_EPOCHS:g} epochs; lower mixture.examples, or set "
        "mixture.constraints.max_epochs"
    )
    return None, note


def _alone(sizes: FloatArray, examples: int, lengths: FloatArray | None) -> FloatArray:
    """Examples [n] that each task would give if it were the whole mixture."""
    if lengths is None:
        return np.full(len(sizes), float(examples))
    return np.asarray(examples * mean_length(sizes, lengths) / lengths)


def _matching(pattern: str, names: Sequence[str], where: str) -> np.ndarray:
    members = np.array([i for i, name in enumerate(names) if fnmatchcase(name, pattern)], dtype=np.int64)
    if not len(members):
        raise ConfigError(
            f"mixture.constraints.{where}: {pattern!r} matches none of the tasks: {', '.join(sorted(names))}"
        )
    return members


def _at(members: np.ndarray, value: float, otherwise: float, n: int) -> FloatArray:
    made = np.full(n, otherwise)
    made[members] = value
    return made


def _together(parts: Sequence[Constraint], n: int) -> Limits:
    """The tightest bounds of some constraints, and their groups."""
    lower, upper = np.zeros(n), np.ones(n)
    for part in parts:
        if part.lower is not None:
            lower = np.maximum(lower, part.lower)
        if part.upper is not None:
            upper = np.minimum(upper, part.upper)
    return Limits(lower, upper, tuple(part.group for part in parts if part.group is not None))


def combined(
    parts: Sequence[Constraint], n: int, target: FloatArray | None = None, max_tasks: int | None = None
) -> Limits:
    """Constraints of n tasks as limits for the solvers.

    Raises:
        ConfigError: No mixture keeps them all; the fewest that clash are named.
    """
    made = _together(parts, n)
    most = max_tasks if max_tasks is not None and max_tasks < n else None
    limits = Limits(made.lower, made.upper, made.groups, target, most)
    _refuse_clashes(parts, limits, n)
    return limits


def _refuse_clashes(parts: Sequence[Constraint], limits: Limits, n: int) -> None:
    if not _feasible(parts, n):
        # What can be left out without a mixture appearing is no part of the clash.
        clash = list(parts)
        for part in parts:
            rest = [other for other in clash if other is not part]
            if not _feasible(rest, n):
                clash = rest
        raise ConfigError(
            f"constraints: no mixture keeps all of these at the same time: "
            f"{'; '.join(part.name for part in clash)}. Loosen one of them"
        )
    if limits.most is None:
        return
    kept = int((limits.lower > 0).sum())
    if kept > limits.most:
        raise ConfigError(
            f"only {limits.most} tasks may have weight (max_tasks), but {kept} have to have weight "
            f"({'; '.join(part.name for part in parts if part.lower is not None)})"
        )
    free = np.sort(limits.upper[limits.lower == 0])[::-1][: limits.most - kept]
    most = float(limits.upper[limits.lower > 0].sum() + free.sum())
    if most < 1:
        uppers = "; ".join(part.name for part in parts if part.upper is not None)
        raise ConfigError(
            f"only {limits.most} tasks may have weight (max_tasks), but so many can have at most {most:.3f} of the "
            f"mixture ({uppers}); allow more tasks, or loosen the upper bounds"
        )


def _feasible(parts: Sequence[Constraint], n: int) -> bool:
    made = _together(parts, n)
    if made.groups:
        return is_feasible(made.lower, made.upper, made.groups)
    return bool((made.lower <= made.upper).all() and made.lower.sum() <= 1 + BINDS and made.upper.sum() >= 1 - BINDS)
