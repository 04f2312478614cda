"""Is S positive semidefinite where it has to be, and the projection when noise made it indefinite.

The mixture problem is convex if and only if S is PSD on the differences of mixtures, {d : 1'd = 0}; that is, when
J S J is PSD with J = I - 11'/n (docs/mathematics.md, section 4).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg

from taskpgm_ray.errors import IndefiniteAffinityError, InputError
from taskpgm_ray.numerics.types import FloatArray

RIDGE = 1e-13
"""A ridge of this size, relative to max|S|, changes energies by less than their certificate promises."""

ROUNDING = 1e-11
"""An eigenvalue of J S J above -ROUNDING * max|S| counts as the rounding of a PSD matrix (of printed digits, say)."""

STRIP = 128
"""Columns of a triangle that are copied at a time."""

RepairMethod = Literal["project", "shift", "clip"]
"""How an indefinite S is mended, see `repaired`."""


@dataclass(frozen=True)
class Repair:
    """What was done to an indefinite matrix."""

    method: str
    """In words: "nearest conditionally positive semidefinite matrix (Frobenius)"."""

    lambda_min: float
    """Smallest eigenvalue of J S J before the repair, in units of S."""

    relative_change: float
    """Frobenius norm of the change, divided by that of S."""

    clipped: int
    """Number of negative eigenvalues that were set to zero, or lifted by a shift."""


def cholesky(matrix: FloatArray) -> FloatArray | None:
    """Lower Cholesky factor [n, n], or None when a pivot is not positive. The upper triangle is not meaningful."""
    # The transpose of a symmetric C-ordered matrix is the same matrix in LAPACK's order: no strided copy.
    n = len(matrix)
    if n <= STRIP:
        factor, info = scipy.linalg.lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=0)
    else:
        # LAPACK neither reads nor writes the other triangle: it is not copied either.
        triangle = np.empty((n, n), order="F")
        for start in range(0, n, STRIP):
            triangle[start:, start : start + STRIP] = matrix[start : start + STRIP, start:].T
        factor, info = scipy.linalg.lapack.dpotrf(triangle, lower=1, clean=0, overwrite_a=1)
    return factor if info == 0 else None


def centred(S: FloatArray) -> FloatArray:
    """J S J with J = I - 11'/n."""
    means = S.mean(axis=0)
    return np.asarray(S - means[:, None] - means[None, :] + means.mean())


def squared_distances(S: FloatArray) -> FloatArray:
    """S_ii + S_jj - 2 S_ij [n, n], cut at 0: squared distances of the tasks in the space that S spans."""
    diagonal = np.diag(S)
    return np.maximum(diagonal[:, None] + diagonal[None, :] - 2 * S, 0.0)


def smallest_eigenvalue(S: FloatArray) -> float:
    """Smallest eigenvalue of S on {d : 1'd = 0}, in units of S; 0 for a single task."""
    n = len(S)
    if n == 1:
        return 0.0
    # A large multiple of 11' moves the eigenvector 1 of J S J away from the lower end of the spectrum.
    top = n * float(np.abs(S).max()) or 1.0
    return float(scipy.linalg.eigh(centred(S) + top / n, eigvals_only=True, subset_by_index=[0, 0])[0])


def convex_form(S: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray | None] | None:
    """Check that S is PSD on 1-perp and give an equivalent matrix with a Cholesky factor.

    Returns:
        (M, offset, factor): on the simplex p'Sp / 2 = p'Mp / 2 - offset'p + constant. M is S itself and offset 0 when S
        is positive definite; else M = J S J + s 11'/n. ``factor`` is the lower Cholesky factor of M, or None when M is
        singular to rounding. None instead of all three when S is indefinite by no more than the rounding of its input
        (``repair_within_noise`` and ``nearest_conditionally_psd`` mend it).

    Raises:
        IndefiniteAffinityError: J S J has an eigenvalue below -1e-11 * max|S|.
    """
    n = len(S)
    factor = cholesky(S)
    if factor is not None:
        return S, np.zeros(n), factor
    scale = float(np.abs(S).max()) or 1.0
    M = centred(S)
    M += (float(np.trace(M)) / n or scale) / n
    factor = cholesky(M)
    if factor is None and cholesky(M + RIDGE * scale * np.eye(n)) is None:
        lowest = smallest_eigenvalue(S)
        if lowest < -ROUNDING * scale:
            raise IndefiniteAffinityError(
                f"S is indefinite on the simplex: J S J has the eigenvalue {lowest:.3g} (max |S| {scale:.3g}), so the "
                "energy has no certified minimum. Build S from distributions on one common probe set and support, or "
                "use the kernel affinity for PMI. Or have it repaired: taskpgm solve --repair project | shift | clip, "
                "affinity.repair in a config, taskpgm_ray.mrf.repaired(S) in Python; the result says what was changed. "
                "If the negative part is sampling noise, noise=<standard error of an entry of S> repairs no more"
            )
        return None
    return M, -S.mean(axis=0), factor


