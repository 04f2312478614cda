import hypothesis.strategies as st
import numpy as np
import pytest
from families import gap
from hypothesis import given

from taskpgm_ray.mrf.energy import direction, duality_gap, product


@given(st.integers(1, 60), st.sampled_from(["none", "box", "half"]), st.integers(0, 10_000), st.integers(-6, 6))
def test_the_gap_is_the_knapsack_filled_task_by_task(n, bounds, seed, exponent):
    rng = np.random.default_rng(seed)
    low, high = np.zeros(n), np.ones(n)
    if bounds != "none":
        low = rng.uniform(0, 1, size=n) / n
        high = np.minimum(low + (2.0 / n if bounds == "box" else np.where(rng.random(n) < 0.5, 1.0, 2.0 / n)), 1.0)
    b = rng.normal(size=n) * 10.0**exponent
    S = np.zeros((n, n))
    # Not only optimal mixtures have a gap; ties are common.
    p = low + (1 - low.sum()) * rng.dirichlet(np.ones(n))
    if rng.random() < 0.3:
        b = np.round(b, 1 - exponent)
    expected = gap(S, b, 1.0, p, low, high)
    assert duality_gap(-b, p, low, high) == pytest.approx(max(0.0, expected), abs=1e-14 * n * np.abs(b).max())


@pytest.mark.parametrize("held", [0, 1, 9, 10, 11, 40])
def test_the_product_reads_the_rows_that_have_weight(held):
    rng = np.random.default_rng(held)
    A = rng.normal(size=(40, 40))
    p = np.zeros(40)
    p[rng.permutation(40)[:held]] = rng.normal(size=held)
    np.testing.assert_allclose(product(A + A.T, p), (A + A.T) @ p, atol=1e-14 * 40)


def test_the_direction_from_row_sums_is_that_from_the_matrix():
    A = np.random.default_rng(0).normal(size=(9, 9))
    np.testing.assert_array_equal(direction(A, None, None, A.sum(axis=1)), A.mean(axis=1))
    np.testing.assert_array_equal(direction(A, None, None), A.mean(axis=1))
