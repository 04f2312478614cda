import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax
from scipy.stats import entropy

from taskpgm_ray import affinity
from taskpgm_ray.errors import IndefiniteAffinityError, InputError
from taskpgm_ray.mrf import nearest_conditionally_psd


def coarse(n, positions, cells, seed=0, vocabulary=200):
    rng = np.random.default_rng(seed)
    full = log_softmax(rng.normal(size=(n, positions, vocabulary)) * 2.5, axis=-1)
    top = np.argsort(-full.mean(0), axis=-1)[:, :cells]
    return full, np.take_along_axis(full, top[None], axis=2)


def scipy_jsd(p, w):
    n = len(p)
    d = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            d[i, j] = d[j, i] = w @ [jensenshannon(a, b) ** 2 for a, b in zip(p[i], p[j], strict=True)]
    return d


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
        np.testing.assert_allclose(affinity.tail_mass(lp, w), tail @ w, atol=1e-15)
    # Disjoint tails attain the upper bound, equal conditionals the lower one.
    two = np.log(np.array([[[0.6]], [[0.3]]]))
    low, high = affinity.bracket(two)
    disjoint = jensenshannon([0.6, 0.4, 0.0], [0.3, 0.0, 0.7]) ** 2
    equal = jensenshannon([0.6, 0.1, 0.3], [0.3, 0.175, 0.525]) ** 2
    assert high[0, 1] == pytest.approx(disjoint, abs=1e-14)
    assert low[0, 1] == pytest.approx(equal, abs=1e-14)
    np.testing.assert_allclose(affinity.tail_mass(two), [0.4, 0.7])


def test_common_probes_give_positive_definite_kernels():
    _, lp = coarse(25, 30, 16)
    D = affinity.jsd_matrix(lp)
    J = np.eye(25) - 1 / 25
    assert np.linalg.eigvalsh(-J @ D @ J).min() > -1e-14
    for S in (affinity.kernel(D), affinity.kernel(D, 30.0), affinity.linear_kernel(D)):
        assert np.linalg.eigvalsh(S).min() > -1e-12
    S = affinity.kernel(D)
    assert np.median(S[np.triu_indices(25, 1)]) == pytest.approx(0.5)
    assert affinity.median_gamma(D) == pytest.approx(np.log(2) / np.median(D[np.triu_indices(25, 1)]))


def test_weights_count_examples_and_tasks_once():
    example = ["a", "a", "a", "b", "c", "c"]
    np.testing.assert_allclose(affinity.balanced_weights(example), np.array([1, 1, 1, 3, 1.5, 1.5]) / 9)
    task = [0, 0, 0, 0, 1, 1]
    w = affinity.balanced_weights(example, task)
    assert w[:4].sum() == pytest.approx(w[4:].sum())
    assert w[:3].sum() == pytest.approx(w[3])


def test_partial_sums_merge_bit_exactly_in_any_order():
    _, lp = coarse(7, 60, 12, seed=3)
    rng = np.random.default_rng(0)
    examples = [f"task/{i // 3}" for i in range(60)]
    w = rng.uniform(0.1, 1, size=60)
    models = [f"m{i}" for i in range(7)]
    new = lambda: affinity.JSDSums(models, identity="probes-1", buckets=8)  # noqa: E731
    whole = new().add(lp, examples, w)
    order = rng.permutation(60)
    parts = [new().add(lp[:, s], [examples[i] for i in s], w[s]) for s in np.array_split(order, 7)]
    merged = parts[3]
    for i in (6, 0, 2, 5, 1, 4):
        merged = parts[i].merge(merged)
    assert (merged.sums == whole.sums).all()
    assert (merged.weight == whole.weight).all()
    assert merged.positions == 60
    assert (new().add(lp, examples, w, threads=2).sums == whole.sums).all()
    np.testing.assert_allclose(whole.matrix(), affinity.jsd_matrix(lp, w), atol=1e-11)


