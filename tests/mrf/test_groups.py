"""Mixtures under limits of groups: against an independent convex solver, with certificates that hold."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import Group, Limits, certificate, solve, solve_grouped


def problem(seed, n):
    """A random problem with a feasible set that is not empty: (S, tau, lower, upper, groups)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n + 2))
    S = X @ X.T / n
    lower = np.full(n, rng.uniform(0, 0.5) / n)
    upper = np.minimum(1, lower + rng.uniform(1.2, 6) / n)
    inside = solve(np.eye(n), 0.0, lower=lower, upper=upper).weights
    groups = []
    for _ in range(int(rng.integers(1, 5))):
        members = np.sort(rng.choice(n, size=int(rng.integers(1, max(2, n // 2) + 1)), replace=False))
        share, kind = inside[members].sum(), rng.integers(4)
        low = 0.0 if kind == 1 else max(0.0, share - rng.uniform(0, 0.05))
        high = 1.0 if kind == 0 else min(1.0, share + rng.uniform(0, 0.05))
        groups.append(Group(members, share, share) if kind == 3 else Group(members, low, high))
    return S, float(rng.choice([0, 0.3, 1, 2, 10])), lower, upper, groups


def oracle(S, tau, lower, upper, groups):
    n = len(S)
    x = cp.Variable(n)
    kept = [cp.sum(x) == 1, x >= lower, x <= upper]
    for group in groups:
        share = cp.sum(x[group.members])
        kept += [share >= group.low, share <= group.high]
    root = np.linalg.cholesky(S + 1e-13 * np.eye(n)).T
    cp.Problem(cp.Minimize(cp.sum_squares(root @ x) / 2 - tau * S.mean(1) @ x), kept).solve(
        solver=cp.CLARABEL, tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13
    )
    return x.value


@pytest.mark.parametrize("seed", range(60))
def test_an_independent_solver_finds_the_same(seed):
    n = int(np.random.default_rng(seed).integers(3, 60))
    S, tau, lower, upper, groups = problem(seed, n)
    found = solve_grouped(S, tau, groups, lower=lower, upper=upper)
    np.testing.assert_allclose(found.weights, oracle(S, tau, lower, upper, groups), atol=1e-7)
    assert found.gap <= 1e-12 * max(1, tau) * max(1, np.abs(S).max())
    energy, gap = certificate(S, tau, found.weights, lower=lower, upper=upper, groups=groups)
    assert energy == pytest.approx(found.energy)
    assert gap <= 1e-12 * max(1, tau) * max(1, np.abs(S).max())


@settings(max_examples=100)
@example(1219, 3)
@example(23257, 4)
@example(23593, 3)
@given(st.integers(0, 10**6), st.integers(3, 30))
def test_every_limit_is_kept_and_the_certificate_bounds_every_other_mixture(seed, n):
    S, tau, lower, upper, groups = problem(seed, n)
    found = solve_grouped(S, tau, groups, lower=lower, upper=upper)
    p = found.weights
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert (p >= lower - 1e-14).all()
    assert (p <= upper + 1e-14).all()
    for group in groups:
        assert group.low - 1e-11 <= p[group.members].sum() <= group.high + 1e-11
    # Another feasible mixture: the best one of another problem under the same limits.
    other = solve_grouped(np.eye(n), 0.0, groups, lower=lower, upper=upper).weights
    energy, gap = certificate(S, tau, other, lower=lower, upper=upper, groups=groups)
    assert found.energy <= energy + 1e-12 * max(1, tau)
    assert energy - gap <= found.energy + 1e-10 * max(1, tau) * np.abs(S).max()


def test_tasks_that_are_the_same_share_what_their_group_gets():
    S = np.eye(4)
    S[:2, :2] = 1.0
    found = solve_grouped(S, 0.0, [Group(np.array([0, 1, 2]), 0.9, 1.0)])
    np.testing.assert_allclose(found.weights, [0.225, 0.225, 0.45, 0.1], atol=1e-9)


def test_groups_that_say_the_same_twice_or_partition_the_pool():
    S = np.eye(4) + 0.1
    halves = [Group(np.array([0, 1]), 0.7, 0.7), Group(np.array([0, 1]), 0.7, 0.7), Group(np.array([2, 3]), 0.3, 0.3)]
    found = solve_grouped(S, 1.5, halves)
    np.testing.assert_allclose(found.weights, [0.35, 0.35, 0.15, 0.15], atol=1e-12)
    assert found.gap < 1e-12


def test_a_price_says_what_a_share_would_save():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(12, 14))
    S, members, step = X @ X.T / 12, np.array([0, 3, 5]), 1e-5
    free = solve(S, 0.5).weights[members].sum()

    def at(low):
        return solve_grouped(S, 0.5, [Group(members, low, 1.0)])

    low = free + 0.1
    assert at(low).prices[0] == pytest.approx((at(low + step).energy - at(low - step).energy) / (2 * step), rel=1e-4)
    assert at(free - 0.05).prices[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("unit", [1e-10, 1e-6, 1e-4, 1e4])
def test_the_unit_of_the_affinities_changes_neither_mixture_nor_certificate(unit):
    X = np.random.default_rng(3).standard_normal((4, 4))
    S = np.exp(-((X[:, None] - X[None]) ** 2).sum(-1) / 4)
    groups = [Group(np.array([0, 1]), 0.3, 0.6), Group(np.array([1, 2]), 0.0, 0.4)]
    expected, found = solve_grouped(S, 2.0, groups), solve_grouped(unit * S, 2.0, groups)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-12)
    np.testing.assert_allclose(found.prices, unit * expected.prices, atol=1e-12 * unit)
    assert found.gap <= 1e-12 * unit


def test_where_all_weights_are_fixed_there_is_one_mixture():
    fixed = np.array([0.5, 0.3, 0.2])
    found = solve_grouped(np.eye(3), 1.0, [Group(np.array([0, 1]), 0.6, 0.9)], lower=fixed, upper=fixed)
    np.testing.assert_array_equal(found.weights, fixed)
    assert found.gap == pytest.approx(0, abs=1e-15)


def test_limits_that_cannot_be_kept_or_make_no_sense():
    with pytest.raises(InputError, match="no mixture keeps the bounds of the tasks and the limits of the groups"):
        solve_grouped(np.eye(3), 0.0, [Group(np.array([0]), 0.5, 1.0)], upper=0.4)
    with pytest.raises(InputError, match="0 <= low <= high <= 1"):
        solve_grouped(np.eye(3), 0.0, [Group(np.array([0]), 0.5, 0.2)])
    with pytest.raises(InputError, match="not all of the 3 tasks"):
        solve_grouped(np.eye(3), 0.0, [Group(np.array([3]), 0.0, 0.2)])
    with pytest.raises(InputError, match="a group's share is"):
        certificate(np.eye(3), 0.0, [1 / 3] * 3, groups=[Group(np.array([0]), 0.5, 1.0)])


@pytest.mark.parametrize("kind", ["groups", "few tasks"])
def test_a_path_with_groups_or_few_tasks_is_exact_wherever_it_is_asked(kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8, 10))
    S = X @ X.T / 8
    limits = (
        Limits(np.zeros(8), np.full(8, 0.5), groups=(Group(np.arange(3), 0.4, 0.5),))
        if kind == "groups"
        else Limits(np.zeros(8), np.full(8, 0.5), most=3)
    )
    path = limits.path(S, end=4.0)
    for tau in (0.0, 0.123456, 1.0, 3.7):
        np.testing.assert_array_equal(path.at(tau), limits.solve(S, tau))
    assert path.at([0.2, 0.4]).shape == (2, 8)
    taus = path.equal_arc(5, tau_min=0.0, tau_max=4.0)
    assert len(taus) == 5
    if kind == "groups":
        assert (path.gap < 1e-11).all()
        assert all(0.4 - 1e-9 <= w[:3].sum() <= 0.5 + 1e-9 for w in path.weights)
    else:
        assert all((w > 0).sum() <= 3 for w in path.weights)
