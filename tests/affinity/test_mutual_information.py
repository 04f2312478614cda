import numpy as np
import pytest

from taskpgm_ray import affinity
from taskpgm_ray.errors import IndefiniteAffinityError, InputError


def pmi_data(n=6, per_task=15, seed=0):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n), per_task)
    gold = rng.normal(-2, 0.3, size=(n, n * per_task))
    gold[owner, np.arange(len(owner))] += 0.8
    return gold, owner, rng.normal(-2, 0.3, size=n * per_task)


def test_pmi_properties():
    gold, owner, base = pmi_data()
    values = affinity.pmi(gold)
    assert values.max() <= np.log(6)
    np.testing.assert_allclose(np.exp(values).mean(axis=0), 1)
    A, B = affinity.pmi_matrix(gold, owner), affinity.pmi_matrix(gold, owner, base)
    assert A[2, 3] == pytest.approx(values[2, owner == 3].mean())
    assert B[2, 3] == pytest.approx((gold[2] - base)[owner == 3].mean())
    # The two definitions differ by a constant in each column; terms common to all models cancel in the first.
    np.testing.assert_allclose(A - B, np.broadcast_to((A - B)[0], A.shape), atol=1e-13)
    shift = np.random.default_rng(1).normal(size=len(owner))
    np.testing.assert_allclose(affinity.pmi_matrix(gold + shift, owner), A, atol=1e-13)
    assert np.trace(A) / 6 <= np.log(6)
    se = affinity.pmi_standard_errors(gold, owner)
    assert se[1, 4] == pytest.approx(values[1, owner == 4].std(ddof=1) / np.sqrt(15))


def test_pairwise_pmi_is_what_each_model_is_better_at_on_its_own_task():
    rng = np.random.default_rng(3)
    L, owner, base = -rng.exponential(size=(4, 20)), np.arange(20) % 4, -rng.exponential(size=20)
    expected = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            here, there = (L[i] - L[j])[owner == j], (L[j] - L[i])[owner == i]
            expected[i, j] = (here.mean() + there.mean()) / 2
    for table in (affinity.pmi_matrix(L, owner), affinity.pmi_matrix(L, owner, base)):
        np.testing.assert_allclose(affinity.pmi_pairwise(table), expected, atol=1e-12)
    with pytest.raises(InputError, match="square"):
        affinity.pmi_pairwise(np.zeros((2, 3)))


def test_the_kernel_is_that_of_mean_squared_differences():
    gold, owner, _ = pmi_data(5, 4)
    owner = np.concatenate([owner, [0, 0, 0]])  # tasks of unequal size: each counts once
    gold = np.hstack([gold, np.random.default_rng(3).normal(-2, 0.5, size=(5, 3))])
    S = affinity.pmi_kernel(gold, owner, 2.0)
    for i in range(5):
        for j in range(5):
            squares = (gold[i] - gold[j]) ** 2
            mean = np.mean([squares[owner == task].mean() for task in range(5)])
            assert S[i, j] == pytest.approx(np.exp(-2 * mean), abs=1e-12)
    # Terms that all models share cancel: PMI, lift and log-likelihood have the same distances.
    shift = np.random.default_rng(1).normal(size=len(owner))
    np.testing.assert_allclose(affinity.pmi_kernel(gold + shift, owner, 2.0), S, atol=1e-12)
    assert np.median(affinity.pmi_kernel(gold, owner)[np.triu_indices(5, 1)]) == pytest.approx(0.5, abs=0.01)


def test_clones_share_one_place_under_the_kernel():
    """Four clones among ten tasks: at tau = 0 they weigh what one task does, not near to four as under correlations."""
    from taskpgm_ray.mrf import solve

    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(13), 20)
    skill = rng.normal(0, 0.5, size=(10, 260))
    gold = -2 + np.vstack([skill, np.repeat(skill[:1], 3, axis=0)]) + rng.normal(0, 1e-3, size=(13, 260))
    clones = [0, 10, 11, 12]
    weights = solve(affinity.pmi_kernel(gold, owner), 0.0).weights
    assert 0.05 < weights[clones].sum() < 0.15
    assert solve(affinity.pmi_profile(gold, owner), 0.0).weights[clones].sum() > 0.25


def test_pmi_affinities_are_valid():
    gold, owner, _ = pmi_data(12, 5)
    S = affinity.pmi_profile(gold, owner)
    assert (np.diag(S) == 1).all()
    assert np.linalg.eigvalsh(S).min() > -1e-12
    table = np.random.default_rng(0).normal(size=(12, 12))
    S, repair = affinity.pmi_symmetric(table)
    J = np.eye(12) - 1 / 12
    assert np.linalg.eigvalsh(J @ S @ J).min() > -1e-10
    assert repair.clipped > 0
    with pytest.raises(IndefiniteAffinityError):
        affinity.pmi_symmetric(table, noise=1e-3)
    with pytest.raises(InputError, match="no profile of its own"):
        affinity.pmi_profile(np.zeros((3, 3)), [0, 1, 2])
    with pytest.raises(InputError, match="at least once"):
        affinity.pmi_matrix(gold, np.zeros_like(owner))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affinity.pmi_matrix(np.full((2, 2), -np.inf), [0, 1]), "finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
