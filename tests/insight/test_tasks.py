"""What each task contributes, in numbers that can be checked and in a sentence."""

import itertools
import json

import numpy as np
import pytest

from taskpgm_ray.insight.certainty import solved_within
from taskpgm_ray.insight.tasks import explain
from taskpgm_ray.mrf import Limits, drop_task, influence, solve
from taskpgm_ray.search.gain import Gain

NAMES = ["boolq", "boolq-copy", "mawps", "sst2"]


@pytest.fixture
def S():
    X = np.array([[0.0, 0], [0.1, 0], [2, 0], [0, 2]])
    return np.exp(-((X[:, None] - X[None]) ** 2).sum(-1))


def test_the_numbers_are_those_of_the_mathematics(S):
    mixture = solve(S, 0.6)
    found = influence(S, mixture)
    lift = np.arange(16.0).reshape(4, 4)
    gains = Gain(np.array([0.1, -0.2, 0.3, 0.0]), np.array([0.1, 0.2, 0.3, 0.4]))
    insight = explain(NAMES, S, mixture, None, lift, gains)
    assert [row.weight for row in insight.tasks] == mixture.weights.tolist()
    assert sum(row.redundancy + row.representativeness for row in insight.tasks) == pytest.approx(mixture.energy)
    for i, row in enumerate(insight.tasks):
        assert row.drop_cost == pytest.approx(found.drop_cost[i])
        change = drop_task(S, mixture, i).weights - mixture.weights
        assert dict(row.gainers)[NAMES[int(change.argmax())]] == pytest.approx(change.max())
        assert row.helps_others == pytest.approx((lift[i].sum() - lift[i, i]) / 3)
    assert [row.search_lift for row in insight.tasks] == [0.1, -0.2, 0.3, 0.0]
    assert [row.search_lift_error for row in insight.tasks] == [0.1, 0.2, 0.3, 0.4]
    assert explain(NAMES, S, mixture, None).tasks[0].search_lift is None
    assert insight.tasks[0].covered_by[0][:2] == ("boolq-copy", pytest.approx(S[0, 1]))
    assert insight.tasks[0].cluster == insight.tasks[1].cluster
    assert sum(c.weight for c in insight.clusters) == pytest.approx(1)
    assert insight.certainty == ""
    json.dumps(insight.as_json(), allow_nan=False)


def test_a_weight_hangs_on_the_affinities_that_move_it_most(S):
    mixture = solve(S, 0.6)
    for i, row in enumerate(explain(NAMES, S, mixture, None).tasks):
        moved = {}
        for a, b in itertools.combinations(range(4), 2):
            E = np.zeros((4, 4))
            E[a, b] = E[b, a] = 1e-6
            moved[NAMES[a], NAMES[b]] = (solve(S + E, 0.6).weights - solve(S - E, 0.6).weights)[i] / 2e-6 * 0.01
        heaviest = sorted(moved, key=lambda pair: -abs(moved[pair]))[:3]
        assert {(a, b) for a, b, _ in row.hangs_on} == set(heaviest)
        for a, b, change in row.hangs_on:
            assert change == pytest.approx(moved[a, b], rel=1e-3, abs=1e-8)


def test_a_task_without_weight_says_why_and_when_it_would_enter(S):
    mixture = solve(S, 12.0)
    (nothing,) = [row for row in explain(NAMES, S, mixture, None).tasks if row.name == "mawps"]
    assert nothing.weight == 0
    assert nothing.sentence.startswith("mawps gets nothing because few tasks are like it (utility 1.05, the")
    assert "it would enter if its utility rose by" in nothing.sentence
    # It does.
    i = NAMES.index("mawps")
    u = 4 * S.mean(axis=1)
    u[i] += nothing.break_even * 1.01
    assert solve(S, 12.0, utility=u).weights[i] > 0
    u[i] -= nothing.break_even * 0.02
    assert solve(S, 12.0, utility=u).weights[i] == 0


