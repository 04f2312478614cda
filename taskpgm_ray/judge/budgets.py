"""The questions about budgets: mixtures of fewer tasks, and parts of the training budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.evaluation.scores import METRICS, Weights
from taskpgm_ray.evaluation.statistics import paired_difference
from taskpgm_ray.judge.comparisons import in_common
from taskpgm_ray.judge.finalists import Finalist
from taskpgm_ray.judge.rows import BudgetScores
from taskpgm_ray.mrf import select, solve
from taskpgm_ray.mrf.energy import direction
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.trials import Planner


def budget_finalists(chosen: Candidate, family: Family, planner: Planner) -> list[Finalist]:
    """What the questions about budgets need: mixtures of k tasks, and parts of the training budget.

    For each number of tasks: the greedy selection at the winner's balance, the winner's k heaviest tasks and k random
    ones, each with the mixture that is best on those tasks.
    """
    config, n = planner.config.search, len(chosen.weights)
    tau = 0.0 if chosen.tau is None else chosen.tau
    found = []
    for k in sorted(k for k in config.task_counts if k < n):
        # Of fewer tasks each one's bounds may be too narrow: these mixtures keep to the target only.
        greedy = select(family.S, k, tau, utility=family.utility, target=family.within.target)
        heaviest = np.argsort(-chosen.weights, kind="stable")[:k]
        drawn = np.random.default_rng(planner.config.seed).choice(n, size=k, replace=False)
        for name, weights in (
            ("greedy", np.asarray(greedy.weights)),
            ("heaviest", _best_on(heaviest, family, tau)),
            ("random", _best_on(drawn, family, tau)),
        ):
            label = f"{name}-{k}-tasks"
            found.append(Finalist(label, Candidate(label, "baseline", None, weights, label)))
    uniform = Candidate("uniform", "baseline", None, np.full(n, 1 / n), "uniform")
    for share in sorted(config.budget_fractions):
        found += [Finalist(f"{one.name}@{100 * share:g}%", one, share) for one in (chosen, uniform)]
    return found


def budget_scores(
    one: Finalist, rows: Mapping[str, Sequence[ItemScore]], confidence: float, seed: int, weights: Weights
) -> BudgetScores:
    """How such a mixture did on the report split, and its difference to uniform at the full budget (where tried)."""
    summary = summarise(rows[one.name], weights)
    scores = BudgetScores(
        name=one.name,
        tasks=int((one.candidate.weights > 0).sum()),
        share=one.share,
        **{metric: summary[metric] for metric in METRICS},
    )
    if "uniform" not in rows:
        return scores
    result = paired_difference(*in_common(rows[one.name], rows["uniform"]), confidence, seed, weights=weights)
    return replace(scores, difference=result.difference, low=result.low, high=result.high)


def _best_on(tasks: NDArray[np.intp], family: Family, tau: float) -> NDArray[np.float64]:
    """The mixture [n] that minimises the whole pool's energy among those of these tasks."""
    S = family.S
    b = direction(S, family.utility, family.within.target)
    weights = np.zeros(len(S))
    weights[tasks] = solve(S[np.ix_(tasks, tasks)], tau, utility=b[tasks] * len(tasks)).weights
    return weights
