import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist, squareform

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import clusters, solve
from taskpgm_ray.mrf.clustering import average_linkage


def test_clusters_find_blocks():
    S = np.kron(np.eye(3), np.full((2, 2), 0.9)) + 0.1 * np.eye(6)
    c = clusters(S, solve(S, 1.0).weights, count=3)
    assert c.label[0] == c.label[1] != c.label[2]
    np.testing.assert_allclose(c.mass, 1 / 3)
    assert len(clusters(S, np.full(6, 1 / 6), distance=0.01).mass) == 6
    with pytest.raises(InputError, match="exactly one"):
        clusters(S, np.full(6, 1 / 6))


def test_average_linkage_is_that_of_scipy():
    X = np.random.default_rng(0).normal(size=(9, 3))
    d = squareform(pdist(X))
    rough = d + np.triu(np.full((9, 9), 1e-13)) + np.eye(9)
    np.testing.assert_allclose(average_linkage(rough), linkage(pdist(X), "average"), atol=1e-12)
