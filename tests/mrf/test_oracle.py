"""Every solver against cvxpy with Clarabel, polished on the support that it found."""

import os

import cvxpy as cp
import numpy as np
import pytest
from families import FAMILIES, KINDS, options, smallest_on_simplex

from taskpgm_ray.mrf import path, solve

SIZES = [2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 35, 50]
TAUS = [0.0, 0.3, 1.0, 1.7, 6.0, 50.0]


def oracle(S, b, tau, low, high):
    """Clarabel, then the exact stationary point of its active set when that is optimal."""
    n = len(S)
    p = cp.Variable(n)
    # A constant added to S changes nothing on the simplex and lets cvxpy see a convex form.
    values, vectors = np.linalg.eigh(S - S.mean(0) - S.mean(0)[:, None] + S.mean())
    root = (vectors * np.sqrt(np.maximum(values, 0))).T
    linear = tau * b - S.mean(0)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(root @ p) / 2 - linear @ p), [cp.sum(p) == 1, p >= low, p <= high])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    x = np.clip(p.value, low, high)
    for threshold in (1e-4, 1e-5, 1e-6, 1e-3, 1e-7):
        free = (x > low + threshold) & (x < high - threshold)
        if not free.any():
            continue
        fixed = np.where(x <= low + threshold, low, high) * ~free
        k = int(free.sum())
        K = np.block([[S[np.ix_(free, free)], np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
        z = np.linalg.lstsq(K, np.append(tau * b[free] - (S @ fixed)[free], 1 - fixed.sum()), rcond=1e-13)[0]
        q = fixed.copy()
        q[free] = z[:k]
        g = S @ q - tau * b
        mu = g + z[k]
        good = (q >= low - 1e-12).all() and (q <= high + 1e-12).all()
        size = 1e-11 * max(1, tau) * max(np.abs(S).max(), np.abs(b).max())
        good &= (mu[(x <= low + threshold) & (low < high)] >= -size).all()
        good &= (mu[x >= high - threshold] <= size).all()
        if good:
            return q, True
    return x / x.sum(), False


def cases():
    for f, family in enumerate(FAMILIES):
        for k, kind in enumerate(KINDS):
            for s, n in enumerate(SIZES):
                yield family, kind, n, TAUS[(f + k + s) % len(TAUS)]


LARGE = [("jsd_kernel", "plain", 300, 0.3), ("gaussian", "upper", 200, 6.0), ("gram", "target", 150, 1.7)]


@pytest.mark.parametrize("family", FAMILIES)
def test_against_polished_clarabel(family):
    compared = 0
    for name, kind, n, tau in [*cases(), *LARGE]:
        if name == family:
            compared += compare(name, kind, n, tau)
    assert compared >= 40


def compare(family, kind, n, tau):
    rng = np.random.default_rng([list(FAMILIES).index(family), KINDS.index(kind), n])
    S = FAMILIES[family](n, rng)
    kw = options(kind, n, rng)
    low, high = np.broadcast_to(kw.get("lower", 0.0), n), np.broadcast_to(kw.get("upper", 1.0), n)
    u = kw.get("utility")
    b = u / n if u is not None else S @ kw.get("target", np.full(n, 1 / n))
    expected, polished = oracle(S, b, tau, low, high)
    size = max(1, np.abs(S).max(), np.abs(b).max()) * max(1, tau)
    sharp = smallest_on_simplex(S) >= 1e-6 * np.abs(S).max()
    energy = lambda p: p @ S @ p / 2 - tau * b @ p  # noqa: E731
    m = solve(S, tau, **kw)
    assert m.gap <= 1e-12 * size
    traced = (
        path(S, **kw)
        if n <= 20 or (n <= 60 and sharp)
        else path(S, tau_min=max(0, tau - 0.05), tau_max=tau + 0.05, **kw)
    )
    for found in (m.weights, traced.at(tau)):
        assert energy(found) <= energy(expected) + 1e-9 * size
        if polished and sharp:
            np.testing.assert_allclose(found, expected, atol=1e-9)
        elif polished:
            assert abs(energy(found) - energy(expected)) <= 1e-10 * size
            if family == "negative_distance":
                return 1  # only PSD on 1-perp: at tau = 1 neither b'p nor p'Sp is unique
            root = np.sqrt(size)
            assert tau * abs(b @ (found - expected)) <= 1e-6 * root * max(1, tau)
            assert abs(found @ S @ found - expected @ S @ expected) <= 1e-5 * size
    return 1


def test_the_sweep_is_large_enough():
    assert len(list(cases())) >= 500
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
