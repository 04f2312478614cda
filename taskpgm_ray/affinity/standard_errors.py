"""Standard errors from replicates."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray


def jackknife(replicates: npt.ArrayLike) -> FloatArray:
    """Delete-a-group jackknife: SE^2 = (G - 1) / G * sum_g (x_g - mean)^2 over the first axis [G, ...] -> [...]."""
    x = np.asarray(replicates, dtype=np.float64)
    groups = len(x)
    if groups < 2:
        raise InputError(f"the jackknife needs at least 2 replicates, got {groups}")
    spread = x - x.mean(axis=0)
    return np.asarray(np.sqrt((groups - 1) / groups * (spread**2).sum(axis=0)))
