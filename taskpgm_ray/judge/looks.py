"""How many fine-tunes the verdict takes: a fixed number, or more of them until it is plain (group-sequential).

With ``report_seeds: auto`` the mixture and uniform are compared after 3, 5, 8, ... fine-tunes each, and no more are
made once one of the two is shown to be better or the interval of their difference is narrower than the smallest effect
that matters. Who looks several times is more often fooled by chance, so each look asks for more confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from taskpgm_ray.config import EvaluationConfig, StudyConfig
from taskpgm_ray.evaluation import ItemScore
from taskpgm_ray.evaluation.statistics import BETTER, WORSE
from taskpgm_ray.judge.comparisons import Comparison, compare, decisive
from taskpgm_ray.judge.verdict import UNIFORM
from taskpgm_ray.workload import report_looks

SPENDING = 0.84
"""With k looks each one's error rate is the whole one's divided by k to this power: found by simulation for Student's t
at 3, 5, 8, 12 and 18 seeds, where it holds the whole rate at every smallest effect. Between Pocock's bound for known
spreads and Bonferroni's, which would be 1."""

Rows = Mapping[str, Sequence[ItemScore]]


def confidence_of_a_look(config: StudyConfig) -> float:
    """The confidence of every interval: that of the config, or where there are several looks a higher one."""
    return 1 - (1 - config.evaluation.confidence) / len(report_looks(config)) ** SPENDING


def confidence_with_most(seeds: int, confidence: float) -> float:
    """The confidence of every interval where ``auto`` makes at most so many fine-tunes of the winner and of uniform.

    Args:
        seeds: ``evaluation.most_report_seeds``.
        confidence: Of all looks together.
    """
    evaluation = EvaluationConfig(
        report_seeds="auto", smallest_effect=1.0, most_report_seeds=seeds, confidence=confidence
    )
    return confidence_of_a_look(StudyConfig.model_construct(evaluation=evaluation))


def look_until_settled(
    system: str, baselines: Sequence[str], score: Callable[[int], Rows], config: StudyConfig
) -> tuple[Rows, list[Comparison]]:
    """The winner against its baselines, with as many seeds as it takes.

    Args:
        system: The winner's name.
        baselines: What it is compared with; only uniform gets more seeds as the winner does.
        score: Number of seeds of the winner and of uniform -> rows of every system.
        config: Seeds, confidence and the smallest effect that matters.

    Returns:
        The rows of the last look, and the comparisons in it.
    """
    evaluation, confidence = config.evaluation, confidence_of_a_look(config)
    for seeds in report_looks(config):
        rows = score(seeds)
        found = compare(system, rows, baselines, confidence, config.seed, evaluation.weights) if baselines else []
        if _settled(found, config):
            break
    return rows, found


def _settled(found: Sequence[Comparison], config: StudyConfig) -> bool:
    """Whether more seeds would change nothing that matters."""
    uniform = [one for one in decisive(found, config.search.metric) if one.baseline == UNIFORM]
    smallest = config.evaluation.smallest_effect
    if not uniform or smallest is None:
        return True
    (one,) = uniform
    return one.verdict in (BETTER, WORSE) or one.result.high - one.result.low <= smallest
