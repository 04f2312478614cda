import numpy as np
import pytest

from taskpgm_ray.mrf import solve
from taskpgm_ray.numerics.psd import nearest_conditionally_psd, smallest_eigenvalue, squared_distances


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


def test_smallest_eigenvalue_is_that_on_differences_of_mixtures():
    A = np.random.default_rng(1).normal(size=(6, 6))
    A = A + A.T
    J = np.eye(6) - 1 / 6
    values = np.linalg.eigvalsh(J @ A @ J)
    # One eigenvalue, that of the vector 1, is 0 and belongs to no difference.
    assert smallest_eigenvalue(A) == pytest.approx(values[0], abs=1e-12)
    assert smallest_eigenvalue(np.eye(6) - 1.0) == pytest.approx(1.0)
    assert smallest_eigenvalue(np.array([[-3.0]])) == 0.0


def test_squared_distances():
    X = np.random.default_rng(2).normal(size=(5, 3))
    np.testing.assert_allclose(squared_distances(X @ X.T), ((X[:, None] - X[None]) ** 2).sum(-1), atol=1e-12)


@pytest.mark.parametrize("n", [6, 30, 316, 700])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_spectrum_that_is_half_negative_is_repaired_and_solved(n, scale):
    """Pairwise PMI of hundreds of tasks looks like this; zeros in the place of clipped eigenvalues were not enough."""
    rng = np.random.default_rng(n + 2)
    A = rng.normal(size=(n, n)) * scale
    A = A + A.T
    np.fill_diagonal(A, 0.0)
    S, repair = nearest_conditionally_psd(A)
    assert n // 3 <= repair.clipped <= n
    assert smallest_eigenvalue(S) >= 0
    # No more than rounding beside the projection, and nothing at all where nothing is negative.
    values = np.linalg.eigvalsh(A - A.mean(0) - A.mean(1)[:, None] + A.mean())
    exact = np.linalg.norm(np.minimum(values, 0)) / np.linalg.norm(A)
    assert repair.relative_change == pytest.approx(exact, rel=1e-9)
    for tau in (0.0, 0.5, 6.3, 211.0):
        found = solve(S, tau)
        assert found.gap <= 1e-9 * max(abs(found.energy), scale)
    again, twice = nearest_conditionally_psd(np.eye(n) * scale)
    assert twice.clipped == 0
    np.testing.assert_array_equal(again, np.eye(n) * scale)
