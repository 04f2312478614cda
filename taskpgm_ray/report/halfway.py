"""How much the mixture hangs on the number of steps, in words."""

from __future__ import annotations

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import number, percent


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
