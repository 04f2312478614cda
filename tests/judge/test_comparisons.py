"""Comparisons on the report split."""

import numpy as np
import pytest

from taskpgm_ray.evaluation import ItemScore
from taskpgm_ray.evaluation.statistics import ONE_SEED, holm, paired_difference
from taskpgm_ray.judge.comparisons import ALL, against_uniform, by_seed, by_task, compare, decisive


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


def test_baselines_of_one_fine_tune_cost_the_others_nothing(scores):
    """They can give no verdict, and are not counted among the comparisons that might mislead."""
    single = {f"single {k}": [row for row in scores["uniform"] if row.seed == 0] for k in range(5)}
    (alone,) = decisive(compare("equal", scores, ["uniform"], 0.95, 0), "gold_logprob")
    assert alone.p_value < 1 / 6
    beside = decisive(compare("equal", scores | single, ["uniform", *single], 0.95, 0), "gold_logprob")
    assert [c.p_value for c in beside] == [alone.p_value, *[1.0] * 5]
    assert {c.verdict for c in beside[1:]} == {ONE_SEED}
    systems = ["equal", "uniform", *single]
    found = {c.system: c for c in decisive(against_uniform(systems, scores | single, 0.95, 0), "gold_logprob")}
    assert found["equal"].p_value == found["equal"].result.p_value


def test_the_table_of_tasks_holds_every_systems_means(scores):
    table = by_task(scores)
    assert [(row.benchmark, row.task, row.items) for row in table] == [
        (f"b{b}", f"t{t}", 8) for b in range(2) for t in range(3)
    ]
    cell = [row.gold_logprob for row in scores["ours"] if (row.benchmark, row.task) == ("b0", "t1")]
    assert table[1].scores["ours"]["gold_logprob"] == pytest.approx(np.mean(cell))


def test_seeds_are_told_apart(scores):
    table = by_seed(scores)
    assert [(row.system, row.seed) for row in table] == [(name, s) for name in scores for s in range(3)]
    of_seed = [row.gold_logprob for row in scores["ours"] if row.seed == 2]
    assert table[2].gold_logprob == pytest.approx(np.mean(of_seed))
