"""The mixture problem after validation: what the solvers work on."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import checks, duplicates, energy, psd
from taskpgm_ray.mrf._types import Bound, FloatArray


@dataclass(frozen=True)
class Problem:
    """A validated problem of n tasks, and its reduced form of N <= n classes without exact duplicates."""

    S: FloatArray
    """Affinities [n, n], symmetric, PSD on 1-perp."""
    b: FloatArray
    """Direction of the linear term [n]: E(p) = p'Sp / 2 - tau b'p."""
    lower: FloatArray
    upper: FloatArray
    utility: FloatArray | None
    target: FloatArray | None
    repair: psd.Repair | None
    bounded: bool
    classes: duplicates.Classes
    reduced_S: FloatArray
    """[N, N], one row a class."""
    reduced_b: FloatArray
    reduced_lower: FloatArray
    reduced_upper: FloatArray
    M: FloatArray
    """A matrix [N, N] with the same energies on the simplex as reduced_S, up to ``offset`` and a constant."""
    offset: FloatArray
    factor: FloatArray | None
    """Lower Cholesky factor of M, None when M is singular to rounding."""

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.b)

    @property
    def centre(self) -> FloatArray:
        """The mixture [n] that tau = 1 returns when no utility is given: the target, or uniform."""
        return np.full(self.n, 1 / self.n) if self.target is None else self.target

    @property
    def passes_through_centre(self) -> bool:
        """True when the centre is feasible and optimal at tau = 1."""
        centre = self.centre
        return self.utility is None and bool(((centre >= self.lower) & (centre <= self.upper)).all())

    def scale(self, tau: float) -> float:
        """The size of a gradient entry, for tolerances: max(|S|, tau |b|, max(1, tau))."""
        return max(1.0, tau) * max(1.0, float(np.abs(self.S).max()), float(np.abs(self.b).max()))

    def expand(self, mass: FloatArray) -> FloatArray:
        """Weights [n] from class masses [N]."""
        if self.classes.trivial:
            return mass
        return duplicates.split(mass, self.classes, self.centre, self.lower, self.upper)

    def gap(self, p: FloatArray, tau: float) -> float:
        """The certificate of a feasible mixture p [n] at tau."""
        return energy.duality_gap(energy.gradient(self.S, self.b, tau, p), p, self.lower, self.upper)


def build(
    S: npt.ArrayLike,
    utility: npt.ArrayLike | None = None,
    target: npt.ArrayLike | None = None,
    lower: Bound = None,
    upper: Bound = None,
    noise: float | None = None,
    diversity_only: bool = False,
) -> Problem:
    """Validate the arguments of ``solve``, ``path`` and ``select``; repair S if ``noise`` says so; merge duplicates.

    ``diversity_only`` says that tau is 0: duplicates with different utilities are then duplicates all the same.

    Raises:
        InputError: a shape, a value or the bounds cannot be used (``utility`` and ``target`` exclude each other).
        IndefiniteAffinityError: S is not PSD on the differences of mixtures.
    """
    matrix = checks.affinity_matrix(S)
    n = len(matrix)
    if utility is not None and target is not None:
        raise InputError("give utility or target, not both: a target m means the utility S m")
    u = None if utility is None else checks.vector(utility, n, "utility")
    m = None if target is None else checks.target_mixture(target, n)
    low, high = checks.box(lower, upper, n)
    repair = None
    if noise is not None:
        matrix, repair = psd.repair_within_noise(matrix, noise)
    b = energy.direction(matrix, u, m)
    classes = duplicates.find(matrix, np.zeros(n) if diversity_only else b)
    reduced = matrix if classes.trivial else np.ascontiguousarray(matrix[np.ix_(classes.first, classes.first)])
    M, offset, factor = psd.convex_form(reduced)
    return Problem(
        S=matrix,
        b=b,
        lower=low,
        upper=high,
        utility=u,
        target=m,
        repair=repair,
        bounded=lower is not None or upper is not None,
        classes=classes,
        reduced_S=reduced,
        reduced_b=b[classes.first],
        reduced_lower=classes.sums(low),
        reduced_upper=np.minimum(classes.sums(high), 1.0),
        M=M,
        offset=offset,
        factor=factor,
    )
