"""Whether a mixture would have been another with half of the steps."""

import numpy as np
import pytest

from taskpgm_ray.affinity.halfway import Halfway
from taskpgm_ray.insight.stability import stability
from taskpgm_ray.mrf import solve
from taskpgm_ray.search.families import Family


def halfway(half, full):
    return Halfway(tuple("abcde"[: len(full)]), {"jsd": half, "pmi": half}, {"jsd": full, "pmi": full})


def distances(places):
    places = np.asarray(places, dtype=float)
    return (places[:, None] - places[None]) ** 2


def family(D, gamma=1.0, affinity="jsd"):
    S = np.exp(-(gamma or 0.0) * D)
    return Family(affinity, affinity, S, gamma, None, contender=True)


def test_a_task_that_leaves_its_like_takes_weight_with_it():
    # Half-way the first two are one task; in the end the second is as far from it as the others.
    half, full = distances([0, 0, 2, 4, 6]), distances([0, 2, 4, 6, 8])
    found = stability(halfway(half, full), family(full), 0.0)
    assert found.tasks == 5
    assert found.correlation < 1
    scale = np.median(full[np.triu_indices(5, 1)]) / np.median(half[np.triu_indices(5, 1)])
    moved = solve(np.exp(-scale * half), 0.0).weights - solve(np.exp(-full), 0.0).weights
    assert found.moved == pytest.approx(np.abs(moved).sum() / 2)
    assert found.moved > 0.1
    assert not found.holds


def test_what_only_grows_holds():
    full = distances([0, 1, 3, 6])
    found = stability(halfway(full / 9, full), family(full), 2.0)
    assert (found.correlation, found.moved) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))
    assert found.holds


@pytest.mark.parametrize("affinity", ["text", "pmi_pairwise"])
def test_nothing_is_said_of_what_does_not_rest_on_distances(affinity):
    D = distances([0, 1, 3])
    assert stability(halfway(D, D), family(D, affinity=affinity), 1.0) is None
    assert stability(None, family(D), 1.0) is None


def test_without_contrast_there_is_an_order_but_no_mixture():
    D = distances([0, 1, 3])
    found = stability(halfway(D, D), family(D, gamma=None), 1.0)
    assert (found.correlation, found.moved, found.holds) == (pytest.approx(1.0), None, True)
