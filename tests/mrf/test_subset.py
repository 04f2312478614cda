"""The mixture of a few tasks, and the bounds that make selection lazy, against ``solve``."""

import numpy as np
import pytest
from families import FAMILIES, KINDS, options

from taskpgm_ray.mrf import solve
from taskpgm_ray.mrf.problem import build
from taskpgm_ray.mrf.subset import evaluate

TAUS = (0.0, 0.3, 1.0, 2.0, 7.0, 50.0)


def problem(family, n, kind, seed=0):
    rng = np.random.default_rng([list(FAMILIES).index(family), KINDS.index(kind), n, seed])
    S = FAMILIES[family](n, rng)
    kw = options(kind, n, rng)
    return S, kw, build(S, kw.get("utility"), kw.get("target"), kw.get("lower"), kw.get("upper"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_tasks_have_the_energy_of_solve(family, kind):
    for n in (2, 3, 8, 25):
        S, kw, whole = problem(family, n, kind)
        for tau in TAUS:
            found = evaluate(whole, tau, list(range(n)))
            assert abs(found.energy - solve(S, tau, **kw).energy) <= 1e-12 * whole.scale(tau)
            assert found.weights.sum() == pytest.approx(1, abs=1e-12)
            assert (found.weights >= whole.lower).all()
            assert (found.weights <= whole.upper).all()


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
