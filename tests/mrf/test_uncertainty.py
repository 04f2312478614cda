import numpy as np
import pytest

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import bootstrap, group_jackknife, infinitesimal_jackknife, solve


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


@pytest.mark.parametrize("gamma", [4.0, None])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kw", [{}, {"utility": np.linspace(0.9, 1.1, 8)}, {"upper": 0.2}])
def test_influence_function_is_the_derivative_by_example_weights(gamma, weighted, kw):
    d, tau, E = sampled(examples=30, seed=3), 1.1, 30
    w = np.random.default_rng(1).dirichlet(np.full(E, 5.0)) if weighted else np.full(E, 1 / E)

    def weights(v):
        D = np.tensordot(v, d, axes=1)
        return solve(kernel(D, gamma), tau, **kw)

    def kernel(D, gamma):
        return np.exp(-(gamma or np.log(2) / np.median(D[np.triu_indices(8, 1)])) * D)

    m = weights(w)
    h = 1e-5
    moved = np.array([(weights((1 - h) * w + h * (np.arange(E) == e)).weights - m.weights) / h for e in range(E)])
    scaled = moved * w[:, None]
    expected = E / (E - 1) * scaled.T @ scaled
    S = kernel(np.tensordot(w, d, axes=1), gamma)
    found = infinitesimal_jackknife(S, m, d, w, gamma=gamma).covariance
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert np.abs(expected).max() > 0


def test_group_jackknife_is_its_formula():
    d, tau = sampled(examples=60), 1.1
    groups = np.array_split(np.arange(60), 6)
    left = np.array([np.exp(-4 * np.delete(d, g, axis=0).mean(0)) for g in groups])
    m = solve(np.exp(-4 * d.mean(0)), tau)
    p = np.array([solve(S, tau).weights for S in left])
    expected = 5 / 6 * ((p - p.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(group_jackknife(left, m).standard_errors ** 2, expected, atol=1e-13)
    with pytest.raises(InputError, match="at least 2 groups"):
        group_jackknife(left[:1], m)


def test_bootstrap_under_the_median_rule_moves_gamma():
    d, tau = sampled(examples=100), 1.1
    off = np.triu_indices(8, 1)
    S = np.exp(-np.log(2) / np.median(d.mean(0)[off]) * d.mean(0))
    m = solve(S, tau)
    gamma = np.log(2) / np.median(d.mean(0)[off])
    frozen, moving = (bootstrap(m, d, gamma=g, replicates=60, seed=2) for g in (gamma, None))
    drawn = np.random.default_rng(2).multinomial(100, np.full(100, 0.01), size=60)[7]
    D = np.tensordot(drawn / 100, d, axes=1)
    expected = solve(np.exp(-np.log(2) / np.median(D[off]) * D), tau).weights
    np.testing.assert_allclose(moving.replicates[7], expected, atol=1e-10)
    assert np.abs(moving.replicates - frozen.replicates).max() > 1e-3
    with pytest.raises(InputError, match="median divergence is 0"):
        bootstrap(m, np.zeros_like(d))