def nearest_conditionally_psd(S: FloatArray) -> tuple[FloatArray, Repair]:
    """The Frobenius-nearest matrix that is PSD on 1-perp and has the same linear part a1' + 1a'.

    J S J = V diag(l) V' becomes V diag(max(l, r)) V'; S - J S J is put back unchanged. The rounding r = 10 n eps max|l|
    in the place of 0 is what a factorisation of the result can lose: with half of a spectrum clipped, exact zeros come
    back as negative as positive.
    """
    M = centred(S)
    values, vectors = scipy.linalg.eigh(M)
    size = float(np.abs(values).max())
    rounding = 10 * len(S) * np.finfo(float).eps * size
    # The eigenvalue 0 of the vector 1 is rounding, not a clipped direction.
    negative = values < -1e-14 * size
    low = values < rounding if negative.any() else negative
    change = (vectors[:, low] * (rounding - values[low])) @ vectors[:, low].T
    repaired = S + (change + change.T) / 2
    norm = float(np.linalg.norm(S)) or 1.0
    return repaired, Repair(
        method="nearest conditionally positive semidefinite matrix (Frobenius)",
        lambda_min=float(values[0]),
        relative_change=float(np.linalg.norm(change)) / norm,
        clipped=int(negative.sum()),
    )


def shifted(S: FloatArray) -> tuple[FloatArray, Repair]:
    """S + |its smallest eigenvalue| I, the paper's way: positive definite, and every task less like all others."""
    values = np.linalg.eigvalsh(S)
    # With half of a spectrum negative, the exact shift leaves a pivot that is as often negative as positive.
    rounding = len(S) * np.finfo(float).eps * float(np.abs(values).max())
    added = max(0.0, -float(values[0])) + rounding
    norm = float(np.linalg.norm(S)) or 1.0
    return S + added * np.eye(len(S)), Repair(
        method="shift of the diagonal by the smallest eigenvalue",
        lambda_min=smallest_eigenvalue(S),
        relative_change=added * float(np.sqrt(len(S))) / norm,
        clipped=int((values < -rounding).sum()),
    )


def clipped(S: FloatArray) -> tuple[FloatArray, Repair]:
    """The Frobenius-nearest positive semidefinite matrix: V diag(max(l, r)) V' with the rounding r of the shift."""
    values, vectors = scipy.linalg.eigh(S)
    size = float(np.abs(values).max())
    rounding = 10 * len(S) * np.finfo(float).eps * size
    low = values < rounding
    change = (vectors[:, low] * (rounding - values[low])) @ vectors[:, low].T
    norm = float(np.linalg.norm(S)) or 1.0
    return S + (change + change.T) / 2, Repair(
        method="nearest positive semidefinite matrix (Frobenius)",
        lambda_min=smallest_eigenvalue(S),
        relative_change=float(np.linalg.norm(change)) / norm,
        clipped=int((values < -rounding).sum()),
    )


def repaired(S: FloatArray, method: RepairMethod = "project") -> tuple[FloatArray, Repair | None]:
    """S as it is where the mixture problem is convex; else mended, and what that changed.

    Args:
        S: Symmetric [n, n].
        method: ``project``: the nearest matrix that is PSD on the differences of mixtures, the least change that helps.
            ``clip``: the nearest PSD matrix. ``shift``: as much of the identity as makes it PSD, as the paper does;
            that favours no task, but all mixtures become more uniform.

    Raises:
        InputError: There is no such method.
    """
    known = get_args(RepairMethod)
    if method not in known:
        raise InputError(f"no repair {method!r}; there are {', '.join(known)}")
    if smallest_eigenvalue(S) >= -ROUNDING * float(np.abs(S).max()):
        return S, None
    mended = {"project": nearest_conditionally_psd, "shift": shifted, "clip": clipped}[method]
    return mended(S)


def repair_within_noise(S: FloatArray, noise: float) -> tuple[FloatArray, Repair | None]:
    """Project S when it is indefinite by no more than sampling noise can explain.

    Args:
        S: symmetric [n, n].
        noise: standard error of one entry of S (units of S). Symmetric noise of that size has eigenvalues up to about
            2 sqrt(n) noise (the semicircle law), which is the limit of what is repaired.

    Raises:
        IndefiniteAffinityError: the negative part is larger than 2 sqrt(n) noise.
    """
    if not np.isfinite(noise) or noise < 0:
        raise InputError(f"noise must be the standard error of an entry of S, a finite number >= 0, got {noise!r}")
    scale = float(np.abs(S).max()) or 1.0
    lowest = smallest_eigenvalue(S)
    if lowest >= -ROUNDING * scale:
        return S, None
    limit = 2 * np.sqrt(len(S)) * noise
    if lowest < -limit:
        raise IndefiniteAffinityError(
            f"S is indefinite beyond its sampling noise: J S J has the eigenvalue {lowest:.3g}, noise explains "
            f"{-limit:.3g} (2 sqrt(n) times the standard error {noise:.3g}). Use more probes, or the profile affinity"
        )
    return nearest_conditionally_psd(S)