def test_an_outlier_is_not_said_to_be_covered():
    """Five tasks are alike, and a sixth is like none of them: where only representativeness counts, it has none."""
    names, S = [*"abcde", "outlier"], np.full((6, 6), 0.6)
    S[5, :] = S[:, 5] = 0.02
    np.fill_diagonal(S, 1)
    S[0, 1] = S[1, 0] = 0.7
    (outlier,) = [row for row in explain(names, S, solve(S, 5.0), None).tasks if row.name == "outlier"]
    assert outlier.weight == 0
    assert outlier.sentence.startswith(
        "outlier gets nothing because few tasks are like it (utility 1.1, the mixture's 3.48)"
    )
    # Of a copy at a small balance it is the likeness.
    S = np.array([[1, 0.76, 0.75], [0.76, 1, 0.2], [0.75, 0.2, 1]])
    between = explain(["between", "a", "b"], S, solve(S, 0.1), None).tasks[0]
    assert between.sentence.startswith("between gets nothing because a (affinity 0.76) and b (affinity 0.75) already")
    own = explain(names[:3], np.eye(3) + 0.0, solve(np.eye(3), 2.0, utility=np.array([3.0, 3.0, 0.0])), None).tasks[2]
    assert own.sentence.startswith("c gets nothing because it is of little use (utility 0, the mixture's 3)")


@pytest.mark.parametrize("case", ["a limit of 0", "one task is free", "no balance"])
def test_what_has_no_number_is_null_and_not_infinity(S, case):
    """Neither rise of utility nor novelty is known; strict readers of JSON (jq, JavaScript) refuse infinities."""
    S = np.array([[1, 0.85, 0.85, 0.2], [0.85, 1, 0.6, 0.2], [0.85, 0.6, 1, 0.2], [0.2, 0.2, 0.2, 1]])
    if case == "a limit of 0":
        mixture = solve(S, 0.6, upper=[0, 1, 1, 1])
    else:
        mixture = solve(S, 0.0 if case == "no balance" else 60.0)
    insight = explain(NAMES, S, mixture, None)
    json.dumps(insight.as_json(), allow_nan=False)
    if case == "one task is free":
        (only,) = [row for row in insight.tasks if row.weight > 0]
        assert only.novelty is None
        assert only.break_even == 0
        assert all(row.break_even > 0 for row in insight.tasks if row is not only)
    else:
        assert insight.tasks[0].weight == 0
        assert insight.tasks[0].break_even is None
        assert insight.tasks[0].novelty == pytest.approx(influence(S, mixture).novelty[0])
        assert "if its utility rose" not in insight.tasks[0].sentence


def test_a_task_with_weight_says_what_it_costs_to_lose_it(S):
    (row,) = [row for row in explain(NAMES, S, solve(S, 0.6), None).tasks if row.name == "boolq"]
    assert row.sentence.startswith("boolq gets ")
    assert "; without it the least energy would be " in row.sentence
    assert "its share would go to boolq-copy" in row.sentence


def test_what_constraints_hold_in_cannot_be_dropped(S):
    mixture = solve(S, 0.6, upper=0.3)
    assert explain(NAMES, S, mixture, None).tasks[2].sentence.endswith("the constraints do not let it go.")


def test_a_mixture_whose_tasks_are_all_on_bounds_is_explained(S):
    rows = explain(NAMES, S, solve(S, 60.0, upper=0.5), None).tasks
    assert [row.weight for row in rows] == [0.5, 0.5, 0, 0]
    assert all(row.hangs_on == () for row in rows)
    assert rows[0].sentence.startswith("boolq gets 50.0 %; without it the least energy would be ")


def test_a_task_that_a_limit_keeps_out_is_said_to_be_kept_out(S):
    rows = explain(NAMES, S, solve(S, 0.6, upper=[1, 1, 0, 1]), None).tasks
    assert rows[2].sentence == "mawps gets nothing because its limit is 0."
    few = solved_within(S, 0.6, Limits(np.zeros(4), np.ones(4), most=2), None)
    rows = explain(NAMES, S, few, None).tasks
    out = [row for row in rows if row.weight == 0]
    assert len(out) == 2
    for row in out:
        assert row.sentence == f"{row.name} gets nothing because it was not among the best 2 tasks."
    # The path of these two alone is not that of the best two.
    assert all(row.enters is None and row.leaves is None for row in rows)
