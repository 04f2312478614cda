import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import InputError
from taskpgm_ray.mixture import counts, token_counts


@settings(max_examples=200)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 10_000))
def test_counts_sum_to_the_budget_and_follow_the_quota(raw, budget):
    raw = np.array(raw)
    if raw.sum() < 1e-3:
        raw = raw + 1
    p = raw / raw.sum()
    got = counts(p, budget)
    assert got.sum() == budget
    assert (np.abs(got - p * budget) < 1 + 1e-6).all()
    assert (got[p == 0] == 0).all()


@settings(max_examples=100)
@given(st.integers(1, 15), st.integers(0, 2000), st.integers(0, 2**31))
def test_counts_respect_what_is_available(n, budget, seed):
    rng = np.random.default_rng(seed)
    p, available = rng.dirichlet(np.ones(n)), rng.integers(0, 400, size=n)
    if available.sum() < budget:
        with pytest.raises(InputError, match="examples, the budget asks for"):
            counts(p, budget, available)
        return
    got = counts(p, budget, available)
    assert got.sum() == budget
    assert (got <= available).all()
    free = got < available
    if free.sum() > 1:
        ratio = got[free] / p[free]
        slack = 1 / p[free]
        # Tasks below their limit stay in proportion to their weights.
        assert (ratio - slack).max() <= (ratio + slack).min() + 1e-6


@settings(max_examples=100)
@given(st.integers(2, 12), st.integers(0, 3000), st.integers(0, 2**31))
def test_counts_are_monotone_in_the_weights_and_follow_permutations(n, budget, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(n))
    got = counts(p, budget)
    # A heavier task never gets less.
    assert (np.diff(got[np.argsort(p)]) >= 0).all()
    order = rng.permutation(n)
    assert (counts(p[order], budget) == got[order]).all()


def test_largest_remainder():
    assert counts([0.5, 0.3, 0.2], 7).tolist() == [4, 2, 1]
    assert counts([0.25] * 4, 6).tolist() == [2, 2, 1, 1]
    assert counts([0.7, 0.3], 10, [4, 100]).tolist() == [4, 6]
    assert counts([1.0, 0.0], 3).tolist() == [3, 0]


def test_token_counts_share_tokens():
    got = token_counts([0.5, 0.5], 100_000, [10.0, 100.0])
    tokens = got * np.array([10, 100])
    assert abs(tokens.sum() - 100_000) <= 100
    assert abs(tokens[0] - tokens[1]) <= 110


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: counts([0.5, 0.6], 3), "sum to 1"),
        (lambda: counts([1.5, -0.5], 3), ">= 0"),
        (lambda: counts([0.5, 0.5], -1), "budget"),
        (lambda: counts([0.5, 0.5], 2.5), "budget"),
        (lambda: counts([0.5, 0.5], 3, [1]), "available"),
        (lambda: token_counts([0.5, 0.5], 3, [0, 1]), "positive"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_shares_of_tokens_become_shares_of_examples():
    from taskpgm_ray.mixture import example_shares

    shares = example_shares([0.5, 0.5, 0.0], [10, 40, 5])
    np.testing.assert_allclose(shares, [0.8, 0.2, 0.0])
    tokens = shares * [10, 40, 5]
    np.testing.assert_allclose(tokens / tokens.sum(), [0.5, 0.5, 0.0])
