import hypothesis.strategies as st
import numpy as np
from families import FAMILIES
from hypothesis import given, settings

from taskpgm_ray.mrf.solvers.duplicates import find


def labels(S, b):
    """Class of each task by comparing all pairs, as the first task that it equals."""
    close = (np.abs(S[:, None] - S[None]).max(axis=-1) <= 1e-14 * np.abs(S).max()) & (
        np.abs(b[:, None] - b[None]) <= 1e-14 * np.abs(b).max()
    )
    return close.argmax(axis=1)


@settings(max_examples=150)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(2, 24), st.integers(0, 10_000), st.booleans(), st.integers(-6, 6))
def test_duplicates_are_found_whether_or_not_their_utilities_give_them_away(family, n, seed, own, exponent):
    rng = np.random.default_rng(seed)
    S = FAMILIES[family](n, rng) * 10.0**exponent
    # Copies: of the rows, and in half of the problems with a utility that tells them apart.
    index = rng.integers(0, n, size=n)
    S = S[np.ix_(index, index)]
    b = rng.integers(0, 3, size=n).astype(float) if own else S.mean(axis=1)
    found = find(S, b)
    np.testing.assert_array_equal(found.first[found.label], labels(S, b))


def test_tasks_of_equal_utility_need_not_be_duplicates():
    assert find(np.eye(6), np.full(6, 1 / 6)).trivial
    assert find(np.eye(6), np.arange(6.0)).trivial
    assert find(np.ones((6, 6)), np.arange(6.0)).trivial
    assert len(find(np.ones((6, 6)), np.ones(6)).first) == 1
