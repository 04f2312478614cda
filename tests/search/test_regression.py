"""Regressions of scores on weights: what they recover, what they refuse, and the mixtures that they propose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import Group, Limits, solve
from taskpgm_ray.search import regression
from taskpgm_ray.search.proposal import DRAWS, corners_of, drawn, propose
from taskpgm_ray.search.regression import pooled, regress

SLOPE = np.array([1.0, 0.5, 0.0, 0.0, -0.5, -1.0])


def law(mixtures):
    """Scores of a mixing law without noise: log-probabilities [m] whose logarithm is linear in the weights."""
    return -2 * np.exp(-0.3 * mixtures @ SLOPE)


def random_mixtures(m, n=6, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(n), m)


def limits_of(seed, n):
    """Random bounds and groups that some mixture keeps."""
    rng = np.random.default_rng(seed)
    lower = np.full(n, rng.uniform(0, 0.5) / n)
    upper = np.minimum(1, lower + rng.uniform(1.2, 6) / n)
    inside = solve(np.eye(n), 0.0, lower=lower, upper=upper).weights
    groups = []
    for _ in range(int(rng.integers(0, 3))):
        members = np.sort(rng.choice(n, size=int(rng.integers(1, n)), replace=False))
        share = float(inside[members].sum())
        groups.append(Group(members, max(0.0, share - rng.uniform(0, 0.1)), min(1.0, share + rng.uniform(0, 0.1))))
    return Limits(lower, upper, tuple(groups))


def test_runs_of_one_mixture_are_one_mixture():
    mixtures = random_mixtures(3)
    tried = pooled(mixtures[[0, 1, 0, 2, 0]], [1.0, 5.0, 2.0, 7.0, 3.0])
    np.testing.assert_array_equal(tried.mixtures, mixtures)
    np.testing.assert_array_equal(tried.scores, [2.0, 5.0, 7.0])
    np.testing.assert_array_equal(tried.counts, [3, 1, 1])
    np.testing.assert_array_equal(tried.of_run, [0, 1, 0, 2, 0])


def test_a_mixing_law_is_recovered_from_few_runs():
    mixtures = random_mixtures(9)
    found = regress(pooled(mixtures, law(mixtures)))
    assert found.model == "log-linear"
    assert found.correlation == pytest.approx(1.0)
    assert found.tells_apart
    unseen = random_mixtures(50, seed=1)
    np.testing.assert_allclose(found.predict(unseen), law(unseen), rtol=1e-3)


@pytest.mark.parametrize("upper", [1.0, 0.4, 0.25])
def test_the_proposal_is_near_the_optimum_of_a_mixing_law(upper):
    mixtures = random_mixtures(12)
    limits = Limits(np.zeros(6), np.full(6, upper))
    found = regress(pooled(mixtures, law(mixtures)))
    proposal = propose(found.predict, limits, mixtures, seed=0)
    best = law(limits.corner(-SLOPE)[None])[0]
    uniform = law(np.full((1, 6), 1 / 6))[0]
    # Most of the way from uniform to the best mixture there is, which a mean of good ones never is.
    assert best - law(proposal[None])[0] < 0.25 * (best - uniform)


def test_accuracies_and_other_scores():
    mixtures = random_mixtures(20)
    accuracy = 1.01 - 0.4 * np.exp(-0.5 * mixtures @ SLOPE)
    reward = 7 + 40 * mixtures @ SLOPE
    for scores in (accuracy, reward):
        found = regress(pooled(mixtures, scores))
        assert found.model == "log-linear"
        np.testing.assert_allclose(found.predict(mixtures), scores, rtol=1e-3)
    perfect = regress(pooled(mixtures, np.minimum(law(mixtures) + 1.9, 0.0)))
    assert np.isfinite(perfect.predict(mixtures)).all()


def test_a_step_is_left_to_the_trees():
    """Only a mixture with enough of both tasks is good: no linear model ranks that."""
    mixtures = random_mixtures(60, n=3)
    found = regress(pooled(mixtures, -1.0 - (np.minimum(mixtures[:, 0], mixtures[:, 1]) < 0.15)))
    assert found.model == "boosted"
    assert found.low > 0.3
    proposal = propose(found.predict, Limits.none(3), mixtures, seed=0)
    assert min(proposal[:2]) > 0.15


def test_scores_that_are_luck_are_not_told_apart():
    """With ten runs of each mixture, whose common luck a model would recognise in runs that were not left out."""
    rng, shown, correlations = np.random.default_rng(0), 0, []
    for _ in range(8):
        luck = np.repeat(rng.normal(size=12), 10) + 0.01 * rng.normal(size=120)
        found = regress(pooled(np.repeat(random_mixtures(12, seed=int(rng.integers(9999))), 10, axis=0), luck))
        correlations += [correlation for correlation, _ in found.judged.values()]
        shown += found.tells_apart
    assert np.mean(correlations) < 0.15
    assert shown <= 1


def test_all_runs_of_a_mixture_are_left_out_together(monkeypatch):
    mixtures, seen = random_mixtures(6), []

    def fit(others, merits, counts):
        seen.append((others, counts))
        return lambda unseen: unseen[:, 0]

    monkeypatch.setattr(regression, "MODELS", {"log-linear": fit, "boosted": fit})
    regress(pooled(np.repeat(mixtures, 3, axis=0), np.repeat(law(mixtures), 3)))
    assert len(seen) == 2 * 6 + 1
    for k, (others, counts) in enumerate(seen[:6]):
        np.testing.assert_array_equal(others, np.delete(mixtures, k, axis=0))
        np.testing.assert_array_equal(counts, [3] * 5)


def test_a_model_that_expects_the_mean_ranks_nothing(monkeypatch):
    """The mean of the others is the lower the better the mixture that is left out: alone it would rank backwards."""
    monkeypatch.setattr(
        regression, "MODELS", {"log-linear": lambda p, y, c: lambda unseen: np.full(len(unseen), np.average(y))}
    )
    mixtures = random_mixtures(9)
    assert regress(pooled(mixtures, law(mixtures))).correlation == pytest.approx(0.0)


def test_many_mixtures_are_left_out_in_parts(monkeypatch):
    monkeypatch.setattr(regression, "PARTS", 4)
    mixtures = random_mixtures(30)
    assert regress(pooled(mixtures, law(mixtures))).correlation > 0.95


@pytest.mark.parametrize(
    ("mixtures", "scores", "said"),
    [
        (random_mixtures(4), [1, 2, 3, 4], "at least 5 different mixtures with scores, and there are 4"),
        (np.repeat(random_mixtures(4), 3, axis=0), np.arange(12), "and there are 4"),
        (np.zeros((0, 3)), [], "and there are 0"),
        (random_mixtures(6), [-1.5] * 6, "all 6 mixtures have the score -1.5: there is nothing to regress"),
        (random_mixtures(6), [1, 2, 3, np.nan, 5, 6], "the score of run 4 is no finite number"),
        (random_mixtures(6), [1, 2, 3], "a score for each mixture"),
    ],
)
def test_what_says_nothing_is_refused(mixtures, scores, said):
    with pytest.raises(InputError, match=said):
        regress(pooled(mixtures, np.asarray(scores, dtype=float)))


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_every_draw_and_every_proposal_is_a_mixture_within_the_limits(seed, n):
    limits, known = limits_of(seed, n), random_mixtures(5, n, seed)
    rng = np.random.default_rng(seed)
    draws = drawn(corners_of(limits, rng), known[limits.kept(known)], rng)
    assert len(draws) >= DRAWS
    proposal = propose(lambda p: p @ np.arange(n), limits, known, seed)
    for mixtures in (draws, proposal[None]):
        np.testing.assert_allclose(mixtures.sum(axis=1), 1.0, atol=1e-12)
        assert (mixtures >= 0).all()
        assert limits.kept(mixtures).all()


def test_limits_know_what_keeps_them():
    limits = Limits(np.array([0.1, 0.0, 0.0]), np.array([1.0, 0.6, 1.0]), (Group(np.array([0, 1]), high=0.8),))
    mixtures = np.array([[0.1, 0.6, 0.3], [0.0, 0.5, 0.5], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.5, 0.3, 0.2]])
    np.testing.assert_array_equal(limits.kept(mixtures), [True, False, False, False, True])
    np.testing.assert_allclose(limits.corner(np.array([1.0, 0.0, 2.0])), [0.2, 0.6, 0.2])
    np.testing.assert_allclose(limits.corner(np.array([2.0, 1.0, 0.0])), [0.1, 0.0, 0.9])


def test_draws_go_from_uniform_to_single_tasks_and_stay_around_what_is_known():
    uniform, known = np.full(6, 1 / 6), np.array([[0.5, 0.5, 0, 0, 0, 0]])
    draws = drawn(np.eye(6), known, np.random.default_rng(0))
    np.testing.assert_array_equal(draws[0], known[0])
    distances = [np.abs(draws - one).sum(axis=1) / 2 for one in (uniform, known[0], *np.eye(6))]
    for far in distances:
        assert (far < 0.1).sum() > 100
    assert (distances[1] < 0.1).sum() > 1000


def test_proposals_depend_on_the_seed_alone():
    mixtures = random_mixtures(12)
    scores = law(mixtures) + 0.05 * np.random.default_rng(1).normal(size=12)
    for limits in (Limits.none(6), Limits(np.zeros(6), np.full(6, 0.3))):
        first, again, other = (
            propose(regress(pooled(mixtures, scores)).predict, limits, mixtures, seed) for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, again)
        assert 0 < np.abs(first - other).sum() / 2 < 0.1


def test_no_more_tasks_than_are_allowed():
    limits = Limits(np.array([0.05, 0, 0, 0, 0, 0]), np.full(6, 0.6), most=3)
    proposal = propose(lambda p: p @ -SLOPE, limits, random_mixtures(5), seed=0)
    assert (proposal > 1e-9).sum() == 3
    assert proposal.sum() == pytest.approx(1.0)
    assert proposal[0] >= 0.05 - 1e-12
    assert proposal[5] == pytest.approx(0.6, abs=0.1)
