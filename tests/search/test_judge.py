"""Comparisons on the report split."""

from types import SimpleNamespace

import numpy as np
import pytest

from taskpgm_ray.config import SearchConfig
from taskpgm_ray.evaluation import ItemScore, holm, paired_difference
from taskpgm_ray.mrf.energy import direction, energy
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.judge import ALL, budget_finalists, by_task, compare


def system(shift, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    ease = np.random.default_rng(99).normal(size=(2, 3, 8))
    return [
        ItemScore(
            f"b{b}", f"t{t}", f"{b}{t}{i}", float(ease[b, t, i] > 0), ease[b, t, i] + shift + noise * rng.normal(), s
        )
        for s in range(3)
        for b in range(2)
        for t in range(3)
        for i in range(8)
    ]


@pytest.fixture(scope="module")
def scores():
    return {"ours": system(0.5), "uniform": system(0.0, 1), "equal": system(0.5, 2)}


def test_every_scope_and_metric_is_compared_and_holm_counts_the_baselines(scores):
    found = compare("ours", scores, ["uniform", "equal"], 0.95, 0)
    assert {(c.scope, c.result.metric) for c in found} == {
        (scope, metric) for scope in (ALL, "b0", "b1") for metric in ("gold_logprob", "accuracy")
    }
    main = {c.baseline: c for c in found if c.scope == ALL and c.result.metric == "gold_logprob"}
    assert {name: c.verdict for name, c in main.items()} == {"uniform": "better", "equal": "no difference shown"}
    single = [paired_difference(scores["ours"], scores[name], 0.95, 0).p_value for name in ("uniform", "equal")]
    assert [main[name].p_value for name in ("uniform", "equal")] == pytest.approx(holm(single))
    assert main["uniform"].result.seeds == 3
    part = next(c for c in found if c.scope == "b1" and c.baseline == "uniform" and c.result.metric == "gold_logprob")
    assert part.result.items == 24


def test_the_table_of_tasks_holds_every_systems_means(scores):
    table = by_task(scores)
    assert [(row["benchmark"], row["task"], row["items"]) for row in table] == [
        (f"b{b}", f"t{t}", 8) for b in range(2) for t in range(3)
    ]
    cell = [row.gold_logprob for row in scores["ours"] if (row.benchmark, row.task) == ("b0", "t1")]
    assert table[1]["scores"]["ours"]["gold_logprob"] == pytest.approx(np.mean(cell))


@pytest.mark.parametrize("targeted", [False, True])
def test_mixtures_of_k_tasks_and_parts_of_the_budget(targeted):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(8, 3))
    S = np.exp(-((points[:, None] - points[None]) ** 2).sum(-1))
    utility = rng.normal(size=8) if targeted else None
    family, tau = Family("jsd", "jsd", S, 1.0, utility, contender=True), 0.7
    chosen = Candidate("tau-0.7", "balance", tau, family.path.at(tau), "jsd")
    search = SearchConfig(task_counts=(2, 4, 8), budget_fractions=(0.5, 0.25))
    planner = SimpleNamespace(config=SimpleNamespace(search=search, seed=0))
    found = {one.name: one for one in budget_finalists(chosen, family, planner)}
    # All eight tasks are no choice, and parts of the budget are asked of the winner and of uniform.
    assert list(found) == [f"{kind}-{k}-tasks" for k in (2, 4) for kind in ("greedy", "heaviest", "random")] + [
        f"{name}@{share}" for share in ("25%", "50%") for name in ("tau-0.7", "uniform")
    ]
    b = direction(S, utility, None)
    for name, one in found.items():
        weights = one.candidate.weights
        used = weights > 0
        assert weights.sum() == pytest.approx(1)
        assert one.share == (0.25 if "25%" in name else 0.5 if "50%" in name else 1.0)
        if name.endswith("tasks"):
            assert used.sum() <= int(name.split("-")[1])
            # No mixture of the same tasks has a lower energy.
            others = np.zeros((50, 8))
            others[:, used] = rng.dirichlet(np.ones(used.sum()), size=50)
            best = energy(S, b, tau, weights)
            assert all(energy(S, b, tau, other) >= best - 1e-12 for other in others)
    assert set(np.flatnonzero(found["heaviest-4-tasks"].candidate.weights)) <= set(np.argsort(-chosen.weights)[:4])
