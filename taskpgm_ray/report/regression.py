"""What a regression of the trials' scores on their weights is worth, in words."""

from __future__ import annotations

import numpy as np

from taskpgm_ray.config import REGRESSION
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import number, score


def sentence(data: ReportData) -> str:
    """How well it ranks mixtures, and what became of the one that it proposes; empty where it was not asked for."""
    found = data.regression
    if found is None:
        return ""
    text = (
        f"A regression of the scores of {found.mixtures} mixtures on their weights ({found.model}) ranks mixtures that "
        f"it did not see with a correlation of {number(found.correlation)} (Spearman, each left out in turn; at least "
        f"{number(found.low)})"
    )
    if found.low <= 0:
        text += ": it is not shown to tell mixtures apart"
    text += f". For the mixture that it proposes it predicted {score(data.metric, found.predicted)}"
    trained = [trial.value(data.metric) for trial in data.trials if trial.name == REGRESSION]
    values = [value for value in trained if value is not None]
    if not values:
        return f"{text}; no trial of it came to its end."
    return f"{text}; the trial of it scored {score(data.metric, float(np.mean(values)))}."
