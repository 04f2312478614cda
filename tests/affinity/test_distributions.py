import numpy as np
import pytest

from taskpgm_ray import affinity


def test_weights_count_examples_and_tasks_once():
    example = ["a", "a", "a", "b", "c", "c"]
    np.testing.assert_allclose(affinity.balanced_weights(example), np.array([1, 1, 1, 3, 1.5, 1.5]) / 9)
    task = [0, 0, 0, 0, 1, 1]
    w = affinity.balanced_weights(example, task)
    assert w[:4].sum() == pytest.approx(w[4:].sum())
    assert w[:3].sum() == pytest.approx(w[3])
