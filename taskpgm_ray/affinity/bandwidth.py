"""The noise floor of an affinity, and the bandwidth that it allows (docs/mathematics.md, section 15).

An adapter is its task plus the luck of its seed. Two adapters of *one* task are apart by that luck alone: their mean
divergence f is the floor above which a divergence says something about tasks. The rule takes gamma from the pairs that
stand out of the floor and takes the floor off the diagonal's neighbours: S_ij = exp(-gamma (D_ij - f)) for i != j.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.stats import t as student

from taskpgm_ray.affinity.kernels import kernel
from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray

CLEAR = 2.0
"""A pair stands out whose divergence is more than so many times the floor."""
ALIKE = 0.1
"""Similarity of the typical pair that stands out: it counts as different."""
LEFT = 0.1
"""Part of the kernel's smallest eigenvalue that the correction leaves: at 0 the kernel is singular."""
CERTAIN = 0.975
"""One-sided confidence at which the mean divergence must be above the floor."""


@dataclass(frozen=True)
class NoiseFloor:
    """What two adapters of the same task are apart, measured on some tasks by a second fine-tune with another seed."""

    tasks: tuple[str, ...]
    """The m tasks with a second fine-tune."""
    divergence: tuple[float, ...]
    """[m] mean Jensen-Shannon divergence of the two, nats."""
    distance: tuple[float, ...]
    """[m] mean squared difference of their log-likelihood profiles, squared nats."""
    divergences: FloatArray
    """[m, n] mean divergence of each second adapter from every task's adapter, nats."""


@dataclass(frozen=True, eq=False)
class NoiseKernel:
    """An affinity with its noise floor taken off."""

    S: FloatArray
    """[n, n] PSD with unit diagonal; all ones where nothing stands out of the floor."""
    gamma: float | None
    """Bandwidth; ``None`` where nothing stands out."""
    floor: float
    """Mean of the measured floors, in the unit of D."""
    floor_se: float
    """Its standard error."""
    taken_off: float
    """What was taken off every pair: the floor, or less where the whole floor would leave no valid kernel."""
    clear: int
    """Pairs that stand out."""
    measured: int
    """Tasks by which the floor was measured."""

    @property
    def contrast(self) -> bool:
        """Whether the divergences stand out of the floor at all."""
        return self.gamma is not None


def noise_kernel(D: npt.ArrayLike, floors: npt.ArrayLike, factor: float = 1.0) -> NoiseKernel:
    """The affinity by the noise rule.

    gamma = ln(1 / `ALIKE`) / median of D - f over the pairs with D > `CLEAR` f. There is no contrast, and S is all
    ones, where no pair is, or where the mean divergence is not above f by what the spread of the floors explains.

    Args:
        D: Divergences (or squared distances) of the pool's adapters [n, n], zero diagonal.
        floors: The same of two adapters of one task each [m], m >= 2.
        factor: Of gamma.

    Raises:
        InputError: Fewer than two floors, or a D that is none.
    """
    d, f = np.asarray(D, dtype=np.float64), np.asarray(floors, dtype=np.float64)
    if f.ndim != 1 or len(f) < 2 or not np.isfinite(f).all() or float(f.min()) < 0:
        raise InputError(f"the noise floor needs at least two divergences that are not negative, got {f.tolist()}")
    n, floor, error = len(d), float(f.mean()), float(f.std(ddof=1)) / sqrt(len(f))
    pairs = d[np.triu_indices(n, 1)]
    above = pairs[pairs > CLEAR * floor] - floor
    surely = float(pairs.mean()) - floor > float(student.ppf(CERTAIN, len(f) - 1)) * error if len(pairs) else False
    if not len(above) or not surely:
        return NoiseKernel(np.ones((n, n)), None, floor, error, 0.0, len(above), len(f))
    gamma = factor * log(1 / ALIKE) / float(np.median(above))
    S, taken_off = above_floor(d, gamma, floor)
    return NoiseKernel(S, gamma, floor, error, taken_off, len(above), len(f))


def above_floor(D: FloatArray, gamma: float, floor: float) -> tuple[FloatArray, float]:
    """S_ij = exp(-gamma (D_ij - floor)) for i != j [n, n], and what of the floor could be taken off.

    That is less than the floor where the whole would leave no valid kernel.
    """
    S = kernel(D, gamma)
    # Off the diagonal S grows by exp(gamma x), which is to take 1 - exp(-gamma x) off the diagonal and to rescale.
    least = float(scipy.linalg.eigvalsh(S, subset_by_index=[0, 0])[0])
    room = -log(1 - (1 - LEFT) * max(least, 0.0)) / gamma
    taken_off = min(floor, room)
    S *= np.exp(gamma * taken_off)
    np.fill_diagonal(S, 1.0)
    return S, taken_off
