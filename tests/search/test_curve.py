"""The score as a smooth function of the mixture, and the balance that is chosen by it."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.config import load_config
from taskpgm_ray.search.candidates import Candidate, Pool, candidates
from taskpgm_ray.search.choice import choose
from taskpgm_ray.search.curve import fit
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.stage import Outcome

N = 8


def family(name="jsd", seed=0, scale=0.3):
    points = np.random.default_rng(seed).normal(size=(N, 3))
    return Family(name, name, np.exp(-scale * ((points[:, None] - points[None]) ** 2).sum(-1)), 1.0, None, True)


def mixtures(m, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(N), size=m)


@settings(max_examples=40)
@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 3), st.floats(-5, 5), st.floats(1e-3, 10))
def test_the_curve_moves_with_the_scores(seed, m, seeds, shift, scale):
    """Adding a constant to all scores, or another unit, changes nothing else."""
    rng = np.random.default_rng(seed)
    tried, scores = mixtures(m, seed), rng.normal(size=(m, seeds))
    mean, sd = fit(tried, scores.tolist()).at(mixtures(5, seed + 1))
    assert np.isfinite(mean).all()
    assert (sd >= 0).all()
    moved, wider = fit(tried, (shift + scale * scores).tolist()).at(mixtures(5, seed + 1))
    if m > 1:
        np.testing.assert_allclose(moved, shift + scale * mean, rtol=1e-6, atol=1e-6 * (1 + abs(shift)))
        np.testing.assert_allclose(wider, scale * sd, rtol=1e-5, atol=1e-8)


def test_without_noise_the_curve_goes_through_a_smooth_function():
    tried = mixtures(40)
    truth = -((tried - mixtures(1, 7)[0]) ** 2).sum(-1)
    # Two seeds that agree: there is no noise.
    mean, _ = fit(tried, [[v, v + 1e-9] for v in truth]).at(tried)
    np.testing.assert_allclose(mean, truth, atol=2e-3)


def test_noise_alone_is_flat():
    rng = np.random.default_rng(0)
    tried = mixtures(12)
    ranges = []
    for _ in range(40):
        scores = rng.normal(size=(12, 3))
        mean, _ = fit(tried, scores.tolist()).at(tried)
        ranges.append(np.ptp(mean) / np.ptp(scores.mean(axis=1)))
    assert np.median(ranges) < 0.5


def test_the_band_holds_the_truth():
    rng = np.random.default_rng(1)
    inside = []
    for seed in range(60):
        tried, centre = mixtures(8, seed), mixtures(1, 100 + seed)[0]
        truth = -3 * ((tried - centre) ** 2).sum(-1)
        mean, sd = fit(tried, (truth[:, None] + 0.1 * rng.normal(size=(8, 2))).tolist()).at(tried)
        inside.append(np.abs(mean - truth) <= 2 * sd)
    assert 0.85 <= np.mean(inside) <= 1.0


@dataclass
class Trial:
    """A finished trial."""

    candidate: Candidate
    values: list[float]

    def done(self):
        return True

    def score(self, metric):
        return float(np.mean(self.values))

    def points(self, metric):
        return [(self.candidate.weights, self.values)]


def config(**search):
    return load_config(
        {
            "study": "s",
            "model": {"path": "m"},
            "pool": {"tasks": ["reasoning_gym:gcd", "reasoning_gym:lcm"]},
            "finetune": {"steps": 1},
            "search": {"tau": [0.0, 4.0], "balances": 6, "baselines": ["uniform"], **search},
            **({"mixture": {"tau": 2.0}} if search.get("balances") == 1 else {}),
        }
    )


def searched(config, score, families=None):
    families = families or [family()]
    tried = candidates(families, Pool([1] * N), config.search)
    trials = [Trial(one, [score(one)]) for one in tried]
    return choose(Outcome(trials, {}, []), families, config)


def test_one_lucky_trial_does_not_win_against_its_neighbours():
    """A peak that a smooth function has at tau = 2.5, and one trial far from it that was lucky."""
    along = family().path
    peak = along.at(2.5)
    lucky = []

    def score(one):
        truth = -40 * float(((one.weights - peak) ** 2).sum())
        if one.tau == 0.0:
            lucky.append(one.name)
            return 0.02
        return truth

    chosen = searched(config(), score)
    assert lucky
    assert searched(config(choose="best"), score).candidate.name == lucky[0]
    assert chosen.candidate.tau > 1.0
    assert chosen.curve.chosen == pytest.approx(chosen.candidate.tau, abs=0.6)


def test_a_balance_that_no_trial_had_can_be_chosen():
    along = family().path
    target = config(balances=3)
    tried = [one.tau for one in candidates([family()], Pool([1] * N), target.search) if one.kind == "balance"]
    between = along.at((tried[1] + tried[2]) / 2)
    chosen = searched(target, lambda one: -40 * float(((one.weights - between) ** 2).sum()))
    assert tried[1] < chosen.candidate.tau < tried[2]
    np.testing.assert_allclose(chosen.candidate.weights, along.at(chosen.candidate.tau))
    assert (chosen.candidate.kind, chosen.candidate.method) == ("balance", "jsd")


def test_where_all_scores_are_equal_the_mixture_nearest_to_uniform_is_chosen():
    chosen = searched(config(baselines=[]), lambda one: -1.0)
    taus = chosen.curve.tau
    along = family().path
    nearest = min(taus, key=lambda tau: np.abs(along.at(float(tau)) - 1 / N).sum())
    assert np.abs(chosen.candidate.weights - along.at(float(nearest))).sum() / 2 <= 0.02


def test_the_better_family_is_chosen():
    pair = [family(), family("pmi", seed=3)]
    goal = pair[1].path.at(0.0)
    chosen = searched(
        config(affinities=["jsd", "pmi"]), lambda one: -9 * float(((one.weights - goal) ** 2).sum()), pair
    )
    assert chosen.candidate.method == "pmi"
    assert chosen.curve.family == "pmi"


def test_few_balances_or_a_users_own_leave_it_to_the_best_trial():
    for setting in (config(balances=2), config(balances=1), config(choose="best")):
        assert searched(setting, lambda one: one.tau or 0.0).curve is None


def test_the_curve_that_is_shown_is_that_of_the_chosen_family():
    """Two families with one path: what was tried bears the second's name, and so must the curve."""
    first, second = family("jsd-gamma-1"), family("jsd-gamma-2")
    setting = config(merge_distance=0.05)
    tried = candidates([second], Pool([1] * N), setting.search)
    last = second.path.at(4.0)
    trials = [Trial(one, [-float(((one.weights - last) ** 2).sum())]) for one in tried]
    chosen = choose(Outcome(trials, {}, []), [first, second], setting)
    assert chosen.candidate.method == chosen.curve.family == "jsd-gamma-2"
    assert chosen.curve.chosen == pytest.approx(chosen.candidate.tau, abs=0.1)
