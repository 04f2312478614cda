import numpy as np
import pytest
from coarse import coarse

from taskpgm_ray import affinity
from taskpgm_ray.affinity.jsd_sums import bucket_of
from taskpgm_ray.errors import InputError


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
    keep = [i for i, e in enumerate(examples) if bucket_of(e, 20) != 0]
    np.testing.assert_allclose(left[0], affinity.jsd_matrix(lp[:, keep]), atol=1e-11)
    d, _ = affinity.example_divergences(lp, examples)
    exact = d.std(axis=0, ddof=1) / 20
    off = ~np.eye(4, dtype=bool)
    ratio = sums.standard_errors()[off] / exact[off]
    assert ((ratio > 0.5) & (ratio < 2)).all()
