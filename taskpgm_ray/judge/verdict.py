"""The verdict of a study in one plain sentence."""

from __future__ import annotations

from collections.abc import Sequence

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.evaluation.statistics import BETTER, NOT_SHOWN, ONE_SEED, PairedDifference
from taskpgm_ray.judge.comparisons import Comparison, decisive
from taskpgm_ray.workload import report_looks

CHOSEN, UNIFORM = "taskpgm", "uniform"
"""What a study recommends: the mixture that the search chose, or none of it."""
UNJUDGED = "The mixture was computed at the given balance; it was not compared with any baseline."


def sentence(comparisons: Sequence[Comparison], config: StudyConfig) -> str:
    """The outcome of the study, decided by the search's metric on the whole report split.

    Args:
        comparisons: The chosen mixture against every baseline; none where nothing was compared.
        config: Of the study.
    """
    deciding = decisive(comparisons, config.search.metric)
    if not deciding:
        return UNJUDGED
    metric = config.search.metric.replace("_", " ").replace("logprob", "log-probability")
    weighted = ", weighted" if config.evaluation.weights else ""
    where = f"on {deciding[0].result.items} report items ({metric}{weighted}"
    judged, alone = _judged(deciding), [c for c in deciding if c.verdict == ONE_SEED]
    seen = enumerated([f"{_told(c.result)} against {c.baseline}" for c in alone]) if alone else ""
    if not judged:
        return (
            f"With one fine-tune each the TaskPGM mixture scored {seen} {where}). That cannot tell a better mixture "
            f"from a lucky seed: use {UNIFORM}, or raise evaluation.report_seeds."
        )
    parts = [f"{c.verdict} than {c.baseline}" for c in judged if c.verdict != NOT_SHOWN]
    equal = [c.baseline for c in judged if c.verdict == NOT_SHOWN]
    where += f", {_counted(judged)} fine-tunes each, {_intervals(config)})"
    also = f" With one fine-tune it scored {seen}, which says nothing (evaluation.other_seeds)." if alone else ""
    if not parts:
        return f"No difference from {enumerated(equal)} was shown {where}: use {UNIFORM}.{also}"
    tail = f"; no difference from {enumerated(equal)} was shown" if equal else ""
    better = recommended(comparisons, config.search.metric)
    advice = "" if better == CHOSEN else f": use {better}"
    return f"The TaskPGM mixture is {enumerated(parts)} {where}{tail}{advice}.{also}"


def recommended(comparisons: Sequence[Comparison], metric: str) -> str:
    """What to train on: `CHOSEN` where the mixture is shown to be better than uniform and the best baseline.

    Else `UNIFORM`: the best baseline is the best by its scores, and may be shown to be worse where uniform is not.

    Where uniform itself is shown to be worse than the mixture, the best baseline is named in its place. A mixture that
    was compared with none is `CHOSEN`. One fine-tune of a baseline decides nothing.

    Args:
        comparisons: The chosen mixture against every baseline.
        metric: What decides: the search's metric, on the whole report split.
    """
    deciding = {c.baseline: c for c in decisive(comparisons, metric)}
    if not deciding:
        return CHOSEN
    judged = _judged(list(deciding.values()))
    if not judged:
        return UNIFORM
    # The best baseline is the one that the mixture is least ahead of.
    best = min(judged, key=lambda c: c.result.difference)
    uniform = next((c for c in judged if c.baseline == UNIFORM), best)
    if uniform.verdict != BETTER:
        return UNIFORM
    return CHOSEN if best.verdict == BETTER else best.baseline


def _judged(deciding: Sequence[Comparison]) -> list[Comparison]:
    """Those with fine-tunes enough to say anything."""
    return [c for c in deciding if c.verdict != ONE_SEED]


def _counted(deciding: Sequence[Comparison]) -> str:
    """Fine-tunes of each system; uniform may have more than other baselines."""
    fewest, most = (pick(c.result.seeds for c in deciding) for pick in (min, max))
    return str(most) if fewest == most else f"{fewest} to {most}"


def _intervals(config: StudyConfig) -> str:
    whole, looks = f"{100 * config.evaluation.confidence:.4g}%", len(report_looks(config))
    return f"{whole} intervals" if looks == 1 else f"{whole} intervals over up to {looks} looks together"


def _told(result: PairedDifference) -> str:
    if result.metric == "accuracy":
        return f"{100 * result.difference:+.1f} points"
    return f"{result.difference:+.4f} nats"


def enumerated(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "a", "a and b", "a, b and c"."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
