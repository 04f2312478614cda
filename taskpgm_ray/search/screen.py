"""Merging the single-task adapters instead of training: which mixtures that rules out, where it ranks as training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskpgm_ray.search.merge import predicted_best
from taskpgm_ray.search.merges import Agreement, Merges, Mixture, both
from taskpgm_ray.search.trials import TrialPlan

WARRANTED = 0.6
"""Lower end of the rank correlation from which a merge may stand in for training."""


@dataclass(frozen=True)
class ScreenFinding(Agreement):
    """How well merges rank the trials, and what follows from it."""

    warranted: bool
    """Whether ``low`` is at least `WARRANTED`."""
    skipped: tuple[str, ...] = ()
    """Trials that were not trained, because even at their best they would have stayed behind."""


def screened(merges: Merges, trained: Sequence[TrialPlan]) -> ScreenFinding:
    """How well merges rank these finished trials."""
    found = merges.agreement(trained)
    return ScreenFinding(**vars(found), warranted=found.low >= WARRANTED)


def hopeless(merges: Merges, trained: Sequence[TrialPlan], others: Sequence[TrialPlan]) -> tuple[str, ...]:
    """Names of the other trials that even at their predicted best would stay below a trained balance."""
    metric = merges.planner.config.search.metric
    balances = [plan.score(metric) for plan in trained if plan.candidate.kind == "balance"]
    if not balances or not others:
        return ()
    mixtures, scores = both(trained, metric)
    new = merges.scores([Mixture(plan.name, plan.candidate.weights) for plan in others])
    predicted = predicted_best(merges.scores(mixtures), scores, new)
    return tuple(plan.name for plan, upper in zip(others, predicted, strict=True) if upper < max(balances))


def pilots(plans: Sequence[TrialPlan]) -> tuple[list[TrialPlan], list[TrialPlan]]:
    """(trials that are trained in any case, the others): all baselines, and every other balance of each method."""
    first: list[TrialPlan] = []
    others: list[TrialPlan] = []
    seen: dict[str, int] = {}
    for plan in plans:
        position = seen.get(plan.candidate.method, 0)
        seen[plan.candidate.method] = position + 1
        (first if plan.candidate.kind == "baseline" or position % 2 == 0 else others).append(plan)
    return first, others
