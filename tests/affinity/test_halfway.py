"""Adapters at half of their budget beside themselves at its end: only what changes its order counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.affinity.halfway import Halfway


def distances(places):
    """Squared distances of tasks at these points [n, d]."""
    return ((places[:, None] - places[None]) ** 2).sum(-1)


def halfway(before, after):
    """Of tasks at these points."""
    half, full = ({"jsd": distances(places), "pmi": 2 * distances(places)} for places in (before, after))
    return Halfway(tuple(f"t{i}" for i in range(len(after))), half, full)


def drawn(n=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 4))


@given(
    seed=st.integers(0, 999), scale=st.floats(0.01, 100), gamma=st.floats(0.1, 10), floor=st.floats(0, 0.5),
    kind=st.sampled_from(["jsd", "pmi"]),
)  # fmt: skip
@settings(max_examples=60)
def test_that_adapters_move_apart_changes_nothing(seed, scale, gamma, floor, kind):
    places = drawn(seed=seed)
    found = halfway(scale * places, places)
    assert found.correlation(kind) == pytest.approx(1.0)
    half, full = found.kernels(kind, gamma, floor)
    assert half == pytest.approx(full, rel=1e-6, abs=1e-9)


def test_pairs_that_change_places_do():
    places = drawn()
    found = halfway(drawn(seed=1), places)
    assert abs(found.correlation("jsd")) < 0.8
    half, full = found.kernels("jsd", 0.3, 0.0)
    assert np.abs(half - full).max() > 0.1
    assert full == pytest.approx(np.exp(-0.3 * distances(places)))
    assert np.linalg.eigvalsh(half).min() > 0


def test_adapters_that_are_one_as_yet_have_no_order_and_no_kernel():
    found = halfway(np.zeros((4, 2)), drawn(4))
    assert found.correlation("jsd") == 0.0
    assert found.kernels("jsd", 1.0, 0.0) is None
