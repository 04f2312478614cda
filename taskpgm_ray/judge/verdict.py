"""The verdict of a study in one plain sentence."""

from __future__ import annotations

from collections.abc import Sequence

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.judge.comparisons import ALL, Comparison

UNJUDGED = "The mixture was computed at the given balance; it was not compared with any baseline."


def sentence(comparisons: Sequence[Comparison], config: StudyConfig) -> str:
    """The outcome of the study, decided by the search's metric on the whole report split.

    Args:
        comparisons: The chosen mixture against every baseline; none where nothing was compared.
        config: Of the study.
    """
    decisive = [c for c in comparisons if c.result.metric == config.search.metric and c.scope == ALL]
    if not decisive:
        return UNJUDGED
    parts = [f"{c.verdict} than {c.baseline}" for c in decisive if c.verdict != "no difference shown"]
    equal = [c.baseline for c in decisive if c.verdict == "no difference shown"]
    metric = config.search.metric.replace("_", " ").replace("logprob", "log-probability")
    where = f"on {decisive[0].result.items} report items ({metric}, {config.evaluation.confidence:.0%} intervals)"
    if not parts:
        return f"No difference from {enumerated(equal)} was shown {where}: use uniform."
    tail = f"; no difference from {enumerated(equal)} was shown" if equal else ""
    advice = ": use uniform" if "uniform" in equal else ""
    return f"The TaskPGM mixture is {enumerated(parts)} {where}{tail}{advice}."


def enumerated(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "a", "a and b", "a, b and c"."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
