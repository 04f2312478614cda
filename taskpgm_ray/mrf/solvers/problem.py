"""The mixture problem after validation: what the solvers work on."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import IndefiniteAffinityError, InputError
from taskpgm_ray.mrf import checks, energy
from taskpgm_ray.mrf.solvers import duplicates
from taskpgm_ray.mrf.solvers.extended import ExtendedLine
from taskpgm_ray.numerics import psd
from taskpgm_ray.numerics.checks import summed_matrix, vector
from taskpgm_ray.numerics.types import Bound, FloatArray

SINGULAR = 1e-7
"""Least squared pivot of a Cholesky factor, relative to the diagonal, that double precision can follow a path with."""


@dataclass(frozen=True)
class Problem:
    """A validated problem of n tasks, and its reduced form of N <= n classes without exact duplicates."""

    S: FloatArray
    """Affinities [n, n], symmetric, PSD on 1-perp."""
    b: FloatArray
    """Direction of the linear term [n]: E(p) = p'Sp / 2 - tau b'p."""
    size: float
    """The size of a gradient entry, for tolerances: max(1, |S|, |b|)."""
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
        """``size`` at a balance: the unit of promises about gaps."""
        return max(1.0, tau) * self.size

    def unconstrained(self, tau: float) -> FloatArray | None:
        """tau m [N], which M maps to the linear term tau S m; None where the linear term or M is another."""
        if self.utility is not None or self.M is not self.reduced_S:
            return None
        return tau * self.classes.sums(self.centre)

    @cached_property
    def singular(self) -> bool:
        """True when a pivot of the Cholesky factor is near rounding: the optimum need not be unique."""
        if self.factor is None:
            return True
        return bool(float(np.diag(self.factor).min()) ** 2 <= SINGULAR * float(np.abs(np.diag(self.M)).max()))

    def extended_line(self) -> ExtendedLine:
        """The problem in double-double arithmetic."""
        return ExtendedLine(
            self.reduced_S,
            self.reduced_b,
            self.classes.sums(self.centre) if self.utility is None else None,
            self.classes.sums(np.ones(self.n)),
            self.reduced_lower,
            self.reduced_upper,
        )

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
    matrix, sums = summed_matrix(S)
    n = len(matrix)
    if utility is not None and target is not None:
        raise InputError("give utility or target, not both: a target m means the utility S m")
    u = None if utility is None else vector(utility, n, "utility")
    m = None if target is None else checks.on_simplex(target, n, "target")
    low, high = checks.box(lower, upper, n)
    repair = None
    if noise is not None:
        matrix, repair = psd.repair_within_noise(matrix, noise)
    b, classes, reduced, form = _reduce(matrix, sums if repair is None else None, u, m, diversity_only)
    if form is None:
        matrix, repair = psd.nearest_conditionally_psd(matrix)
        b, classes, reduced, form = _reduce(matrix, None, u, m, diversity_only)
        if form is None:
            raise IndefiniteAffinityError(
                "S stays indefinite after its projection: its entries differ in size by more than double precision "
                "holds; rescale it"
            )
    M, offset, factor = form
    # No entry of a positive definite matrix is above its largest diagonal one.
    entries = np.diag(reduced) if M is reduced else reduced
    return Problem(
        S=matrix,
        b=b,
        size=max(1.0, float(np.abs(entries).max()), float(np.abs(b).max())),
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


def _reduce(
    S: FloatArray,
    sums: FloatArray | None,
    utility: FloatArray | None,
    target: FloatArray | None,
    diversity_only: bool,
) -> tuple[FloatArray, duplicates.Classes, FloatArray, tuple[FloatArray, FloatArray, FloatArray | None] | None]:
    """Direction [n], classes of duplicates, S of the classes [N, N] and its convex form."""
    b = energy.direction(S, utility, target, sums)
    classes = duplicates.find(S, np.zeros(len(S)) if diversity_only else b)
    reduced = S if classes.trivial else np.ascontiguousarray(S[np.ix_(classes.first, classes.first)])
    return b, classes, reduced, psd.convex_form(reduced)
