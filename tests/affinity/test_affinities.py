"""S as a view of stored sums: every kind and bandwidth of one unit, and what comes back from storage."""

import numpy as np
import pytest

from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.affinity.pool_sums import Part, PoolSums
from taskpgm_ray.affinity.stored import divergence_groups, read, store
from taskpgm_ray.errors import InertAdapterError
from taskpgm_ray.storage import Storage, Unit

TASKS = ("a", "b", "c", "d")


@pytest.fixture
def sums():
    """Four adapters on 40 probes of two positions, the support of six tokens."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 80, 7))
    logprobs = (logits - np.log(np.exp(logits).sum(axis=2, keepdims=True)))[:, :, :6].astype(np.float32)
    probe = [f"p{i // 2}" for i in range(80)]
    task = np.repeat(np.arange(4), 20)
    return PoolSums.empty(TASKS, [10] * 4).add(Part(logprobs[0], logprobs[1:], probe, task))


@pytest.fixture
def affinities(sums, tmp_path):
    unit = Unit(Storage(str(tmp_path)), "affinity/x")
    store(unit, sums)
    return read(unit, "x")


def test_the_jsd_view_is_the_kernel_of_the_divergence(affinities):
    off_diagonal = affinities.divergence[np.triu_indices(4, 1)]
    assert affinities.median_gamma() == pytest.approx(np.log(2) / np.median(off_diagonal))
    for gamma in (affinities.median_gamma(), 0.5, 20.0):
        np.testing.assert_allclose(affinities.view("jsd", gamma), np.exp(-gamma * affinities.divergence), rtol=1e-12)
    np.testing.assert_array_equal(affinities.view("jsd"), affinities.view("jsd", affinities.median_gamma()))


def test_the_pmi_view_is_the_kernel_of_the_profiles_distances(affinities, sums):
    gram = sums.profiles()
    distances = np.diag(gram)[:, None] + np.diag(gram)[None] - 2 * gram
    np.testing.assert_allclose(affinities.profile_distances, distances, atol=1e-12)
    median = np.median(distances[np.triu_indices(4, 1)])
    assert affinities.median_gamma("pmi") == pytest.approx(np.log(2) / median)
    np.testing.assert_allclose(affinities.view("pmi"), 0.5 ** (distances / median), atol=1e-9)
    np.testing.assert_allclose(affinities.view("pmi", 3.0), np.exp(-3 * distances), atol=1e-11)
    np.testing.assert_array_equal(np.diag(affinities.view("pmi")), 1.0)


def test_what_is_stored_comes_back_to_the_bit(affinities, sums, tmp_path):
    assert affinities.tasks == TASKS
    assert affinities.fingerprint == "x"
    np.testing.assert_array_equal(affinities.divergence, sums.divergence.matrix())
    np.testing.assert_array_equal(affinities.divergence_upper, sums.upper_divergence())
    np.testing.assert_array_equal(affinities.divergence_se, sums.divergence.standard_errors())
    np.testing.assert_array_equal(affinities.pmi, sums.mean("pmi"))
    np.testing.assert_array_equal(affinities.lift, sums.mean("lift"))
    np.testing.assert_array_equal(affinities.gram, sums.profiles())
    np.testing.assert_array_equal(affinities.coverage, sums.mean("coverage"))
    groups = divergence_groups(Unit(Storage(str(tmp_path)), "affinity/x"))
    np.testing.assert_array_equal(groups.matrix(), affinities.divergence)


def test_nothing_that_a_view_decides_is_stored(affinities, tmp_path):
    unit = Unit(Storage(str(tmp_path)), "affinity/x")
    assert not {"kind", "gamma"} & unit.manifest().keys()
    assert "affinity" not in unit.files.read_table("matrices.parquet").column_names


def test_an_adapter_that_changes_nothing_is_no_affinity(sums, tmp_path):
    sums.change[2] = 1e-7
    with pytest.raises(InertAdapterError, match="the adapters of c predict exactly what the base model predicts"):
        store(Unit(Storage(str(tmp_path)), "affinity/y"), sums)


def test_low_coverage_is_said_with_the_worst_pair(affinities):
    assert "coverage is below 95%" in affinities.coverage_warning()
    row, column = np.unravel_index(affinities.coverage.argmin(), affinities.coverage.shape)
    worst = "the base model" if row == 0 else f"the adapter of {TASKS[row - 1]}"
    assert f"({worst} on {TASKS[column]})" in affinities.coverage_warning()
    full = Affinities(**{**vars(affinities), "coverage": np.ones((5, 4))})
    assert full.coverage_warning() == ""
