"""Which mixtures are tried."""

from itertools import pairwise

import numpy as np
import pytest

from taskpgm_ray.config import SearchConfig
from taskpgm_ray.mrf import path
from taskpgm_ray.search.candidates import candidates


@pytest.fixture(scope="module")
def mixtures():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(8, 3))
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    return path(np.exp(-0.3 * distances))


SIZES = [10, 20, 30, 40, 50, 60, 70, 80]


def test_baselines_and_balances(mixtures):
    made = candidates(mixtures, SIZES, SearchConfig(balances=5, tau=(0.0, 4.0)))
    assert [c.name for c in made[:2]] == ["uniform", "proportional"]
    np.testing.assert_allclose(made[0].weights, 1 / 8)
    np.testing.assert_allclose(made[1].weights, np.array(SIZES) / sum(SIZES))
    balances = [c for c in made if c.kind == "balance"]
    assert 4 <= len(balances) <= 5
    taus = [c.tau for c in balances]
    assert taus == sorted(taus)
    assert (taus[0], taus[-1]) == (0.0, 4.0)
    for candidate in made:
        assert candidate.weights.sum() == pytest.approx(1.0)
        assert (candidate.weights >= 0).all()
    for candidate in balances:
        np.testing.assert_allclose(candidate.weights, mixtures.at(candidate.tau))
    assert len({c.name for c in made}) == len(made)


def test_balances_are_at_equal_distances_along_the_path(mixtures):
    made = candidates(mixtures, SIZES, SearchConfig(balances=4, tau=(0.0, 4.0), baselines=()))

    def length(low, high):
        points = np.stack([mixtures.at(float(tau)) for tau in np.linspace(low, high, 400)])
        return np.abs(np.diff(points, axis=0)).sum()

    lengths = [length(a.tau, b.tau) for a, b in pairwise(made)]
    assert len(lengths) == 3
    np.testing.assert_allclose(lengths, np.mean(lengths), rtol=0.02)


def test_a_users_balance_is_the_only_one(mixtures):
    made = candidates(mixtures, SIZES, SearchConfig(balances=5), fixed_tau=2.5)
    assert [(c.name, c.tau) for c in made if c.kind == "balance"] == [("tau-2.5", 2.5)]


def test_a_balance_that_is_a_baseline_is_not_tried_again(mixtures):
    """At tau = 1 the mixture is the uniform one, which is a baseline already."""
    low, high = mixtures.equal_arc(2, tau_min=0.0, tau_max=1.0)
    config = SearchConfig(balances=2, tau=(low, high))
    assert [c.name for c in candidates(mixtures, SIZES, config)] == ["uniform", "proportional", "tau-0"]


def test_someone_has_to_win_even_where_every_balance_is_a_baseline(mixtures):
    made = candidates(mixtures, SIZES, SearchConfig(balances=1), fixed_tau=1.0)
    assert [c.name for c in made] == ["uniform", "proportional", "tau-1"]


def test_baselines_that_are_one_mixture_are_trained_once(mixtures):
    made = candidates(mixtures, [7] * len(SIZES), SearchConfig(balances=1), fixed_tau=0.0)
    assert [c.name for c in made] == ["uniform", "tau-0"]


@pytest.mark.parametrize("baselines", [("uniform",), ("proportional", "uniform"), ()])
def test_the_configured_baselines_in_their_order(mixtures, baselines):
    made = candidates(mixtures, SIZES, SearchConfig(balances=2, baselines=baselines))
    assert tuple(c.name for c in made if c.kind == "baseline") == baselines
