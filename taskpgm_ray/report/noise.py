"""What the luck of a fine-tune's seed is worth beside the differences between trials."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import studentized_range

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import balance, is_accuracy, score

LEVEL = 0.95
"""Of so many searches among equal balances all are within the luck of their seeds."""
SEARCH, REPORT = "search split", "report split"


@dataclass(frozen=True)
class SeedSpread:
    """How far fine-tunes lie apart that differ in their seed alone."""

    sd: float
    """Standard deviation of the deciding metric."""
    freedom: int
    """Its degrees of freedom."""
    split: str
    """`SEARCH` or `REPORT`: on fewer items the same luck is larger."""


def seed_spread(data: ReportData) -> SeedSpread | None:
    """The spread over seeds, pooled within mixtures; ``None`` where none was fine-tuned twice.

    That of the trials where they have several seeds, since it is they who are to be told apart; else that of the
    systems on the report split.
    """
    trials = ((row.name, row.value(data.metric)) for row in data.trials if not row.stopped)
    systems = ((row.system, row.value(data.metric)) for row in data.by_seed)
    return _pooled(trials, SEARCH) or _pooled(systems, REPORT)


def _pooled(rows: Iterable[tuple[str, float | None]], split: str) -> SeedSpread | None:
    scores: dict[str, list[float]] = defaultdict(list)
    for name, value in rows:
        if value is not None:
            scores[name].append(value)
    repeated = [np.array(values) for values in scores.values() if len(values) > 1]
    if not repeated:
        return None
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in repeated)
    freedom = sum(len(values) - 1 for values in repeated)
    return SeedSpread(float(np.sqrt(squares / freedom)), freedom, split)


def indistinct(data: ReportData, spread: SeedSpread) -> tuple[list[str], int]:
    """The balances tried that seeds alone could have put behind the best one, and the number of the others in all.

    The best of several was looked for, so that the distance is that of the studentised range (Tukey; Kramer 1956 for
    unequal numbers of seeds): with that of two fine-tunes most searches among equal balances would call one distinct.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    for trial in data.trials:
        value = trial.value(data.metric)
        if trial.kind == "balance" and value is not None:
            scores[trial.name].append(value)
    if len(scores) < 2:
        return [], 0
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    best = max(means, key=lambda name: means[name])
    others = [name for name in means if name != best]
    least = _distance(len(means), spread.freedom) * spread.sd
    near = [
        name
        for name in others
        if means[best] - means[name] < least * np.sqrt(1 / len(scores[best]) + 1 / len(scores[name]))
    ]
    return near, len(others)


@cache
def _distance(balances: int, freedom: int) -> float:
    """Standard errors of a mean, times sqrt(2), between the best and the worst of equal balances at most."""
    return float(studentized_range.ppf(LEVEL, balances, freedom) / np.sqrt(2))


def choice(data: ReportData) -> str:
    """By what the balance was chosen, in words; empty where a trial won by its own score."""
    curve = data.curve
    if curve is None:
        return ""
    mean, sd = curve.maximum
    tried = any(trial.winner for trial in data.trials)
    return (
        f"The balance was chosen at the maximum of a curve through all trials: {curve.family} at tau = "
        f"{balance(curve.chosen)}, expected {score(data.metric, mean)} ± "
        f"{score(data.metric, sd)} (standard deviation)"
        + ("; it is (nearly) that of a trial." if tried else "; no trial had it.")
    )


def sentence(data: ReportData) -> str | None:
    """How much of the search's order is luck, in words; ``None`` where nothing is known of it."""
    spread = seed_spread(data)
    if spread is None:
        return None
    near, others = indistinct(data, spread)
    shown = score(data.metric, spread.sd, signed=True).lstrip("+") + ("" if is_accuracy(data.metric) else " nats")
    text = f"Fine-tunes that differ in their seed alone spread by {shown} (standard deviation, {spread.split})."
    if others:
        least = "At least " if spread.split == REPORT and len(near) < others else ""
        text += (
            f" {least}{len(near)} of the {others} other balances tried are nearer to the best one than that can tell "
        )
        text += "apart"
        if least:
            text += " (with one seed a trial, the spread on the search split is not known)"
        text += "; more seeds (search.seeds) decide between them." if near else "."
    return text
