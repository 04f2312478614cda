import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.checks import ASYMMETRY, STRIP, affinity_matrix, summed_matrix

ORDERS = (1, 2, STRIP - 1, STRIP, STRIP + 1, 2 * STRIP + 3)


def symmetric(n, seed=0, scale=1.0):
    A = np.random.default_rng(seed).normal(size=(n, n)) * scale
    return A + A.T


@pytest.mark.parametrize("n", ORDERS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_symmetric_matrix_comes_back_as_it_is_with_its_row_sums(n, order):
    S = np.asarray(symmetric(n), order=order)
    matrix, sums = summed_matrix(S)
    np.testing.assert_array_equal(matrix, S)
    assert matrix.flags.c_contiguous
    assert matrix is S or order == "F"
    # To the last bit: the direction b of the paper is their mean.
    np.testing.assert_array_equal(sums / n, np.ascontiguousarray(S).mean(axis=1))


@settings(max_examples=60)
@given(
    st.sampled_from(ORDERS[1:]), st.data(), st.sampled_from([1e-6, 1.0, 1e6]), st.sampled_from([0.1, 3.0, 1e6]),
)  # fmt: skip
def test_asymmetry_is_found_wherever_it_is(n, data, scale, times):
    i = data.draw(st.integers(0, n - 1))
    j = data.draw(st.integers(0, n - 1).filter(lambda j: j != i))
    S = symmetric(n, scale=scale)
    exact = S.copy()
    S[i, j] += times * ASYMMETRY * np.abs(S).max()
    if times > 1:
        with pytest.raises(InputError, match=r"S is not symmetric: S\[\d+, \d+\]") as raised:
            affinity_matrix(S)
        assert f"[{i}, {j}]" in str(raised.value)
    else:
        mean, sums = summed_matrix(S)
        np.testing.assert_array_equal(mean, (S + S.T) / 2)
        np.testing.assert_array_equal(sums, mean.sum(axis=1))
        assert np.abs(mean - exact).max() <= ASYMMETRY * np.abs(exact).max()


@settings(max_examples=40)
@given(st.sampled_from(ORDERS), st.data(), st.lists(st.sampled_from([np.inf, -np.inf, np.nan]), min_size=1, max_size=3))
def test_what_is_not_finite_is_found_wherever_it_is(n, data, values):
    S = symmetric(n)
    places = [(data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))) for _ in values]
    for (i, j), value in zip(places, values, strict=True):
        # Infinities of both signs may meet in one row, whose sum is then not a number.
        S[i, j] = S[j, i] = value
    first = np.argwhere(~np.isfinite(S))[0].tolist()
    with pytest.raises(InputError) as raised:
        affinity_matrix(S)
    assert f"S must be finite: entry {first} is {S[tuple(first)]}" in str(raised.value)


def test_finite_numbers_whose_sum_is_not_are_finite():
    S = np.full((3, 3), 1e308)
    np.testing.assert_array_equal(affinity_matrix(S), S)
    S[0, 1] = S[1, 0] = -1e308
    np.testing.assert_array_equal(affinity_matrix(S), S)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (1.0, r"must be a square matrix \[n, n\], got shape \(\)"),
        ([1.0, 2.0], r"got shape \(2,\)"),
        (np.zeros((2, 3)), r"got shape \(2, 3\)"),
        (np.zeros((2, 2, 2)), r"got shape \(2, 2, 2\)"),
        (np.zeros((0, 0)), "is empty"),
        (float("nan"), r"must be finite: entry \[\] is nan"),
        ([[1.0, float("nan"), 0.0]], r"must be finite: entry \[0, 1\] is nan"),
        ([["a"]], "must be an array of real numbers"),
    ],
)
def test_what_is_no_matrix_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        affinity_matrix(values)
