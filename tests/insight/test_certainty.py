"""Intervals of weights from groups of probes: they hold the true weights as often as they say."""

import numpy as np
import pytest

from taskpgm_ray.affinity.bandwidth import NoiseFloor
from taskpgm_ray.affinity.jsd_sums import JSDSums
from taskpgm_ray.insight.certainty import Certainty, certainty, solved_within
from taskpgm_ray.mrf import Limits, solve

GROUPS, PROBES, GAMMA, TAU = 20, 200, 1.0, 0.5


def pool(n=5, seed=0):
    """Tasks as points; on each probe they stand a little elsewhere. (points [n, d], the expected distances [n, n])."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 6)) * 0.35
    return points, ((points[:, None] - points[None]) ** 2).sum(-1) + 2 * 6 * 0.2**2 * (1 - np.eye(n))


def sample(points, seed):
    """Sums over groups of probes, as a study stores them."""
    rng = np.random.default_rng(seed)
    n = len(points)
    here = points + 0.2 * rng.normal(size=(PROBES, n, points.shape[1]))
    d = ((here[:, :, None] - here[:, None]) ** 2).sum(-1)
    sums = np.zeros((GROUPS, n, n), dtype=np.int64)
    group = np.arange(PROBES) % GROUPS
    for g in range(GROUPS):
        sums[g] = np.tril(np.round(d[group == g].sum(0) * 2**40)).astype(np.int64)
    weight = np.full(GROUPS, PROBES // GROUPS * 2**40, dtype=np.int64)
    return JSDSums(tuple(map(str, range(n))), "", GROUPS, sums, weight, PROBES)


def measured(points, seed) -> tuple[np.ndarray, Certainty]:
    sums = sample(points, seed)
    mixture = solve(np.exp(-GAMMA * sums.matrix()), TAU)
    return mixture.weights, certainty(sums, mixture, GAMMA, seed=seed)


def test_the_intervals_hold_the_truth_as_often_as_they_say():
    points, D = pool()
    truth = solve(np.exp(-GAMMA * D), TAU).weights
    interior = truth > 0.02
    assert interior.sum() >= 4
    held = []
    for seed in range(300):
        _, known = measured(points, seed)
        held.append(((known.low <= truth) & (truth <= known.high))[interior])
    coverage = np.mean(held)
    # Of 300 studies with four weights or more each, which are not independent.
    assert 0.93 <= coverage <= 0.97, coverage


def test_a_mixture_whose_tasks_are_all_on_bounds_has_a_certainty():
    points, _ = pool(n=6)
    sums = sample(points, 0)
    mixture = solve(np.exp(-GAMMA * sums.matrix()), 1e4, upper=0.25)
    assert sorted(mixture.weights) == [0, 0, 0.25, 0.25, 0.25, 0.25]
    rows = sums.matrix()[:2] + 0.01
    rows[[0, 1], [0, 1]] = 0.3
    known = certainty(sums, mixture, GAMMA, noise=NoiseFloor(("0", "1"), (0.3, 0.3), (), rows))
    assert known.fine_tunes == 2
    np.testing.assert_array_equal(known.seeds, np.zeros((6, 6)))


def test_inclusion_is_sure_of_the_heavy_and_doubts_the_marginal():
    points, D = pool(n=8, seed=4)
    truth = solve(np.exp(-GAMMA * D), TAU).weights
    often = np.zeros(8)
    said = np.zeros(8)
    for seed in range(60):
        weights, known = measured(points, seed)
        often += weights > 1e-12
        said += known.inclusion
    often, said = often / 60, said / 60
    assert (said[truth > 0.1] > 0.95).all()
    # What is said of a task is about how often it is in.
    assert np.abs(often - said).max() < 0.25
    assert np.abs(often - said).mean() < 0.1


def fine_tuned(points, seed, luck, seconds=4):
    """A pool whose adapters stand off their tasks by the luck of a seed, and second adapters of the first tasks."""
    rng = np.random.default_rng(seed)
    n, places = len(points), [points, points[:seconds]]
    adapters = np.concatenate([place + luck * rng.normal(size=place.shape) for place in places])
    # All of them on the same probes.
    both = sample(adapters, seed)
    names = tuple(map(str, range(n)))
    sums = JSDSums(names, "", GROUPS, both.sums[:, :n, :n], both.weight, PROBES)
    rows = both.matrix()[n:, :n]
    return sums, NoiseFloor(names[:seconds], tuple(rows[range(seconds), range(seconds)]), (0.0,) * seconds, rows)


@pytest.mark.parametrize("luck", [0.1, 0.2])
def test_second_fine_tunes_tell_what_other_seeds_would_change(luck):
    points, _ = pool(n=6, seed=3)
    found = []
    for seed in range(120):
        sums, noise = fine_tuned(points, seed, luck)
        mixture = solve(np.exp(-GAMMA * sums.matrix()), TAU)
        found.append((mixture.weights, certainty(sums, mixture, GAMMA, noise=noise, seed=seed)))
    weights = np.array([p for p, _ in found])
    assert weights.mean(axis=0).min() > 0.05
    said = np.sqrt(np.mean([np.diag(known.probes + known.seeds) for _, known in found], axis=0))
    # Four second fine-tunes stand for all six: right on the whole, for single tasks within a factor.
    assert said.mean() / weights.std(axis=0).mean() == pytest.approx(1.0, abs=0.3)
    assert (np.abs(np.log(said / weights.std(axis=0))) < np.log(1.8)).all()
    held = [(known.low <= weights.mean(axis=0)) & (weights.mean(axis=0) <= known.high) for _, known in found]
    assert 0.93 <= np.mean(held) <= 0.995
    probes = [np.sqrt(np.diag(known.probes)) for _, known in found]
    # Without them the intervals say little of what a seed changes here.
    assert np.mean(probes) < 0.5 * weights.std(axis=0).mean()
    assert all(known.fine_tunes == 4 for _, known in found)


def test_inclusion_counts_the_luck_of_seeds():
    points, _ = pool(n=10, seed=7)
    points = points * np.linspace(0.4, 1.5, 10)[:, None]
    often, said, without = [], [], []
    for seed in range(60):
        sums, noise = fine_tuned(points, seed, 0.15)
        mixture = solve(np.exp(-GAMMA * sums.matrix()), 3.0)
        often.append(mixture.weights > 1e-12)
        said.append(certainty(sums, mixture, GAMMA, noise=noise, seed=seed).inclusion)
        without.append(certainty(sums, mixture, GAMMA, seed=seed).inclusion)
    truth = np.mean(often, axis=0)
    assert ((truth > 0.02) & (truth < 0.98)).sum() >= 3
    assert np.abs(np.mean(said, axis=0) - truth).max() < 0.15
    # What is said of one study is nearer to the truth than with the adapters taken as they are.
    assert np.abs(np.array(said) - truth).mean() < np.abs(np.array(without) - truth).mean()


def test_tasks_that_are_all_alike_are_not_told_from_uniform():
    points = np.zeros((5, 6))
    _, known = measured(points, 1)
    assert known.uniform
    assert not known.apart.any()
    far, _ = pool(seed=2)
    far[0] *= 5
    _, known = measured(far, 1)
    assert not known.uniform
    assert known.apart[0, 1:].any()


def test_a_share_of_several_tasks_is_better_known_than_their_split():
    points, _ = pool()
    points[1] = points[0] + 0.01
    weights, known = measured(points, 3)
    low, high = known.share(np.array([0, 1]), weights)
    assert low <= weights[:2].sum() <= high
    assert high - low < (known.high[0] - known.low[0]) + (known.high[1] - known.low[1])
    assert known.share(np.arange(5), weights) == pytest.approx((1, 1), abs=1e-6)


def test_too_few_groups_give_no_interval():
    sums = sample(pool()[0], 0)
    weight = sums.weight.copy()
    weight[2:] = 0
    few = JSDSums(sums.models, "", GROUPS, sums.sums, weight, 10)
    mixture = solve(np.exp(-GAMMA * sums.matrix()), TAU)
    assert certainty(few, mixture, GAMMA) is None


def test_a_floor_that_was_taken_off_is_taken_off_every_replicate():
    sums = sample(pool()[0], 0)
    S = np.exp(-GAMMA * np.maximum(sums.matrix() - 0.1, 0))
    np.fill_diagonal(S, 1)
    known = certainty(sums, solve(S, TAU), GAMMA, 0.1)
    assert (known.low < known.high).any()


def test_few_tasks_are_a_solution_on_their_own():
    S = np.exp(-pool(n=6)[1])
    limits = Limits(np.zeros(6), np.ones(6), most=2)
    mixture = solved_within(S, TAU, limits, None)
    np.testing.assert_allclose(mixture.weights, limits.solve(S, TAU), atol=1e-12)
