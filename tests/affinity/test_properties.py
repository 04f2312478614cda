"""Properties of the divergences and affinities for arbitrary inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from taskpgm_ray import affinity

seeds = st.integers(0, 2**31)


def logprobs(n, positions, cells, seed, spread=3.0):
    """Log-probabilities on the support [n, positions, cells]; the tail takes what is left."""
    rng = np.random.default_rng(seed)
    return log_softmax(rng.normal(size=(n, positions, cells + 1)) * spread, axis=-1)[:, :, :cells]


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(1, 30), st.integers(1, 70), seeds, st.sampled_from([0.1, 3.0, 40.0]))
def test_divergences_are_symmetric_bounded_and_of_negative_type(n, positions, cells, seed, spread):
    lp = logprobs(n, positions, cells, seed, spread)
    w = np.random.default_rng(seed).uniform(0.01, 1, size=positions)
    low, high = affinity.bracket(lp, w, threads=1)
    assert (low == low.T).all()
    assert (np.diag(low) == 0).all()
    assert (np.diag(high) == 0).all()
    assert (low >= 0).all()
    assert (low <= high + 1e-15).all()
    assert high.max() <= np.log(2)
    J = np.eye(n) - 1 / n
    assert np.linalg.eigvalsh(-J @ low @ J).min() >= -1e-14
    for S in (affinity.kernel(low, 1.0), affinity.kernel(low, 30.0)):
        assert np.linalg.eigvalsh(S).min() >= -1e-13


@settings(max_examples=30)
@given(st.integers(2, 7), st.integers(1, 30), st.integers(1, 40), seeds)
def test_divergences_follow_permutations(n, positions, cells, seed):
    lp = logprobs(n, positions, cells, seed)
    rng = np.random.default_rng(seed)
    w = rng.uniform(0.01, 1, size=positions)
    D = affinity.jsd_matrix(lp, w, threads=1)
    models, order, tokens = rng.permutation(n), rng.permutation(positions), rng.permutation(cells)
    moved = affinity.jsd_matrix(lp[models][:, order][:, :, tokens], w[order] * 7.0, threads=1)
    np.testing.assert_allclose(moved, D[np.ix_(models, models)], atol=1e-14)


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(2, 20), st.integers(2, 30), seeds)
def test_merging_tokens_or_tails_never_raises_a_divergence(n, positions, cells, seed):
    """Data processing: fewer cells see less, and the wider bracket holds the narrower one."""
    lp = logprobs(n, positions, cells, seed)
    fine_low, fine_high = affinity.bracket(lp, threads=1)
    low, high = affinity.bracket(lp[:, :, : cells // 2], threads=1)
    assert (low <= fine_low + 1e-14).all()
    assert (fine_high <= high + 1e-14).all()


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(2, 40), st.integers(1, 20), seeds, st.integers(1, 6))
def test_partial_sums_are_bit_equal_for_any_division(n, positions, cells, seed, parts):
    lp = logprobs(n, positions, cells, seed).astype(np.float32)
    rng = np.random.default_rng(seed)
    examples = rng.integers(0, 9, size=positions).tolist()
    w = rng.uniform(0, 1, size=positions)
    names = [f"m{i}" for i in range(n)]
    whole = affinity.JSDSums(names, buckets=4).add(lp, examples, w)
    chunks = [
        affinity.JSDSums(names, buckets=4).add(lp[:, s], [examples[i] for i in s], w[s])
        for s in np.array_split(rng.permutation(positions), parts)
        if len(s)
    ]
    merged = chunks.pop(int(rng.integers(len(chunks))))
    while chunks:
        merged = merged.merge(chunks.pop(int(rng.integers(len(chunks)))))
    assert (merged.sums == whole.sums).all()
    assert (merged.weight == whole.weight).all()
    assert (merged.matrix() == whole.matrix()).all()
    np.testing.assert_allclose(whole.matrix(), affinity.jsd_matrix(lp, w, threads=1), atol=1e-11)


@settings(max_examples=60)
@given(st.integers(1, 8), st.integers(1, 5), seeds, st.floats(0.01, 200))
def test_pmi_is_bounded_normalised_and_blind_to_shifts(n, per_task, seed, spread):
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(n), per_task))
    gold = rng.normal(-2, spread, size=(n, n * per_task))
    values = affinity.pmi(gold)
    assert values.max() <= np.log(n) + 1e-12
    np.testing.assert_allclose(np.exp(values).mean(axis=0), 1, rtol=1e-12)
    shift = rng.normal(0, spread, size=n * per_task)
    np.testing.assert_allclose(affinity.pmi(gold + shift), values, atol=1e-12 * max(1, spread))
    A = affinity.pmi_matrix(gold, owner)
    assert np.trace(A) / n <= np.log(n) + 1e-12
    # Against the lift a PMI table differs by one constant a column, whatever the base model.
    B = affinity.pmi_matrix(gold, owner, shift)
    np.testing.assert_allclose(A - B, np.broadcast_to((A - B)[0], A.shape), atol=1e-11 * max(1, spread))


@settings(max_examples=40)
@given(st.integers(2, 8), st.integers(1, 5), seeds)
def test_profile_affinity_is_a_correlation(n, per_task, seed):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n), per_task)
    gold = rng.normal(-2, 1, size=(n, n * per_task))
    S = affinity.pmi_profile(gold, owner)
    assert (np.diag(S) == 1).all()
    assert np.abs(S).max() <= 1 + 1e-14
    assert np.linalg.eigvalsh(S).min() >= -1e-13
    np.testing.assert_allclose(affinity.pmi_profile(gold + rng.normal(size=n * per_task), owner), S, atol=1e-12)


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 4), seeds)
def test_balanced_weights_give_every_task_and_example_its_share(positions, tasks, seed):
    rng = np.random.default_rng(seed)
    example = rng.integers(0, 6, size=positions)
    task = example % tasks
    w = affinity.balanced_weights(example, task)
    assert w.sum() == pytest.approx(1)
    for t in np.unique(task):
        assert w[task == t].sum() == pytest.approx(1 / len(np.unique(task)))
        own = [w[example == e].sum() for e in np.unique(example[task == t])]
        np.testing.assert_allclose(own, own[0])
        assert all(len(np.unique(w[example == e].round(15))) == 1 for e in np.unique(example[task == t]))
