"""The mixture of a few tasks, and the bounds that make selection lazy, against ``solve``."""

import numpy as np
import pytest
from families import FAMILIES, KINDS, options

from taskpgm_ray.mrf import select, solve
from taskpgm_ray.mrf.solvers.problem import build
from taskpgm_ray.mrf.solvers.subset import evaluate

TAUS = (0.0, 0.3, 1.0, 2.0, 7.0, 50.0)


def problem(family, n, kind, seed=0):
    rng = np.random.default_rng([list(FAMILIES).index(family), KINDS.index(kind), n, seed])
    S = FAMILIES[family](n, rng)
    kw = options(kind, n, rng)
    return S, kw, build(S, kw.get("utility"), kw.get("target"), kw.get("lower"), kw.get("upper"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_tasks_have_the_energy_of_solve(family, kind):
    for n in (2, 3, 8, 36):
        S, kw, whole = problem(family, n, kind)
        for tau in TAUS:
            found = evaluate(whole, tau, list(range(n)))
            assert abs(found.energy - solve(S, tau, **kw).energy) <= 1e-12 * whole.scale(tau)
            assert found.weights.sum() == pytest.approx(1, abs=1e-12)
            assert (found.weights >= whole.lower).all()
            assert (found.weights <= whole.upper).all()


@pytest.mark.parametrize(
    ("family", "n", "k", "kind", "tau", "seed"),
    [
        ("nearly_singular", 29, 28, "plain", 1.0, 920333007),
        ("near_duplicates", 26, 25, "target", 1.0, 846562239),
        ("negative_distance", 39, 39, "plain", 1.0, 1380340906),
        ("duplicates", 14, 5, "utility", 50.0, 1117097211),
        ("duplicates", 3, 3, "utility", 1.2, 1565129437),
    ],
)
def test_selection_from_singular_matrices(family, n, k, kind, tau, seed):
    """Where a double-precision inverse of the chosen tasks is of no use, the gap says so and ``optimum`` takes over."""
    rng = np.random.default_rng(seed)
    S = FAMILIES[family](n, rng)
    kw = options(kind, n, rng)
    found, full = select(S, k, tau, **kw), solve(S, tau, **kw)
    rounding = 1e-12 * max(1.0, np.abs(S).max(), np.abs(kw.get("utility", 0)).max()) * max(1.0, tau)
    assert found.energy >= full.energy - rounding
    assert found.energy - found.gap <= full.energy + rounding
    if k == n:
        assert found.energy <= full.energy + 1e-9


def test_mixtures_that_leave_no_choice():
    S = FAMILIES["gram"](4, np.random.default_rng(0))
    lower = np.array([0.0, 0.4, 0.6, 0.0])
    state = evaluate(build(S, lower=lower), 2.0, [0, 1, 2])
    assert state.weights.tolist() == lower.tolist()
    assert set(state.free) <= set(state.members)
    assert select(S, 2, 2.0, lower=lower).tasks.tolist() == [1, 2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["plain", "upper", "utility"])
def test_bounds_of_additions_and_exchanges_hold(family, kind):
    rng = np.random.default_rng(1)
    n, additions, attained, exchanges = 11, 0, 0, 0
    for seed, tau in enumerate((0.0, 0.5, 1.0, 2.0, 5.0)):
        _, _, whole = problem(family, n, kind, seed)
        rounding = 1e-12 * whole.scale(tau)
        tasks = np.argsort(-whole.upper * rng.uniform(0.5, 1, size=n))[: n - 5]
        if whole.upper[tasks].sum() < 1.05:
            continue
        state = evaluate(whole, tau, tasks.tolist())
        outside = [j for j in range(n) if j not in state.members]
        bound, exact = state.gains()
        for j in outside:
            saved = state.energy - evaluate(whole, tau, [*state.members, j], state).energy
            assert -rounding <= saved <= bound[j] + rounding
            assert not exact[j] or abs(saved - bound[j]) <= rounding
            additions += bound[j] > 0
            attained += exact[j]
        table, valid = state.exchange_gains()
        for row in np.flatnonzero(valid):
            rest = [m for m in state.members if m != state.members[row]]
            if whole.upper[rest].sum() < 1:
                continue
            start = state.without(state.members[row])
            for j in outside:
                found = evaluate(whole, tau, [*rest, j], start)
                assert state.energy - found.energy <= table[row, j] + rounding
                assert abs(found.energy - evaluate(whole, tau, [*rest, j]).energy) <= rounding
                exchanges += 1
    assert additions > 0
    if kind == "plain" and family in ("gram", "gaussian", "jsd_kernel"):
        assert attained > 0
        assert exchanges > 0
