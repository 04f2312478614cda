from itertools import combinations

import numpy as np
import pytest
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import select, solve


def instances():
    for family in ("jsd_kernel", "gram", "gaussian"):
        for n, k in ((10, 3), (12, 4), (14, 5)):
            for tau in (0.5, 1.0, 2.0):
                for seed in range(4):
                    yield family, n, k, tau, seed


def brute_force(S, k, tau):
    """Smallest energy over all k-subsets: stationary points of all supports of size <= k that are feasible."""
    n = len(S)
    b = S.mean(axis=1)
    best = np.inf
    for size in range(1, k + 1):
        A = np.array(list(combinations(range(n), size)))
        K = np.zeros((len(A), size + 1, size + 1))
        K[:, :size, :size] = S[A[:, :, None], A[:, None, :]]
        K[:, size, :size] = K[:, :size, size] = 1
        rhs = np.concatenate([tau * b[A], np.ones((len(A), 1))], axis=1)
        p = np.linalg.solve(K, rhs[..., None])[:, :size, 0]
        ok = (p >= 0).all(axis=1)
        e = np.einsum("ci,cij,cj->c", p, K[:, :size, :size], p) / 2 - tau * (b[A] * p).sum(1)
        best = min(best, e[ok].min(initial=np.inf))
    return best


def test_quality_and_guarantee():
    optimal = total = 0
    for family, n, k, tau, seed in instances():
        S = FAMILIES[family](n, np.random.default_rng([n, seed, len(family)]))
        s = select(S, k, tau)
        best = brute_force(S, k, tau)
        assert len(s.tasks) <= k
        assert s.energy >= best - 1e-11
        assert s.energy <= s.greedy_energy + 1e-13
        # F(A) - F(A_1) >= guarantee * (F* - F(A_1)) with F = -energy, for plain greedy already.
        assert s.singleton_energy - s.greedy_energy >= s.guarantee * (s.singleton_energy - best) - 1e-12
        full = solve(S, tau)
        assert s.energy - s.gap <= full.energy + 1e-12
        optimal += s.energy <= best + 1e-10
        total += 1
    assert total >= 100
    assert optimal >= 0.8 * total, f"{optimal} of {total}"


@settings(max_examples=30)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(2, 18), st.floats(0, 20), st.integers(0, 2**31), st.data())
def test_more_tasks_and_more_search_never_hurt(family, n, tau, seed, data):
    S = FAMILIES[family](n, np.random.default_rng(seed))
    k = data.draw(st.integers(1, n - 1))
    rounding = 1e-11 * max(1, np.abs(S).max()) * max(1, tau)
    found, more = select(S, k, tau), select(S, k + 1, tau)
    for s in (found, more):
        assert s.weights.sum() == pytest.approx(1)
        assert (s.weights >= 0).all()
        assert s.energy <= s.greedy_energy + rounding
        assert s.energy <= s.singleton_energy + rounding
        assert s.gap >= 0
        assert s.energy - s.gap <= solve(S, tau).energy + rounding
        assert s.unrestricted_energy <= s.energy + rounding
    assert len(found.tasks) <= k
    assert more.greedy_energy <= found.greedy_energy + rounding


def test_all_tasks_is_the_unrestricted_mixture_and_one_task_the_best_single():
    S = FAMILIES["gaussian"](9, np.random.default_rng(0))
    for tau in (0.0, 0.7, 3.0):
        np.testing.assert_allclose(select(S, 9, tau).weights, solve(S, tau).weights, atol=1e-9)
        one = select(S, 1, tau)
        energies = np.diag(S) / 2 - tau * S.mean(axis=1)
        assert one.energy == pytest.approx(energies.min(), abs=1e-14)
        assert one.guarantee == 0


def test_gamma_bound_is_valid():
    """The bound is below the ratio sum of single gains / joint gain, by brute force on small sets."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        n, tau = 6, (0.5, 1.0, 2.0, 3.0)[seed]
        S = FAMILIES["gram"](n, rng)
        b = S.mean(axis=1)

        def F(A, S=S, b=b, tau=tau):
            A = list(A)
            m = solve(S[np.ix_(A, A)], tau, utility=b[A] * len(A))
            return -m.energy

        gamma = select(S, 2, tau).gamma_bound
        assert 0 < gamma <= 1
        for size in (1, 2, 3):
            for A in combinations(range(n), size):
                rest = [j for j in range(n) if j not in A]
                for B in combinations(rest, 2):
                    joint = F(A + B) - F(A)
                    single = sum(F((*A, j)) - F(A) for j in B)
                    assert single >= gamma * joint - 1e-11


def test_upper_bounds_and_bad_input():
    S = FAMILIES["jsd_kernel"](8, np.random.default_rng(1))
    s = select(S, 4, 0.5, upper=0.3)
    assert s.weights.max() <= 0.3 + 1e-12
    assert s.weights.sum() == pytest.approx(1)
    assert len(s.tasks) == 4
    with pytest.raises(InputError, match="k must be"):
        select(S, 0, 1.0)
    with pytest.raises(InputError, match="k must be"):
        select(S, 9, 1.0)
    with pytest.raises(InputError, match="no 3 tasks can fill"):
        select(S, 3, 1.0, upper=0.3)


def test_lower_bounds_choose_their_tasks():
    S = FAMILIES["gram"](9, np.random.default_rng(3))
    lower = np.zeros(9)
    lower[[2, 7]] = 0.15, 0.25
    for tau in (0.0, 1.0, 4.0):
        s = select(S, 4, tau, lower=lower, upper=0.6)
        assert {2, 7} <= set(s.tasks.tolist())
        assert len(s.tasks) <= 4
        assert (s.weights >= lower).all()
        best = np.inf
        for A in combinations(np.delete(np.arange(9), [2, 7]), 2):
            upper = np.zeros(9)
            upper[[2, 7, *A]] = 0.6
            best = min(best, solve(S, tau, lower=lower, upper=upper).energy)
        assert s.energy == pytest.approx(best, abs=1e-12)
        assert s.guarantee == 0
        assert s.energy - s.gap <= solve(S, tau, lower=lower, upper=0.6).energy + 1e-12
    with pytest.raises(InputError, match="9 tasks have a positive lower bound, more than k = 3"):
        select(S, 3, 1.0, lower=0.05)
