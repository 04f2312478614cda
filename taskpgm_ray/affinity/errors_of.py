"""Standard errors from replicates and from examples."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf._types import FloatArray


def jackknife(replicates: npt.ArrayLike) -> FloatArray:
    """Delete-a-group jackknife: SE^2 = (G - 1) / G * sum_g (x_g - mean)^2 over the first axis [G, ...] -> [...]."""
    x = np.asarray(replicates, dtype=np.float64)
    groups = len(x)
    if groups < 2:
        raise InputError(f"the jackknife needs at least 2 replicates, got {groups}")
    spread = x - x.mean(axis=0)
    return np.asarray(np.sqrt((groups - 1) / groups * (spread**2).sum(axis=0)))


def mean_standard_error(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> FloatArray:
    """Standard error of the weighted mean over independent examples, first axis [E, ...] -> [...].

    SE^2 = E / (E - 1) * sum_e w_e^2 (x_e - mean)^2 with weights that sum to 1 (the linearised ratio estimator); for
    equal weights this is sd / sqrt(E).
    """
    x = np.asarray(values, dtype=np.float64)
    count = len(x)
    if count < 2:
        raise InputError(f"a standard error needs at least 2 examples, got {count}")
    w = np.full(count, 1 / count) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (count,) or (w < 0).any() or not w.sum() > 0:
        raise InputError(f"weights must be {count} numbers >= 0 with a positive sum")
    w = w / w.sum()
    mean = np.tensordot(w, x, axes=1)
    squares = np.tensordot(w**2, (x - mean) ** 2, axes=1)
    return np.asarray(np.sqrt(count / (count - 1) * squares))
