"""How much the mixture hangs on the number of steps, and how far the tasks' own fine-tunes went, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import number, percent


def how_far(shares: Sequence[float]) -> str:
    """Of fine-tunes that may have ended early, by the share of its budget that each spent; nothing where none did."""
    if all(share >= 1 for share in shares):
        return ""
    ended = ", ".join(f"{count} at {percent(share, 0)}" for share, count in sorted(Counter(shares).items()))
    return (
        f"The tasks' own fine-tunes ended where their divergences had settled: {ended} of the budget, which is "
        f"{percent(sum(shares) / len(shares), 0)} of all its steps."
    )


def sentence(data: ReportData) -> str:
    """What the second half of the single-task fine-tunes has changed; nothing where that was not measured."""
    found = data.stability
    if found is None:
        return ""
    pairs = found.tasks * (found.tasks - 1) // 2
    text = (
        f"Half-way through their fine-tunes the adapters of {found.tasks} tasks put their {pairs} distances in an "
        f"order that correlates with the final one by {number(found.correlation, 2)} (Spearman)"
    )
    if found.moved is None:
        return f"{text}."
    text += f"; a mixture of these tasks would then have been {percent(found.moved)} elsewhere (total variation)"
    return f"{text}." if found.holds else f"{text}: it hangs on the number of steps."