def test_partial_sums_refuse_what_does_not_belong_together():
    a = affinity.JSDSums(["x", "y"], identity="p")
    for other in (
        affinity.JSDSums(["x", "z"], identity="p"),
        affinity.JSDSums(["x", "y"], identity="q"),
        affinity.JSDSums(["x", "y"], identity="p", buckets=4),
    ):
        with pytest.raises(InputError, match="do not belong together"):
            a.merge(other)
    with pytest.raises(InputError, match="no position"):
        a.matrix()
    with pytest.raises(InputError, match="different names"):
        affinity.JSDSums(["x", "x"])


def test_leave_one_bucket_out_and_standard_errors():
    _, lp = coarse(4, 400, 8, seed=5)
    examples = [str(i) for i in range(400)]
    sums = affinity.JSDSums(list("abcd"), buckets=20).add(lp, examples)
    left = sums.leave_one_bucket_out()
    from taskpgm_ray.affinity.sums import bucket_of

    keep = [i for i, e in enumerate(examples) if bucket_of(e, 20) != 0]
    np.testing.assert_allclose(left[0], affinity.jsd_matrix(lp[:, keep]), atol=1e-11)
    d, w = affinity.example_divergences(lp, examples)
    exact = affinity.mean_standard_error(d, w)
    off = ~np.eye(4, dtype=bool)
    ratio = sums.standard_errors()[off] / exact[off]
    assert ((ratio > 0.5) & (ratio < 2)).all()
    np.testing.assert_allclose(exact[0, 1], d[:, 0, 1].std(ddof=1) / 20, rtol=1e-12)


def test_example_divergences_average_to_the_matrix():
    _, lp = coarse(4, 30, 8)
    w = np.random.default_rng(0).uniform(size=30)
    d, total = affinity.example_divergences(lp, [i // 4 for i in range(30)], w)
    assert len(d) == 8
    np.testing.assert_allclose(np.tensordot(total, d, axes=1), affinity.jsd_matrix(lp, w), atol=1e-14)


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


def test_projection_is_the_nearest_with_the_same_linear_part():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(7, 7))
    A = A + A.T
    S, repair = nearest_conditionally_psd(A)
    J = np.eye(7) - 1 / 7
    np.testing.assert_allclose(S - J @ S @ J, A - J @ A @ J, atol=1e-12)
    values = np.linalg.eigvalsh(J @ A @ J)
    assert np.linalg.norm(S - A) == pytest.approx(np.linalg.norm(np.minimum(values, 0)), rel=1e-9)
    assert repair.lambda_min == pytest.approx(values[0])


def test_effective_number_counts_clones_once():
    assert affinity.effective_number(np.eye(5)) == pytest.approx(5)
    S = np.kron(np.eye(3), np.ones((2, 2)))
    assert affinity.effective_number(S) == pytest.approx(3)


def test_text_affinity_sees_words():
    texts = [["add the two numbers", "add the three numbers"], ["add the numbers"], ["translate this french word"]]
    S = affinity.text_affinity(texts)
    assert S[0, 1] > 0.4 > S[0, 2]
    assert np.linalg.eigvalsh(S).min() > -1e-12
    with pytest.raises(InputError, match="task 1 has no text"):
        affinity.text_affinity([["a b"], [" "]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affinity.jsd_matrix(np.zeros((2, 3))), "shape"),
        (lambda: affinity.jsd_matrix(np.full((2, 1, 2), np.nan)), "no log-probability"),
        (lambda: affinity.jsd_matrix(np.full((2, 1, 2), 0.3)), "no log-probability"),
        (lambda: affinity.jsd_matrix(np.log(np.full((2, 1, 2), 0.7))), "total probability"),
        (lambda: affinity.jsd_matrix(np.log(np.full((2, 1, 2), 0.4)), [1, 2]), "one a probe position"),
        (lambda: affinity.jsd_matrix(np.log(np.full((2, 1, 2), 0.4)), [-1]), ">= 0"),
        (lambda: affinity.kernel([[0, 1], [1, 0]], gamma=-1), "gamma"),
        (lambda: affinity.kernel(np.zeros((3, 3))), "median divergence is 0"),
        (lambda: affinity.kernel(np.eye(2)), "diagonal"),
        (lambda: affinity.linear_kernel([[0, 0.9], [0.9, 0]]), "bits"),
        (lambda: affinity.pmi_matrix(np.full((2, 2), -np.inf), [0, 1]), "finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
