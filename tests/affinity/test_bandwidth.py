"""The noise rule: a bandwidth from what stands out of the floor, the floor taken off, and no contrast out of noise."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taskpgm_ray.affinity import noise
from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.affinity.bandwidth import LEFT, noise_kernel
from taskpgm_ray.affinity.kernels import effective_number, kernel, median_gamma
from taskpgm_ray.affinity.pool_sums import Part, PoolSums
from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import path, solve
from taskpgm_ray.search.families import refuse_free

BETWEEN, FLOOR = 0.16, 0.02
"""Nats, as measured on real pools: between data sets, and between two adapters of one."""


def pool(groups, rng, between=BETWEEN, floor=FLOOR, dimensions=60, seconds=4):
    """(divergences, floors) of tasks of which each group is one task several times: squared distances of places."""
    places = np.repeat(rng.normal(size=(len(groups), dimensions)) * np.sqrt(between / 2 / dimensions), groups, axis=0)
    spread = np.sqrt(floor * np.exp(0.3 * rng.normal(size=len(places))) / 2 / dimensions)[:, None]
    first, second = (places + spread * rng.normal(size=places.shape) for _ in range(2))
    D = ((first[:, None] - first[None]) ** 2).sum(axis=2)
    return D, ((first - second) ** 2).sum(axis=1)[:seconds]


@given(
    groups=st.lists(st.integers(1, 4), min_size=2, max_size=8).filter(lambda groups: sum(groups) > 2),
    seed=st.integers(0, 999),
    floor=st.sampled_from([1e-4, 0.005, 0.02, 0.05]),
    factor=st.sampled_from([0.5, 1.0, 4.0]),
)
@settings(max_examples=60)
def test_it_is_a_valid_kernel_that_keeps_the_order_of_the_pairs(groups, seed, floor, factor):
    D, floors = pool(groups, np.random.default_rng(seed), floor=floor)
    assume(len(floors) > 1)
    found = noise_kernel(D, floors, factor)
    assume(found.contrast)
    S, plain = found.S, np.exp(-found.gamma * D)
    assert np.linalg.eigvalsh(S)[0] >= 0.99 * LEFT * np.linalg.eigvalsh(plain)[0] > 0
    np.testing.assert_array_equal(np.diag(S), 1.0)
    assert S.max() <= 1.0
    assert 0 <= found.taken_off <= found.floor == pytest.approx(floors.mean())
    off = ~np.eye(len(D), dtype=bool)
    np.testing.assert_allclose(S[off], np.exp(-found.gamma * (D[off] - found.taken_off)), rtol=1e-12)
    refuse_free(S, "jsd")


def test_a_typical_pair_that_stands_out_is_a_tenth_alike():
    D, floors = pool([1] * 9, np.random.default_rng(0))
    found = noise_kernel(D, floors)
    pairs = D[np.triu_indices(9, 1)]
    assert found.clear == (pairs > 2 * floors.mean()).sum() == 36
    typical = np.exp(-found.gamma * (np.median(pairs) - floors.mean()))
    assert typical == pytest.approx(0.1)
    assert noise_kernel(D, floors, 2.0).gamma == pytest.approx(2 * found.gamma)


def test_the_unit_of_the_divergences_does_not_matter():
    D, floors = pool([3, 1, 1, 1, 2], np.random.default_rng(1))
    one, other = noise_kernel(D, floors), noise_kernel(D / np.log(2), floors / np.log(2))
    np.testing.assert_allclose(one.S, other.S, rtol=1e-9)
    assert other.gamma == pytest.approx(one.gamma * np.log(2))


@pytest.mark.parametrize("groups", [[4, 2, *[1] * 8], [10, 1, 1], [8, *[1] * 8], [6, 6, 1, 1]])
def test_copies_of_one_task_weigh_less_and_more_tasks_are_seen_than_by_the_median(groups):
    """At tau = 0 a data set in k parts would get its share once, not k times; the median rule is the measure."""
    rng = np.random.default_rng(2)
    by_noise, by_median = [], []
    for _ in range(10):
        D, floors = pool(groups, rng)
        by_noise.append(solve(noise_kernel(D, floors).S, 0.0).weights[: groups[0]].sum())
        by_median.append(solve(kernel(D, median_gamma(D)), 0.0).weights[: groups[0]].sum())
    fair = 1 / len(groups)
    assert abs(np.mean(by_noise) - fair) < abs(np.mean(by_median) - fair) + 0.01
    assert np.mean(by_noise) < 2 * fair
    assert np.mean(by_noise) < groups[0] / sum(groups)


def test_no_task_of_ten_data_sets_in_fourteen_parts_is_starved_as_by_the_median():
    D, floors = pool([4, 2, *[1] * 8], np.random.default_rng(3))
    found = noise_kernel(D, floors)
    median = kernel(D, median_gamma(D))
    assert effective_number(median) < 2.5 < 5 < effective_number(found.S) < 10
    starved = [(solve(S, 0.0).weights < 1e-9).sum() for S in (found.S, median)]
    assert starved[0] < starved[1]


@pytest.mark.parametrize("size", [2e-3, 2e-9])
def test_base_and_noise_has_no_contrast_and_a_uniform_mixture(size):
    """By the median rule eight such adapters have the same S at every size of the noise."""
    rng = np.random.default_rng(4)
    false = 0
    for _ in range(40):
        D, floors = pool([8], rng, floor=size)
        found = noise_kernel(D, floors)
        false += found.contrast
        if not found.contrast:
            np.testing.assert_array_equal(found.S, 1.0)
            assert found.gamma is None
            np.testing.assert_allclose(path(found.S).weights, 1 / 8, atol=1e-12)
            assert effective_number(found.S) == pytest.approx(1.0)
    assert false <= 2


def test_few_pairs_that_stand_out_of_a_floor_that_is_not_known_well_are_no_contrast():
    D = np.full((4, 4), 0.02)
    D[0, 1] = D[1, 0] = 0.07
    np.fill_diagonal(D, 0.0)
    assert noise_kernel(D, [0.0201, 0.0199, 0.02, 0.02]).contrast
    assert not noise_kernel(D, [0.005, 0.035, 0.01, 0.03]).contrast


@pytest.mark.parametrize("floors", [[], [0.1], [0.1, -0.1], [0.1, np.nan], [[0.1, 0.2]]])
def test_a_floor_needs_two_measurements(floors):
    with pytest.raises(InputError, match="at least two divergences that are not negative"):
        noise_kernel(np.ones((3, 3)) - np.eye(3), floors)


def test_what_a_pair_is_apart_is_what_the_pool_would_make_of_it(monkeypatch):
    """The second adapters are compared with the weights, the support and the positions of the pool's own."""
    rng = np.random.default_rng(5)
    counts, lengths, owner = [4, 7, 3], [], []
    for task, count in enumerate(counts):
        for _ in range(count):
            lengths.append(int(rng.integers(1, 5)))
            owner.append(task)
    task = np.repeat(owner, lengths)
    probe = [f"p{i}" for i in np.repeat(np.arange(len(lengths)), lengths)]
    logits = rng.normal(size=(4, len(task), 9))
    logprobs = (logits - np.log(np.exp(logits).sum(axis=2, keepdims=True)))[:, :, :7].astype(np.float32)
    models = ("a", "b", "c")
    whole = Part(logprobs[0], logprobs[1:], probe, task)
    sums = PoolSums.empty(models, counts).add(whole)
    expected = Affinities(
        models, sums.divergence.matrix(), sums.upper_divergence(), sums.divergence.standard_errors(), sums.mean("pmi"),
        sums.profiles(), sums.mean("lift"), sums.mean("answers"), sums.mean("coverage"), "x",
    )  # fmt: skip

    def read_part(part, tasks, adapters):
        assert tasks == models
        keep = np.isin(task, part)
        chosen = logprobs[1:][[models.index(name) for name in adapters]][:, keep]
        return Part(logprobs[0][keep], chosen, [p for p, k in zip(probe, keep, strict=True) if k], task[keep])

    monkeypatch.setattr(noise, "read_part", read_part)
    pairs = [("a", "c"), ("b", "a")]
    parts = [noise.part_sums(part, models, counts, pairs) for part in ([0, 2], [1])]
    total = sum(parts) / (min(counts) * len(models))
    divergences, distance = total[:, :-1], total[:, -1]
    # Of each second adapter from every task's own, its own task's among them.
    np.testing.assert_allclose(divergences, expected.divergence[[2, 0]], rtol=1e-8, atol=1e-15)
    profiles = expected.profile_distances
    np.testing.assert_allclose(distance, [profiles[0, 2], profiles[1, 0]], rtol=1e-8)


def test_affinities_without_a_floor_say_how_to_get_one(monkeypatch):
    D = np.ones((3, 3)) - np.eye(3)
    bare = Affinities(("a", "b", "c"), D, D, D, D, np.eye(3), D, D, D, "x")
    with pytest.raises(InputError, match=r"it takes a second fine-tune of some tasks \(affinity\.gamma: noise\)"):
        bare.above_noise()
