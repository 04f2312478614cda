"""The paper's shortcut: where it is the exact mixture, and where it is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import certificate, solve
from taskpgm_ray.mrf.paper import beside_exact, closed_form, laplacian, projected, shifted, shortcut


def kernel_of(seed, n, spread=1.0):
    X = np.random.default_rng(seed).normal(size=(n, 5)) * spread
    return np.exp(-((X[:, None] - X[None]) ** 2).sum(-1))


@given(st.integers(0, 10_000), st.integers(2, 12), st.floats(0, 1))
def test_it_is_exact_wherever_the_closed_form_has_no_negative_weight(seed, n, tau):
    S = kernel_of(seed, n)
    free = closed_form(S, tau)
    assert free.sum() == pytest.approx(1)
    if free.min() > 1e-6:
        np.testing.assert_allclose(shortcut(S, tau), solve(S, tau).weights, atol=1e-8)


def test_elsewhere_it_is_feasible_and_not_the_optimum():
    found = []
    for seed in range(20):
        S = kernel_of(seed, 10, 0.4)
        p = shortcut(S, 0.0)
        assert p.min() >= 0
        assert p.sum() == pytest.approx(1)
        found.append(certificate(S, 0.0, p)[1])
        assert found[-1] >= solve(S, 0.0).gap - 1e-12
    assert max(found) > 1e-3


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=15))
def test_the_projection_is_the_nearest_point(values):
    p = projected(values)
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1, abs=1e-9)
    v = np.array(values)
    # Moving mass between any two tasks does not bring it nearer: v - p is largest where p has mass.
    gain = v - p
    assert gain[p > 1e-9].min() >= gain.max() - 1e-9


def test_the_shift_makes_an_indefinite_matrix_definite_and_leaves_the_others_alone():
    rng = np.random.default_rng(1)
    A = rng.normal(size=(30, 30))
    S = A + A.T
    np.fill_diagonal(S, 0.0)
    made = shifted(S)
    assert np.linalg.eigvalsh(made).min() > -1e-9
    np.testing.assert_array_equal(made - np.diag(np.diag(made)), S)
    assert np.diag(made) == pytest.approx(np.full(30, -np.linalg.eigvalsh(S)[0]))
    np.testing.assert_allclose(shifted(np.eye(4)), np.eye(4), atol=1e-14)
    for tau in (0.3, 6.3, 211.0):
        assert shortcut(S, tau).sum() == pytest.approx(1)


def test_a_singular_matrix_has_no_closed_form():
    with pytest.raises(InputError, match="singular"):
        closed_form(np.zeros((3, 3)), 0.5)


def test_what_the_shortcut_costs_beside_the_exact_mixture():
    rng = np.random.default_rng(4)
    A = rng.normal(size=(40, 40))
    S = A + A.T
    np.fill_diagonal(S, 0.0)
    for tau in (0.0, 0.5, 6.3, 211.0):
        found = beside_exact(S, tau)
        np.testing.assert_allclose(found.weights, shortcut(S, tau))
        np.testing.assert_allclose(found.exact.weights, solve(shifted(S), tau).weights)
        # The certificate bounds the true excess, which is never negative.
        assert -1e-9 <= found.excess <= found.gap + 1e-9
        assert 0 <= found.distance <= 1
    assert beside_exact(S, 0.0).distance > 0.01
    even = beside_exact(np.eye(5), 0.3)
    assert even.distance == pytest.approx(0, abs=1e-9)
    assert even.excess == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 12), st.floats(1e-6, 1e6), st.floats(-100, 100))
def test_the_laplacian_charges_tasks_that_are_alike_for_unlike_shares(seed, n, scale, offset):
    rng = np.random.default_rng(seed)
    S = rng.normal(size=(n, n))
    S = S + S.T
    L, degrees = laplacian(S)
    s = S[~np.eye(n, dtype=bool)].std()
    weights = np.exp((S - S[~np.eye(n, dtype=bool)].max()) / s) if s > 0 else np.ones((n, n))
    p = rng.dirichlet(np.ones(n))
    charged = sum(weights[i, j] * (p[i] - p[j]) ** 2 for i in range(n) for j in range(i))
    assert p @ L @ p == pytest.approx(charged, abs=1e-12)
    np.testing.assert_allclose(degrees, weights.sum(1) - np.diag(weights))
    # Neither the unit of S nor what is added to all of it says anything, and the diagonal is not looked at.
    other = S * scale + offset * scale
    np.fill_diagonal(other, 7.0)
    np.testing.assert_allclose(laplacian(other)[0], L, rtol=1e-6, atol=1e-9)


@given(st.integers(0, 10_000), st.integers(2, 25), st.floats(0, 300))
def test_the_laplacians_mixtures_are_certified_and_begin_at_uniform(seed, n, tau):
    S = np.random.default_rng(seed).normal(size=(n, n)) * 5
    L, degrees = laplacian(S + S.T)
    np.testing.assert_allclose(solve(L, 0.0, utility=degrees).weights, 1 / n, atol=1e-7)
    found = solve(L, tau, utility=degrees)
    energy = found.weights @ L @ found.weights / 2 - tau / n * degrees @ found.weights
    assert found.gap <= 1e-9 * max(1.0, abs(energy))


@pytest.mark.parametrize(
    "S", [np.full((5, 5), 3.0), np.ones((1, 1)), np.eye(2)], ids=["all alike", "one task", "two tasks"]
)
def test_the_laplacian_of_tasks_that_are_all_alike_is_uniform_at_every_balance(S):
    L, degrees = laplacian(S)
    for tau in (0.0, 3.0, 200.0):
        np.testing.assert_allclose(solve(L, tau, utility=degrees).weights, 1 / len(S))


def test_the_laplacian_of_one_close_pair_among_a_thousand_tasks_does_not_overflow():
    S = np.zeros((1000, 1000))
    S[0, 1] = S[1, 0] = 1.0
    L, degrees = laplacian(S)
    assert np.isfinite(L).all()
    found = solve(L, 1.0, utility=degrees).weights
    assert found[:2].sum() == pytest.approx(found[0] * 2)
    assert found.sum() == pytest.approx(1)
