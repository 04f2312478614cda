"""The swept matrix: every block equals what the bordered inverse says, in both arithmetics."""

import numpy as np
import pytest
from families import FAMILIES

from taskpgm_ray.mrf.solvers import extended, tableau
from taskpgm_ray.numerics.double_double import widened


def blocks(S, free):
    """T of the free tasks by definition: -K^-1, K^-1 [S_AC; 1], and the rest's Schur complement."""
    n = len(S)
    K = np.block([[S, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    inside = [*free, n]
    rest = [i for i in range(n) if i not in free]
    inverse = np.linalg.inv(K[np.ix_(inside, inside)])
    T = np.empty((n + 1, n + 1))
    T[np.ix_(inside, inside)] = -inverse
    T[np.ix_(inside, rest)] = inverse @ K[np.ix_(inside, rest)]
    T[np.ix_(rest, inside)] = T[np.ix_(inside, rest)].T
    T[np.ix_(rest, rest)] = K[np.ix_(rest, rest)] - K[np.ix_(rest, inside)] @ inverse @ K[np.ix_(inside, rest)]
    return T


@pytest.mark.parametrize("family", ["gram", "gaussian", "jsd_kernel", "negative_distance"])
def test_tableau_after_many_exchanges(family):
    rng = np.random.default_rng(3)
    S = FAMILIES[family](30, rng)
    if family == "negative_distance":
        S = S[:12, :12]
    n = len(S)
    found = tableau.single(S, 4)
    free, c = [4], np.empty(n + 1)
    for _ in range(3 * tableau.PANEL):
        j = int(rng.integers(n))
        if free == [j]:
            continue
        if found.used[0] == tableau.PANEL:
            tableau.update(found)
        tableau.column(found, j, c)
        tableau.exchange(found, j, c)
        free = [i for i in free if i != j] if j in free else [*free, j]
        tableau.column(found, (j + 1) % n, c)
        expected = blocks(S, sorted(free))
        np.testing.assert_allclose(c, expected[(j + 1) % n], atol=1e-9 * np.abs(expected).max())
    tableau.update(found)
    np.testing.assert_allclose(found.T, expected, atol=1e-9 * np.abs(expected).max())


def test_free_builds_the_same_and_refuses_dependent_tasks():
    S = FAMILIES["gaussian"](60, np.random.default_rng(4))
    tasks = np.arange(0, 60, 1)[:55]
    found = tableau.free(S, tasks, 1e-12)
    expected = blocks(S, list(tasks))
    np.testing.assert_allclose(found.T, expected, atol=1e-8 * np.abs(expected).max())
    twice = S[np.ix_([0, 1, 2, 0], [0, 1, 2, 0])]
    assert tableau.free(twice, np.arange(4), 1e-12) is None


def test_extended_tableau_equals_the_double_one():
    S = FAMILIES["gram"](20, np.random.default_rng(5))
    T, c = widened(np.zeros((20, 20))), widened(np.zeros(20))
    extended.single(S, np.zeros(20), 0, T)
    free = [0]
    for j in (3, 7, 11, 3, 19, 2, 7):
        extended.column(T, j, c)
        extended.exchange(T, j, c)
        free = [i for i in free if i != j] if j in free else [*free, j]
    expected = blocks(S, sorted(free))[:20, :20]
    np.testing.assert_allclose(np.tril(T.high), np.tril(expected), atol=1e-12)
