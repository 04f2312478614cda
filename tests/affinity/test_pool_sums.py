"""The sums of a pool against plain numpy over all positions at once; any division and order gives the same bits."""

import numpy as np
import pytest

from taskpgm_ray.affinity import bracket, jsd_matrix, pmi_matrix, pmi_profile
from taskpgm_ray.affinity.mutual_information import profile_affinity
from taskpgm_ray.affinity.pool_sums import Part, PoolSums
from taskpgm_ray.errors import InputError

TASKS = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def pool():
    """(parts of whole probes, number of probes of each task): tasks and probes of different sizes."""
    rng = np.random.default_rng(0)
    parts, probes = [], (7, 3, 12, 5)
    for task, count in enumerate(probes):
        for probe in range(count):
            length = int(rng.integers(1, 6))
            logits = rng.normal(size=(1 + len(TASKS), length, 12)) * 2
            logprobs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[:, :, :9].astype(np.float32)
            parts.append(Part(logprobs[0], logprobs[1:], [f"{task}/{probe}"] * length, np.full(length, task)))
    return parts, probes


def joined(parts):
    return Part(
        np.concatenate([part.base for part in parts]),
        np.concatenate([part.adapters for part in parts], axis=1),
        [probe for part in parts for probe in part.probe],
        np.concatenate([part.task for part in parts]),
    )


def whole(pool):
    parts, probes = pool
    return PoolSums.empty(TASKS, probes).add(joined(parts))


def arrays(sums):
    names = ("widening", "pmi", "lift", "answers", "gram", "coverage", "change")
    return [sums.divergence.sums, sums.divergence.weight, *(getattr(sums, name) for name in names)]


def by_hand(pool):
    """Weights of the positions, mean log-probability of the right answer per probe, owner of each probe."""
    part, probes = joined(pool[0]), pool[1]
    names = list(dict.fromkeys(part.probe))
    weights = np.array(
        [1 / (part.probe.count(name) * probes[task]) for name, task in zip(part.probe, part.task, strict=True)]
    )
    everyone = np.concatenate([part.base[None], part.adapters]).astype(np.float64)
    chosen = [np.array(part.probe) == name for name in names]
    gold = np.stack([everyone[:, rows, 0].mean(axis=1) for rows in chosen], axis=1)
    mass = np.stack([np.exp(everyone[:, rows]).sum(-1).mean(axis=1) for rows in chosen], axis=1)
    owner = np.array([int(name[0]) for name in names])
    return part, weights / weights.sum(), gold, mass, owner


def test_everything_equals_plain_numpy(pool):
    sums = whole(pool)
    part, weights, gold, mass, owner = by_hand(pool)
    lower, upper = bracket(part.adapters, weights)
    np.testing.assert_allclose(sums.divergence.matrix(), jsd_matrix(part.adapters, weights), atol=1e-13)
    np.testing.assert_allclose(sums.divergence.matrix(), lower, atol=1e-13)
    np.testing.assert_allclose(sums.upper_divergence(), upper, atol=1e-12)
    np.testing.assert_allclose(sums.mean("pmi"), pmi_matrix(gold[1:], owner), atol=1e-11)
    np.testing.assert_allclose(sums.mean("lift"), pmi_matrix(gold[1:], owner, gold[0]), atol=1e-11)
    lengths = np.array([part.probe.count(name) for name in dict.fromkeys(part.probe)])
    answers = np.maximum(gold * lengths, np.log(1e-12))
    assert 0 < (answers > gold * lengths).mean() < 1, "some answers are below the least, and some are not"
    np.testing.assert_allclose(sums.mean("answers"), pmi_matrix(answers[1:], owner, answers[0]), atol=1e-11)
    np.testing.assert_allclose(profile_affinity(sums.profiles()), pmi_profile(gold[1:], owner), atol=1e-11)
    coverage = np.stack([mass[:, owner == task].mean(axis=1) for task in range(4)], axis=1)
    np.testing.assert_allclose(sums.mean("coverage"), coverage, atol=1e-11)
    np.testing.assert_array_equal(sums.change, np.abs(part.adapters - part.base).max(axis=(1, 2)))


@pytest.mark.parametrize("seed", range(5))
def test_order_and_grouping_of_the_parts_do_not_show(pool, seed):
    parts, probes = pool
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(parts))
    chains = [PoolSums.empty(TASKS, probes) for _ in range(1 + seed)]
    for index in order:
        chain = int(rng.integers(len(chains)))
        chains[chain] = chains[chain].copy().add(parts[index])
    merged = chains[0]
    for chain in chains[1:]:
        merged = chain.merge(merged)
    reference = PoolSums.empty(TASKS, probes)
    for part in parts:
        reference.add(part)
    for got, expected in zip(arrays(merged), arrays(reference), strict=True):
        np.testing.assert_array_equal(got, expected)
    # The divergence is rounded position by position, so that not even the cut into parts shows.
    np.testing.assert_array_equal(merged.divergence.sums, whole(pool).divergence.sums)


def test_adding_to_a_copy_leaves_the_original_alone(pool):
    parts, probes = pool
    empty = PoolSums.empty(TASKS, probes)
    empty.copy().add(parts[0])
    assert not any(array.any() for array in arrays(empty))


def test_sums_of_other_pools_are_not_merged(pool):
    _, probes = pool
    sums = PoolSums.empty(TASKS, probes, "x")
    for other in (
        PoolSums.empty(("a", "b", "c", "e"), probes, "x"),
        PoolSums.empty(TASKS, (7, 3, 12, 6), "x"),
        PoolSums.empty(TASKS, probes, "y"),
    ):
        with pytest.raises(InputError, match="belong"):
            sums.merge(other)
    with pytest.raises(InputError, match="positive number"):
        PoolSums.empty(TASKS, (1, 2, 0, 3))
