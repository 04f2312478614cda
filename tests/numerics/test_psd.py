import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import IndefiniteAffinityError, InputError
from taskpgm_ray.mrf import solve
from taskpgm_ray.numerics.psd import (
    ROUNDING,
    STRIP,
    cholesky,
    nearest_conditionally_psd,
    repaired,
    smallest_eigenvalue,
    squared_distances,
)


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


def like_the_papers(n=316, negative=151, seed=0):
    """Pairwise PMI as it is published: zero diagonal, entries from -18 to 8, half of the spectrum negative."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(n, n)))[0]
    values = np.concatenate([-np.geomspace(146, 6.5, negative), np.geomspace(160, 0.05, n - negative)])
    S = (vectors * values) @ vectors.T
    S = (S + S.T) / 2 - 6.0
    np.fill_diagonal(S, 0.0)
    return S


@pytest.mark.parametrize("method", ["project", "shift", "clip"])
def test_every_repair_gives_a_matrix_that_is_solved_and_says_what_it_changed(method):
    S = like_the_papers()
    mended, change = repaired(S, method)
    assert change.lambda_min == pytest.approx(smallest_eigenvalue(S))
    assert change.relative_change == pytest.approx(np.linalg.norm(mended - S) / np.linalg.norm(S), rel=1e-6)
    centred_on = S - S.mean(0) - S.mean(1)[:, None] + S.mean() if method == "project" else S
    assert change.clipped == (np.linalg.eigvalsh(centred_on) < -1e-9).sum() > 100
    for tau in (0.0, 2.0, 6.3, 63.0, 158.0, 211.0):
        found = solve(mended, tau)
        assert found.gap <= 1e-9 * max(abs(found.energy), 1.0)


@given(
    st.integers(2, 40), st.floats(-6, 6), st.sampled_from(["project", "shift", "clip"]), st.integers(0, 10_000),
    st.floats(0, 200),
)  # fmt: skip
def test_whatever_is_repaired_is_solved(n, scale, method, seed, tau):
    A = np.random.default_rng(seed).normal(size=(n, n)) * 10**scale
    mended, change = repaired(A + A.T, method)
    assert change is None or change.relative_change > 0
    found = solve(mended, tau)
    assert found.gap <= 1e-9 * max(abs(found.energy), 10**scale)


def test_the_projection_changes_least_and_a_convex_problem_is_left_alone():
    S = like_the_papers(60, 30)
    changes = {method: repaired(S, method)[1].relative_change for method in ("project", "clip", "shift")}
    assert changes["project"] < changes["clip"] < changes["shift"]
    X = np.random.default_rng(3).normal(size=(8, 3))
    # Negative squared distances are indefinite, but not on the differences of mixtures.
    D = -((X[:, None] - X[None]) ** 2).sum(-1)
    for method in changes:
        same, change = repaired(D, method)
        assert change is None
        np.testing.assert_array_equal(same, D)
    with pytest.raises(InputError, match="no repair 'other'; there are project, shift, clip"):
        repaired(D, "other")


def test_a_thousand_tasks_are_repaired():
    mended, change = repaired(like_the_papers(1000, 480))
    assert change.clipped >= 300
    assert solve(mended, 2.0).gap < 1e-9


def with_smallest(n, times, scale, seed=0):
    """A matrix and its smallest eigenvalue on differences of mixtures, -times * 1e-11 * max |S|."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.column_stack([np.ones(n), rng.normal(size=(n, n - 1))]))[0]
    values = np.concatenate([[rng.uniform(0.5, n)], rng.uniform(0.05, 1.0, size=n - 1)])
    values[1] = 0.0
    lowest = -times * ROUNDING * np.abs((basis * values) @ basis.T).max()
    values[1] = lowest
    S = (basis * values) @ basis.T * scale
    return (S + S.T) / 2, lowest * scale


@settings(max_examples=60)
@given(
    st.one_of(st.integers(3, 40), st.just(STRIP + 20)), st.sampled_from([1e-6, 1.0, 1e6]), st.floats(1.2, 1e6),
    st.integers(0, 10_000),
)  # fmt: skip
def test_below_the_tolerance_is_refused_with_the_eigenvalue(n, scale, times, seed):
    S, lowest = with_smallest(n, times, scale, seed)
    with pytest.raises(IndefiniteAffinityError, match="S is indefinite on the simplex") as raised:
        solve(S, 2.0)
    named = float(str(raised.value).split("has the eigenvalue ")[1].split(" ")[0])
    assert named == pytest.approx(lowest, rel=0.01, abs=1e-14 * n * scale)


@settings(max_examples=60)
@given(
    st.one_of(st.integers(3, 40), st.just(STRIP + 20)), st.sampled_from([1e-6, 1.0, 1e6]), st.floats(-1e6, 0.8),
    st.integers(0, 10_000),
)  # fmt: skip
def test_above_the_tolerance_is_solved(n, scale, times, seed):
    S, _ = with_smallest(n, times, scale, seed)
    found = solve(S, 2.0)
    assert found.gap <= 1e-12 * max(1.0, scale * n) * 2
    # Only what is negative beyond a ridge of 1e-13 is mended.
    assert found.repair is None or times > 0


@pytest.mark.parametrize("n", [1, 2, STRIP, STRIP + 1, 3 * STRIP + 7])
@pytest.mark.parametrize("kind", ["definite", "nearly singular", "duplicates", "low rank", "indefinite"])
def test_the_factor_and_its_verdict_are_lapacks_to_the_last_bit(n, kind):
    """Only one triangle is handed over, which must change nothing, not even where rounding decides."""
    rng = np.random.default_rng(n)
    X = rng.normal(size=(n, 2 if kind == "nearly singular" else 5))
    if kind == "duplicates":
        X[n // 2 :] = X[: n - n // 2]
    S = X @ X.T if kind == "low rank" else np.exp(-0.05 * ((X[:, None] - X[None]) ** 2).sum(-1))
    S += {"definite": 1.0, "indefinite": -0.5}.get(kind, 0.0) * np.eye(n)
    for scale in (1e-6, 1.0, 1e6):
        expected, info = scipy.linalg.lapack.dpotrf(np.asfortranarray(S * scale), lower=1)
        found = cholesky(S * scale)
        assert (found is None) == (info != 0)
        if found is not None:
            np.testing.assert_array_equal(np.tril(found), expected)
