import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import InputError
from taskpgm_ray.mixture import capped_proportional, dirichlet, proportional, temperature, uniform


@settings(max_examples=100)
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=20), st.floats(0.2, 50), st.integers(1, 10**6))
def test_baselines_are_mixtures_between_uniform_and_proportional(sizes, T, cap):
    sizes = np.array(sizes)
    if not sizes.any():
        sizes[0] = 1
    for p in (proportional(sizes), temperature(sizes, T), capped_proportional(sizes, cap), uniform(len(sizes))):
        assert (p >= 0).all()
        assert p.sum() == pytest.approx(1)
        assert (np.diff(p[np.argsort(sizes, kind="stable")]) >= -1e-15).all()
    # Above T = 1 and below any cap the largest task has less than its proportional share.
    largest = proportional(sizes).max()
    assert temperature(sizes, max(T, 1.0)).max() <= largest + 1e-12
    assert capped_proportional(sizes, cap).max() <= largest + 1e-12
    np.testing.assert_allclose(temperature(7 * sizes, T), temperature(sizes, T), atol=1e-12)


def test_baselines():
    np.testing.assert_allclose(uniform(4), 0.25)
    np.testing.assert_allclose(proportional([1, 3]), [0.25, 0.75])
    np.testing.assert_allclose(temperature([1, 4], 2), [1 / 3, 2 / 3])
    np.testing.assert_allclose(temperature([1, 9], 1e6), 0.5, atol=1e-5)
    assert temperature([0, 9], 3)[0] == 0
    np.testing.assert_allclose(capped_proportional([10, 1000], 30), [0.25, 0.75])
    assert dirichlet(5, seed=3).tolist() == dirichlet(5, seed=3).tolist()
    assert dirichlet(5, seed=3).tolist() != dirichlet(5, seed=4).tolist()
    assert dirichlet(5, seed=3).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: proportional([0, 0]), "positive"),
        (lambda: temperature([1, 2], 0), "temperature"),
        (lambda: capped_proportional([1, 2], 0), "cap"),
        (lambda: uniform(0), "at least one"),
        (lambda: dirichlet(3, 0, 0), "concentration"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
