import numpy as np
import pytest
from families import FAMILIES

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import (
    add_task,
    bootstrap,
    clusters,
    energy_sensitivity,
    group_jackknife,
    infinitesimal_jackknife,
    influence,
    leave_one_out,
    pair_redundancy,
    solve,
    weight_sensitivity,
)


def case(seed=0, n=14, tau=8.0, **kw):
    S = FAMILIES["jsd_kernel"](n, np.random.default_rng(seed))
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


def test_break_even_utility_lets_a_task_in():
    S, m = case(utility=np.linspace(0.2, 1, 14))
    t = influence(S, m)
    i = int(np.argmax(t.break_even))
    u = m.utility.copy()
    u[i] += t.break_even[i] * 0.999
    assert solve(S, m.tau, utility=u).weights[i] == 0
    u[i] = m.utility[i] + t.break_even[i] * 1.01
    assert solve(S, m.tau, utility=u).weights[i] > 0


@pytest.mark.parametrize("kw", VARIANTS)
def test_sensitivities_against_finite_differences(kw):
    S, m = case(1, **kw)
    table = energy_sensitivity(S, m)
    i, j = m.support[:2]
    out = int(np.flatnonzero(m.weights == 0)[0])
    h = 1e-6
    for a, b in ((i, j), (i, i), (i, out)):
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


def test_clusters_find_blocks():
    S = np.kron(np.eye(3), np.full((2, 2), 0.9)) + 0.1 * np.eye(6)
    c = clusters(S, solve(S, 1.0).weights, count=3)
    assert c.label[0] == c.label[1] != c.label[2]
    np.testing.assert_allclose(c.mass, 1 / 3)
    assert len(clusters(S, np.full(6, 1 / 6), distance=0.01).mass) == 6
    with pytest.raises(InputError, match="exactly one"):
        clusters(S, np.full(6, 1 / 6))


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0, 1.5, 5.0])
def test_adding_a_task_equals_a_fresh_solution(tau):
    methods = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        S = FAMILIES["jsd_kernel"](15, rng)
        old = solve(S[:14, :14], tau)
        new = add_task(S, old)
        methods.add(new.method)
        np.testing.assert_allclose(new.weights, solve(S, tau).weights, atol=1e-12)
        u = rng.normal(size=15)
        with_u = add_task(S, solve(S[:14, :14], tau, utility=u[:14]), utility=u[14])
        np.testing.assert_allclose(with_u.weights, solve(S, tau, utility=u).weights, atol=1e-11)
    assert "bordered update" in methods
    with pytest.raises(InputError, match="one more than"):
        add_task(S[:14, :14], old)
    with pytest.raises(InputError, match="exactly when"):
        add_task(S, old, utility=1.0)


def sampled(n=8, examples=400, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    # Each example sees the tasks in its own metric, so that every divergence is of negative type.
    metric = rng.gamma(1.0, size=(examples, 3))
    return 0.05 * np.einsum("ijx,ex->eij", (X[:, None] - X[None]) ** 2, metric)


def test_uncertainties_agree_with_each_other():
    d, gamma, tau = sampled(), 4.0, 1.1
    S = np.exp(-gamma * d.mean(0))
    m = solve(S, tau)
    ij = infinitesimal_jackknife(S, m, d, gamma=gamma)
    boot = bootstrap(m, d, gamma=gamma, replicates=150, seed=1)
    left = np.array([np.exp(-gamma * np.delete(d, g, axis=0).mean(0)) for g in np.array_split(np.arange(400), 20)])
    jack = group_jackknife(left, m)
    sure = boot.inclusion >= 0.99
    assert sure.sum() >= 3
    for other in (boot, jack):
        ratio = ij.standard_errors[sure] / other.standard_errors[sure]
        assert ((ratio > 0.6) & (ratio < 1.7)).all()
    low, high = ij.interval()
    assert ((low <= m.weights) & (m.weights <= high)).all()
    low, high = boot.percentile_interval()
    assert (low[sure] <= m.weights[sure]).all()
    assert (m.weights[sure] <= high[sure]).all()
    i, j = np.flatnonzero(sure)[:2]
    z, p = ij.difference(i, j)
    V = ij.covariance
    assert z == pytest.approx((m.weights[i] - m.weights[j]) / np.sqrt(V[i, i] + V[j, j] - 2 * V[i, j]))
    assert 0 <= p <= 1
    assert ij.mass(np.arange(8))[1] == pytest.approx(0, abs=1e-8)
    assert np.isnan(ij.difference(0, 0)[0])
    with pytest.raises(InputError, match=r"not exp\(-gamma D\)"):
        infinitesimal_jackknife(S, m, d, gamma=3.0)


def test_influence_function_is_the_derivative_by_example_weights():
    d, gamma, tau = sampled(examples=40, seed=3), 4.0, 1.1
    w = np.full(40, 1 / 40)
    m = solve(np.exp(-gamma * d.mean(0)), tau)
    h = 1e-5
    moved = []
    for e in range(40):
        v = (1 - h) * w
        v[e] += h
        moved.append((solve(np.exp(-gamma * np.tensordot(v, d, axes=1)), tau).weights - m.weights) / h)
    moved = np.array(moved)
    expected = 40 / 39 * (moved / 40).T @ (moved / 40)
    found = infinitesimal_jackknife(np.exp(-gamma * d.mean(0)), m, d, gamma=gamma).covariance
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
