import numpy as np
import pytest

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
