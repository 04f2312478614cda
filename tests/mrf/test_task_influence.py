import numpy as np
import pytest
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import (
    Group,
    drop_task,
    energy_sensitivity,
    group_jackknife,
    influence,
    leave_one_out,
    pair_redundancy,
    solve,
    solve_grouped,
    weight_sensitivity,
)


def case(seed=0, n=14, tau=8.0, family="jsd_kernel", **kw):
    S = FAMILIES[family](n, np.random.default_rng(seed))
    return S, solve(S, tau, **kw)


VARIANTS = [{}, {"utility": np.linspace(0.2, 1, 14)}, {"target": np.arange(1, 15) / 105}, {"upper": 0.15}]


@pytest.mark.parametrize("kw", VARIANTS)
def test_shares_and_slopes(kw):
    S, m = case(**kw)
    t = influence(S, m)
    assert t.representativeness.sum() + t.redundancy.sum() == pytest.approx(m.energy, abs=1e-13)
    assert t.tilt.sum() == pytest.approx(0, abs=1e-12)
    h = 1e-5
    change = (solve(S, m.tau + h, **kw).weights - solve(S, m.tau - h, **kw).weights) / (2 * h)
    np.testing.assert_allclose(t.dweight_dtau, change, atol=1e-7)
    for i in np.flatnonzero(m.weights == 0):
        assert t.reduced_cost[i] >= 0
        assert t.break_even[i] == pytest.approx(t.reduced_cost[i] * 14 / m.tau)
    for i in m.support:
        assert t.entry_tau[i] <= m.tau <= t.exit_tau[i]


@settings(max_examples=25)
@given(st.sampled_from(["gram", "gaussian", "jsd_kernel"]), st.integers(2, 12), st.floats(0, 6), st.integers(0, 2**31))
def test_derivatives_at_random_points(family, n, tau, seed):
    """By tau and by S, wherever no breakpoint lies inside the finite difference."""
    rng = np.random.default_rng(seed)
    S, m = case(seed, n=n, tau=tau, family=family)
    h = 1e-6
    E = rng.normal(size=(n, n))
    E = h * (E + E.T) / 2
    up, down = solve(S + E, tau), solve(S - E, tau)
    table = energy_sensitivity(S, m)
    assert (up.energy - down.energy) / 2 == pytest.approx((table * np.triu(E)).sum(), abs=1e-10)
    if (up.support.tolist() == m.support.tolist() == down.support.tolist()) and tau > h:
        by_S = sum(E[i, j] * weight_sensitivity(S, m, i, j) for i in range(n) for j in range(i, n))
        np.testing.assert_allclose((up.weights - down.weights) / 2, by_S, atol=1e-2 * np.abs(by_S).max() + 1e-9)
        late, early = solve(S, tau + h), solve(S, tau - h)
        if late.support.tolist() == early.support.tolist():
            slope = influence(S, m, with_path=False).dweight_dtau
            np.testing.assert_allclose((late.weights - early.weights) / (2 * h), slope, atol=1e-6)


@pytest.mark.parametrize("kw", VARIANTS)
def test_reduced_costs_are_the_price_of_forced_weight(kw):
    S, m = case(3, **kw)
    t = influence(S, m, with_path=False)
    h = 1e-6
    excluded = np.flatnonzero(m.weights == 0)
    assert len(excluded) > 0
    for i in excluded:
        lower = np.zeros(14)
        lower[i] = h
        forced = solve(S, m.tau, lower=lower, **kw)
        assert (forced.energy - m.energy) / h == pytest.approx(t.reduced_cost[i], abs=1e-5)
    for i in np.flatnonzero(m.weights >= m.upper):
        upper = m.upper.copy()
        upper[i] += h
        relaxed = solve(S, m.tau, **{**kw, "upper": upper})
        assert (relaxed.energy - m.energy) / h == pytest.approx(t.reduced_cost[i], abs=1e-5)
        assert t.reduced_cost[i] < 0


