"""Mixtures of fewer tasks, and parts of the training budget."""

from types import SimpleNamespace

import numpy as np
import pytest

from taskpgm_ray.config import SearchConfig
from taskpgm_ray.judge.budgets import budget_finalists
from taskpgm_ray.mrf.energy import direction, energy
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.families import Family

# Two of them are one in whole percent.
SHARES = {"25%": 0.25, "33%": 0.33, "33.4%": 0.334, "50%": 0.5}


@pytest.mark.parametrize("targeted", [False, True])
def test_mixtures_of_k_tasks_and_parts_of_the_budget(targeted):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(8, 3))
    S = np.exp(-((points[:, None] - points[None]) ** 2).sum(-1))
    utility = rng.normal(size=8) if targeted else None
    family, tau = Family("jsd", "jsd", S, 1.0, utility, contender=True), 0.7
    chosen = Candidate("tau-0.7", "balance", tau, family.path.at(tau), "jsd")
    search = SearchConfig(task_counts=(2, 4, 8), budget_fractions=(0.5, 0.25, 0.334, 0.33))
    planner = SimpleNamespace(config=SimpleNamespace(search=search, seed=0))
    found = {one.name: one for one in budget_finalists(chosen, family, planner)}
    # All eight tasks are no choice, and parts of the budget are asked of the winner and of uniform.
    assert list(found) == [f"{kind}-{k}-tasks" for k in (2, 4) for kind in ("greedy", "heaviest", "random")] + [
        f"{name}@{share}" for share in SHARES for name in ("tau-0.7", "uniform")
    ]
    b = direction(S, utility, None)
    for name, one in found.items():
        weights = one.candidate.weights
        used = weights > 0
        assert weights.sum() == pytest.approx(1)
        assert one.share == SHARES.get(name.partition("@")[2], 1.0)
        if name.endswith("tasks"):
            assert used.sum() <= int(name.split("-")[1])
            # No mixture of the same tasks has a lower energy.
            others = np.zeros((50, 8))
            others[:, used] = rng.dirichlet(np.ones(used.sum()), size=50)
            best = energy(S, b, tau, weights)
            assert all(energy(S, b, tau, other) >= best - 1e-12 for other in others)
    assert set(np.flatnonzero(found["heaviest-4-tasks"].candidate.weights)) <= set(np.argsort(-chosen.weights)[:4])
