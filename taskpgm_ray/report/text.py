"""How numbers and names read in the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

METRICS = {
    "gold_logprob": "Gold log-prob. (nats)",
    "accuracy": "Accuracy",
    "mmlu_accuracy": "MMLU accuracy",
    "bbh_accuracy": "BBH accuracy",
    "mmlu_gold_logprob": "MMLU log-prob. (nats)",
    "bbh_gold_logprob": "BBH log-prob. (nats)",
}
MISSING = "–"


def metric_name(metric: str) -> str:
    """A metric in words."""
    return METRICS.get(metric, metric.replace("_", " "))


def is_accuracy(metric: str) -> bool:
    """Whether a metric is a share of items, shown in per cent."""
    return metric.endswith("accuracy")


def listed(names: Sequence[str], most: int = 20) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def number(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits, whole numbers with separators; a dash when there is none."""
    if value is None:
        return MISSING
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return str(float(value))  # nan and inf are results too, and bad ones: not to be hidden behind a dash
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))}f}"


def balance(tau: float | None) -> str:
    """A balance tau, without zeros that say nothing: it is a setting, not a measurement."""
    return MISSING if tau is None else f"{tau:.3g}"


def percent(value: Any, digits: int = 1) -> str:
    """A share in per cent."""
    return MISSING if value is None else f"{100 * value:.{digits}f}\u00a0%"


def level(confidence: float) -> str:
    """An interval's confidence in per cent: what it leaves open has two digits, so that it never reads as 100 %."""
    return f"{100 - float(f'{100 * (1 - confidence):.2g}'):.10g}\u00a0%"


def score(metric: str, value: Any, signed: bool = False) -> str:
    """A metric's value in its own unit: per cent for accuracies (points when signed), else nats."""
    if value is None or value == math.inf:
        return MISSING
    sign = "+" if signed else ""
    unit = "\u00a0points" if signed else "\u00a0%"
    return f"{100 * value:{sign}.1f}{unit}" if is_accuracy(metric) else f"{value:{sign}.4f}"


def interval(metric: str, low: float | None, high: float | None) -> str:
    """The ends of a difference's interval, in the metric's unit; a dash where there is none, as with one seed."""
    if low is not None and high is not None and not (math.isfinite(low) and math.isfinite(high)):
        return MISSING
    return f"{score(metric, low, signed=True)} to {score(metric, high, signed=True)}"


def duration(seconds: Any) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def amount(count: Any) -> str:
    """A large count in thousands, millions or billions."""
    if count is None:
        return MISSING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / (1e3 if unit == 'k' else size):.1f} {unit}"
    return f"{count:,.0f}"