def test_weight_splits_into_diversity_and_tilt():
    S, m = case(6, tau=3.0, family="gaussian")
    t = influence(S, m, with_path=False)
    A = m.support
    k = len(A)
    assert 1 < k < 14
    K = np.block([[S[np.ix_(A, A)], np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
    np.testing.assert_allclose(t.diversity_weight[A], np.linalg.solve(K, np.append(np.zeros(k), 1))[:k], atol=1e-12)
    assert t.diversity_weight.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(t.tilt[A], 3.0 * np.linalg.solve(K, np.append(S.mean(1)[A], 0))[:k], atol=1e-12)


def test_energy_of_the_paper_moves_with_beta_and_lambda():
    """dE/d beta = -r'p and dE/d lambda = p'Sp / 2, where E = lambda * energy at tau = n beta / lambda."""
    S, _ = case(7)
    energy = lambda beta, lam: lam * solve(S, 14 * beta / lam).energy  # noqa: E731
    beta, lam, h = 0.3, 1.4, 1e-6
    m = solve(S, 14 * beta / lam)
    by_beta = (energy(beta + h, lam) - energy(beta - h, lam)) / (2 * h)
    by_lambda = (energy(beta, lam + h) - energy(beta, lam - h)) / (2 * h)
    assert by_beta == pytest.approx(-14 * m.representativeness, abs=1e-7)
    assert by_lambda == pytest.approx(m.redundancy / 2, abs=1e-7)


def test_entry_and_exit_balances_are_where_the_support_changes():
    S, m = case(8, tau=2.0)
    t = influence(S, m)
    h = 1e-6
    compared = 0
    for i in range(14):
        if np.isfinite(t.exit_tau[i]) and t.exit_tau[i] > 0:
            assert solve(S, t.exit_tau[i] - h).weights[i] > 0
            assert solve(S, t.exit_tau[i] + h).weights[i] == 0
            compared += 1
        if t.entry_tau[i] > h:
            assert solve(S, t.entry_tau[i] - h).weights[i] == 0
            assert solve(S, t.entry_tau[i] + h).weights[i] > 0
            compared += 1
    assert compared > 10


def test_break_even_utility_lets_a_task_in():
    S, m = case(utility=np.linspace(0.2, 1, 14))
    t = influence(S, m)
    i = int(np.argmax(t.break_even))
    u = m.utility.copy()
    u[i] += t.break_even[i] * 0.999
    assert solve(S, m.tau, utility=u).weights[i] == 0
    u[i] = m.utility[i] + t.break_even[i] * 1.01
    assert solve(S, m.tau, utility=u).weights[i] > 0


def test_one_task_with_all_the_weight_is_free_and_its_price_is_that_of_mass():
    S, u = np.array([[1, 0.5, 0.1], [0.5, 1, 0.1], [0.1, 0.1, 1]]), np.array([3, 1, 0.5])
    m = solve(S, 5.0, utility=u)
    np.testing.assert_array_equal(m.weights, [1, 0, 0])
    np.testing.assert_allclose(m.multipliers, [0, 17 / 6, 49 / 15], atol=1e-14)
    assert m.energy == pytest.approx((m.nu - m.tau * m.representativeness) / 2)
    np.testing.assert_allclose(influence(S, m, with_path=False).break_even, [0, 1.7, 1.96], atol=1e-14)
    for i, rise in ((1, 1.7), (2, 1.96)):
        higher = np.eye(3)[i] * rise
        assert solve(S, 5.0, utility=u + 0.999 * higher).weights[i] == 0
        assert solve(S, 5.0, utility=u + 1.001 * higher).weights[i] > 0


def test_where_every_task_is_on_a_bound_nothing_moves():
    S, m = case(n=6, tau=1e4, upper=0.25)
    assert sorted(m.weights) == [0, 0, 0.25, 0.25, 0.25, 0.25]
    t = influence(S, m)
    for column in (t.dweight_dtau, t.tilt, t.saliency):
        np.testing.assert_array_equal(column, np.zeros(6))
    np.testing.assert_array_equal(t.novelty, np.full(6, np.inf))
    np.testing.assert_array_equal(weight_sensitivity(S, m, 0, 1), np.zeros(6))
    # What forced weight costs is taken from the task that is worth least.
    assert t.reduced_cost[m.support].max() == 0
    for i in range(6):
        if m.weights[i] == 0:
            u = 6 * S.mean(1) + 0.999 * t.break_even[i] * np.eye(6)[i]
            assert solve(S, 1e4, utility=u, upper=0.25).weights[i] == 0
            u[i] += 0.002 * t.break_even[i]
            assert solve(S, 1e4, utility=u, upper=0.25).weights[i] > 0
        assert np.isfinite(t.drop_cost[i])


def test_no_utility_lets_a_task_in_whose_limit_is_zero():
    upper = np.ones(14)
    upper[3] = 0.0
    S, m = case(upper=upper)
    t = influence(S, m)
    assert t.break_even[3] == np.inf
    assert np.isfinite(np.delete(t.break_even, 3)).all()
    assert np.isnan(t.entry_tau[3])


@pytest.mark.parametrize("kw", VARIANTS)
def test_sensitivities_against_finite_differences(kw):
    S, m = case(1, **kw)
    table = energy_sensitivity(S, m)
    i, j = m.support[:2]
    out = int(np.flatnonzero(m.weights == 0)[0])
    h = 1e-6
    other = int(np.flatnonzero(m.weights == 0)[-1])
    for a, b in ((i, j), (i, i), (i, out), (out, out), (out, other)):
        E = np.zeros_like(S)
        E[a, b] = E[b, a] = h
        up, down = solve(S + E, m.tau, **kw), solve(S - E, m.tau, **kw)
        np.testing.assert_allclose(weight_sensitivity(S, m, a, b), (up.weights - down.weights) / (2 * h), atol=1e-6)
        assert table[a, b] == pytest.approx((up.energy - down.energy) / (2 * h), abs=1e-8)


def test_drop_cost_is_exact_and_saliency_close():
    S, m = case(2)
    t = influence(S, m)
    for i in m.support:
        upper = np.ones(14)
        upper[i] = 0
        assert t.drop_cost[i] == pytest.approx(solve(S, m.tau, upper=upper).energy - m.energy, abs=1e-13)
    assert (t.drop_cost[m.weights == 0] == 0).all()
    assert (t.saliency[m.support] > 0).all()


def test_saliency_is_exact_or_a_bound_as_its_signs_say():
    """The three cases of dropping a task: exact, an upper bound (tasks enter), a lower bound (tasks leave)."""
    seen = set()
    for seed in range(40):
        S, m = case(seed, n=10, tau=(0.3, 1.0, 1.4)[seed % 3], family=("gram", "gaussian")[seed % 2])
        t = influence(S, m, with_path=False)
        A = m.support
        if len(A) < 2:
            continue
        K = np.block([[S[np.ix_(A, A)], np.ones((len(A), 1))], [np.ones((1, len(A))), np.zeros((1, 1))]])
        Q = np.linalg.inv(K)[:-1, :-1]
        for a, i in enumerate(A):
            p = np.zeros(10)
            p[A] = m.weights[A] - m.weights[i] * Q[:, a] / Q[a, a]
            p[i] = 0.0
            g = S @ p - m.tau * S.mean(1)
            rest = np.delete(A, a)
            outside = np.setdiff1d(np.arange(10), A)
            weights_fail = p[rest].min() < -1e-12
            prices_fail = len(outside) > 0 and (g[outside] - g[rest[0]]).min() < -1e-12
            difference = t.saliency[i] - t.drop_cost[i]
            if not weights_fail and not prices_fail:
                assert abs(difference) <= 1e-12
                np.testing.assert_allclose(drop_task(S, m, i).weights, p, atol=1e-10)
            elif not weights_fail:
                assert difference >= -1e-12
            elif not prices_fail:
                assert difference <= 1e-12
            seen.add((bool(weights_fail), bool(prices_fail)))
    assert {(False, False), (False, True), (True, False)} <= seen


def test_dropping_a_task_and_removing_it_from_the_pool_differ():
    S, m = case(5, tau=1.2, family="gaussian")
    i = int(m.support[0])
    dropped, removed = drop_task(S, m, i), leave_one_out(S, m, i)
    rest = np.delete(np.arange(14), i)
    assert dropped.weights[i] == 0
    assert dropped.energy - m.energy == pytest.approx(influence(S, m, with_path=False).drop_cost[i], abs=1e-13)
    assert np.abs(dropped.weights[rest] - removed.weights).max() > 1e-3
    # Removal from the pool: p = w + rho Q (r_A - S_Ai) with rho = tau / (n - 1), on its own support.
    A = removed.support
    k = len(A)
    R = S[np.ix_(rest, rest)]
    K = np.block([[R[np.ix_(A, A)], np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
    r = S.sum(1)[rest][A] - S[rest, i][A]
    p = np.linalg.solve(K, np.append(m.tau / 13 * r, 1))[:k]
    np.testing.assert_allclose(removed.weights[A], p, atol=1e-12)
    # At tau = 1 removal leaves a uniform mixture; dropping moves the weight to the dropped task's neighbours.
    uniform = solve(S, 1.0)
    np.testing.assert_allclose(leave_one_out(S, uniform, i).weights, 1 / 13, atol=1e-12)
    nearest = int(np.argmax(S[i, rest]))
    assert drop_task(S, uniform, i).weights[rest][nearest] > 1.2 / 13
    with pytest.raises(InputError, match="task must be"):
        drop_task(S, m, -1)


def test_novelty_is_the_distance_from_the_affine_hull():
    S, m = case(3)
    t = influence(S, m)
    A = m.support
    for j in (int(np.flatnonzero(m.weights == 0)[0]), int(A[0])):
        rest = A[j != A]
        k = len(rest)
        K = np.block([[S[np.ix_(rest, rest)], np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
        x = np.linalg.solve(K, np.append(S[rest, j], 1))[:k]
        assert t.novelty[j] == pytest.approx(S[j, j] - 2 * x @ S[rest, j] + x @ S[np.ix_(rest, rest)] @ x, abs=1e-12)


def test_clones_cost_nothing_to_drop():
    S, _ = case(4)
    index = [*range(14), 0]
    T = S[np.ix_(index, index)]
    t = influence(T, solve(T, 0.5))
    assert t.drop_cost[0] == t.drop_cost[14] == 0


def test_leave_one_out_and_pairs():
    S, m = case(5)
    i = int(m.support[0])
    rest = np.delete(np.arange(14), i)
    np.testing.assert_array_equal(leave_one_out(S, m, i).weights, solve(S[np.ix_(rest, rest)], m.tau).weights)
    assert pair_redundancy(S, m).sum() == pytest.approx(m.redundancy / 2)
    with pytest.raises(InputError, match="not the matrix of this mixture"):
        influence(S + np.diag(np.arange(14)), m)
    with pytest.raises(InputError, match="task must be"):
        leave_one_out(S, m, 14)
    rows = influence(S, m).rows([f"t{k}" for k in range(14)])
    assert rows[0]["weight"] == m.weights.max()


def test_where_groups_are_tied_together_nothing_is_said_of_single_tasks():
    S, _ = case(n=6)
    m = solve_grouped(S, 0.5, [Group(np.array([0, 1]), 0.6, 1.0)])
    for asked in (lambda: influence(S, m), lambda: drop_task(S, m, 0), lambda: group_jackknife([S, S], m)):
        with pytest.raises(InputError, match="not known where groups of tasks are tied together"):
            asked()
