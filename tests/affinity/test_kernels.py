import numpy as np
import pytest
from coarse import coarse

from taskpgm_ray import affinity
from taskpgm_ray.errors import InputError


def test_common_probes_give_positive_definite_kernels():
    _, lp = coarse(25, 30, 16)
    D = affinity.jsd_matrix(lp)
    J = np.eye(25) - 1 / 25
    assert np.linalg.eigvalsh(-J @ D @ J).min() > -1e-14
    for S in (affinity.kernel(D), affinity.kernel(D, 30.0)):
        assert np.linalg.eigvalsh(S).min() > -1e-12
    S = affinity.kernel(D)
    assert np.median(S[np.triu_indices(25, 1)]) == pytest.approx(0.5)
    assert affinity.median_gamma(D) == pytest.approx(np.log(2) / np.median(D[np.triu_indices(25, 1)]))


def test_effective_number_counts_clones_once():
    assert affinity.effective_number(np.eye(5)) == pytest.approx(5)
    S = np.kron(np.eye(3), np.ones((2, 2)))
    assert affinity.effective_number(S) == pytest.approx(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affinity.kernel([[0, 1], [1, 0]], gamma=-1), "gamma"),
        (lambda: affinity.kernel(np.zeros((3, 3))), "median divergence is 0"),
        (lambda: affinity.kernel(np.eye(2)), "diagonal"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
