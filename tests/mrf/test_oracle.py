"""Every solver against cvxpy with Clarabel, polished on the support that it found."""

from functools import cache

import cvxpy as cp
import numpy as np
import pytest
from families import FAMILIES, KINDS, centred, direction, gap, options, smallest_on_simplex

from taskpgm_ray.mrf import path, solve

SIZES = [*range(2, 13), 15, 18, 20, 25, 30, 35, 40, 50, 60]
TAUS = [0.0, 0.3, 0.9, 1.0, 1.1, 1.7, 6.0, 50.0]
LARGE = [
    (family, kind, n, tau)
    for family, n in (
        ("jsd_kernel", 300),
        ("gaussian", 200),
        ("gram", 300),
        ("low_rank", 120),
        ("near_duplicates", 150),
    )
    for kind, tau in zip(KINDS, (0.3, 6.0, 1.7, 0.0, 50.0), strict=True)
]


def cases(family):
    index = list(FAMILIES).index(family)
    for k, kind in enumerate(KINDS):
        for s, n in enumerate(SIZES):
            for repeat in range(2):
                yield kind, n, TAUS[(index + k + s + 3 * repeat) % len(TAUS)], repeat
    yield from ((kind, n, tau, 0) for name, kind, n, tau in LARGE if name == family)


def oracle(S, b, tau, low, high):
    """Clarabel, then the exact stationary point of its active set when that is optimal."""
    n = len(S)
    p = cp.Variable(n)
    # A constant added to S changes nothing on the simplex and lets cvxpy see a convex form.
    values, vectors = np.linalg.eigh(centred(S))
    root = (vectors * np.sqrt(np.maximum(values, 0))).T
    linear = tau * b - S.mean(0)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(root @ p) / 2 - linear @ p), [cp.sum(p) == 1, p >= low, p <= high])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    x = np.clip(p.value, low, high)
    for threshold in (1e-4, 1e-5, 1e-6, 1e-3, 1e-7, 1e-8):
        free = (x > low + threshold) & (x < high - threshold)
        if not free.any():
            continue
        fixed = np.where(x <= low + threshold, low, high) * ~free
        k = int(free.sum())
        K = np.block([[S[np.ix_(free, free)], np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
        z = np.linalg.lstsq(K, np.append(tau * b[free] - (S @ fixed)[free], 1 - fixed.sum()), rcond=1e-13)[0]
        q = fixed.copy()
        q[free] = z[:k]
        q = np.clip(q, low, high)
        size = max(1, tau) * max(np.abs(S).max(), np.abs(b).max())
        if abs(q.sum() - 1) <= 1e-12 and gap(S, b, tau, q, low, high) <= 1e-12 * size:
            return q, True
    return x / x.sum(), False


@cache
def comparisons(family):
    """Compare every case of a family -> (cases, polished, polished with the weights determined to 1e-9)."""
    done = np.zeros(3, dtype=int)
    for kind, n, tau, repeat in cases(family):
        rng = np.random.default_rng([list(FAMILIES).index(family), KINDS.index(kind), n, repeat])
        S = FAMILIES[family](n, rng)
        kw = options(kind, n, rng)
        done += compare(S, kw, tau)
    return done


def compare(S, kw, tau):
    n = len(S)
    low, high = np.broadcast_to(kw.get("lower", 0.0), n), np.broadcast_to(kw.get("upper", 1.0), n)
    b = direction(S, kw)
    expected, polished = oracle(S, b, tau, low, high)
    largest = max(np.abs(S).max(), np.abs(b).max())
    size = max(1.0, largest * max(1, tau))
    sharp = polished and smallest_on_simplex(S) >= 1e-6 * np.diag(S).max() and smallest_on_simplex(S) > 0
    energy = lambda p: p @ S @ p / 2 - tau * b @ p  # noqa: E731
    C = centred(S)
    solved = solve(S, tau, **kw)
    traced = path(S, **kw)
    assert solved.gap <= 1e-12 * size
    assert (traced.gap <= 1e-12 * np.maximum(1.0, largest * np.maximum(1, traced.tau))).all()
    for found in (solved.weights, traced.at(tau)):
        assert abs(found.sum() - 1) <= 1e-14 * n
        assert (found >= low).all()
        assert (found <= high).all()
        assert gap(S, b, tau, found, low, high) <= 1e-12 * size
        assert energy(found) <= energy(expected) + 2e-12 * size
        if sharp:
            np.testing.assert_allclose(found, expected, atol=1e-9)
        elif polished:
            assert energy(found) >= energy(expected) - 2e-12 * size
            # |d|_S^2 / 2 <= difference of energies, and |C d| <= |C|^(1/2) |d|_S.
            far = np.sqrt(2 * 2e-12 * size * np.linalg.norm(C, 2))
            assert np.abs(C @ (found - expected)).max() <= far
            if "utility" not in kw and np.linalg.eigvalsh(S)[0] > -1e-10:
                assert abs(b @ (found - expected)) <= far
    return np.array([1, polished, sharp])


@pytest.mark.parametrize("family", FAMILIES)
def test_against_polished_clarabel(family):
    done, polished, _ = comparisons(family)
    assert done >= 200
    assert polished >= 0.7 * done


def test_the_sweep_is_large_enough():
    done, polished, sharp = sum(comparisons(family) for family in FAMILIES)
    assert done >= 1600
    assert polished >= 1300
    assert sharp >= 500
