import numpy as np
import pytest
from coarse import coarse, scipy_jsd
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax
from scipy.stats import entropy

from taskpgm_ray import affinity
from taskpgm_ray.errors import InputError


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_jsd_equals_scipy(threads, weighted):
    _, lp = coarse(6, 40, 17)
    p = np.exp(lp)
    p = np.concatenate([p, 1 - p.sum(2, keepdims=True)], axis=2)
    w = np.random.default_rng(1).uniform(size=40) if weighted else np.ones(40)
    D = affinity.jsd_matrix(lp, w, threads=threads)
    np.testing.assert_allclose(D, scipy_jsd(p, w / w.sum()), atol=1e-14)
    assert (D == D.T).all()
    assert (np.diag(D) == 0).all()


def test_rows_are_those_of_the_whole_matrix():
    _, lp = coarse(7, 700, 9)
    w = np.random.default_rng(1).uniform(size=700)
    whole = affinity.jsd_matrix(lp, w)
    np.testing.assert_allclose(affinity.jsd_rows(lp, slice(5, None), w), whole[5:], rtol=1e-12, atol=1e-15)


def test_jsd_does_not_depend_on_the_number_of_threads_and_bad_tiles_are_reported():
    _, lp = coarse(5, 700, 9)
    assert (affinity.jsd_matrix(lp, threads=1) == affinity.jsd_matrix(lp, threads=3)).all()
    lp[2, 600] = np.log(0.2)
    with pytest.raises(InputError, match="model 2 at position 600 has total probability"):
        affinity.jsd_matrix(lp, threads=2)
    with pytest.raises(InputError, match="threads must be at least 1"):
        affinity.jsd_matrix(lp, threads=0)


def test_jsd_is_exact_over_the_whole_range_of_probabilities():
    rng = np.random.default_rng(4)
    lp = log_softmax(rng.normal(size=(4, 50, 21)) * 60, axis=-1)
    p = np.exp(lp[:, :, :20])
    p = np.concatenate([p, np.maximum(1 - p.sum(2, keepdims=True), 0)], axis=2)
    assert p[p > 0].min() < 1e-100
    np.testing.assert_allclose(affinity.jsd_matrix(lp[:, :, :20]), scipy_jsd(p, np.full(50, 1 / 50)), atol=1e-14)


def test_jsd_handles_zeros_float32_and_equal_models():
    with np.errstate(divide="ignore"):
        lp = np.log(np.array([[[0.5, 0.5, 0.0]], [[0.0, 0.0, 1.0]], [[0.5, 0.5, 0.0]]]))
    D = affinity.jsd_matrix(lp)
    assert D[0, 1] == pytest.approx(np.log(2))
    assert D[0, 2] == pytest.approx(0, abs=1e-15)
    _, lp = coarse(4, 30, 20)
    np.testing.assert_allclose(affinity.jsd_matrix(lp.astype(np.float32)), affinity.jsd_matrix(lp), atol=1e-6)


def test_bracket_contains_the_full_divergence_and_is_tight_at_its_ends():
    full, lp = coarse(5, 30, 25)
    for w in (np.full(30, 1 / 30), np.random.default_rng(2).dirichlet(np.ones(30))):
        low, high = affinity.bracket(lp, w)
        exact = scipy_jsd(np.exp(full), w)
        assert (low <= exact + 1e-12).all()
        assert (exact <= high + 1e-12).all()
        assert (low == affinity.jsd_matrix(lp, w)).all()
        tail = 1 - np.exp(lp).sum(axis=2)
        a, b = tail[0], tail[1]
        h2 = entropy([a / (a + b), b / (a + b)])
        assert high[0, 1] == pytest.approx(low[0, 1] + w @ ((a + b) / 2 * h2), abs=1e-14)
    # Disjoint tails attain the upper bound, equal conditionals the lower one.
    two = np.log(np.array([[[0.6]], [[0.3]]]))
    low, high = affinity.bracket(two)
    disjoint = jensenshannon([0.6, 0.4, 0.0], [0.3, 0.0, 0.7]) ** 2
    equal = jensenshannon([0.6, 0.1, 0.3], [0.3, 0.175, 0.525]) ** 2
    assert high[0, 1] == pytest.approx(disjoint, abs=1e-14)
    assert low[0, 1] == pytest.approx(equal, abs=1e-14)


def test_example_divergences_average_to_the_matrix():
    _, lp = coarse(4, 30, 8)
    w = np.random.default_rng(0).uniform(size=30)
    d, total = affinity.example_divergences(lp, [i // 4 for i in range(30)], w)
    assert len(d) == 8
    np.testing.assert_allclose(np.tensordot(total, d, axes=1), affinity.jsd_matrix(lp, w), atol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affinity.jsd_matrix(np.zeros((2, 3))), "shape"),
        (lambda: affinity.jsd_matrix(np.full((2, 1, 2), np.nan)), "no log-probability"),
        (lambda: affinity.jsd_matrix(np.full((2, 1, 2), 0.3)), "no log-probability"),
        (lambda: affinity.jsd_matrix(np.log(np.full((2, 1, 2), 0.7))), "total probability"),
        (lambda: affinity.jsd_matrix(np.log(np.full((2, 1, 2), 0.4)), [1, 2]), "one a probe position"),
        (lambda: affinity.jsd_matrix(np.log(np.full((2, 1, 2), 0.4)), [-1]), ">= 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
