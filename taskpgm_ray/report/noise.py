"""What the luck of a fine-tune's seed is worth beside the differences between trials."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import balance, is_accuracy, score

Z = 1.96
"""Two fine-tunes of one mixture differ by more than Z sqrt(2) standard deviations once in twenty times."""


def seed_spread(data: ReportData) -> float | None:
    """Standard deviation of the deciding metric over fine-tunes that differ in their seed alone.

    Pooled over the systems of the report split; ``None`` where none was fine-tuned twice.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    for row in data.by_seed:
        scores[row.system].append(row.value(data.metric))
    repeated = [np.array(values) for values in scores.values() if len(values) > 1]
    if not repeated:
        return None
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in repeated)
    return float(np.sqrt(squares / sum(len(values) - 1 for values in repeated)))


def indistinct(data: ReportData, spread: float) -> tuple[list[str], int]:
    """The balances tried that seeds alone could have put behind the best one, and the number of the others in all."""
    scores: dict[str, list[float]] = defaultdict(list)
    for trial in data.trials:
        value = trial.value(data.metric)
        if trial.kind == "balance" and value is not None:
            scores[trial.name].append(value)
    if not scores:
        return [], 0
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    best = max(means, key=lambda name: means[name])
    others = [name for name in means if name != best]
    near = [
        name
        for name in others
        if means[best] - means[name] < Z * spread * np.sqrt(1 / len(scores[best]) + 1 / len(scores[name]))
    ]
    return near, len(others)


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
    shown = score(data.metric, spread, signed=True).lstrip("+") + ("" if is_accuracy(data.metric) else " nats")
    text = f"Fine-tunes that differ in their seed alone spread by {shown} (standard deviation, report split)."
    if others:
        text += f" {len(near)} of the {others} other balances tried are nearer to the best one than that can tell apart"
        text += "; more seeds (search.seeds) decide between them." if near else "."
    return text
