"""The usual mixtures that TaskPGM has to beat: all return weights [n] that are non-negative and sum to 1."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray


def uniform(n: int) -> FloatArray:
    """Equal weights for n tasks."""
    if n < 1:
        raise InputError(f"a mixture needs at least one task, got n = {n}")
    return np.full(n, 1.0 / n)


def proportional(sizes: npt.ArrayLike) -> FloatArray:
    """Weights proportional to the number of examples (or tokens) of each task [n]."""
    return temperature(sizes, 1.0)


def temperature(sizes: npt.ArrayLike, T: float) -> FloatArray:
    """Weights proportional to size^(1/T): T = 1 proportional, T -> infinity uniform (over tasks that have examples)."""
    n = _sizes(sizes)
    if not T > 0:
        raise InputError(f"the temperature must be positive, got {T!r}")
    weights = np.zeros(len(n))
    filled = n > 0
    # Through logarithms, so that small T does not overflow.
    logs = np.log(n[filled]) / T
    weights[filled] = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def capped_proportional(sizes: npt.ArrayLike, cap: float) -> FloatArray:
    """Examples-proportional mixing with a limit (T5): weights proportional to min(size, cap), both in examples."""
    n = _sizes(sizes)
    if not cap > 0:
        raise InputError(f"the cap must be positive, in examples, got {cap!r}")
    limited = np.minimum(n, cap)
    return np.asarray(limited / limited.sum())


def equal_loss(drops: npt.ArrayLike) -> FloatArray:
    """Weights proportional to what each task [n] still has to learn: how far its own fine-tune lowered its loss [nats].

    A task whose loss did not fall gets nothing.
    """
    fallen = np.asarray(drops, dtype=np.float64)
    if fallen.ndim != 1 or not np.isfinite(fallen).all():
        raise InputError("loss drops must be one finite number a task, in nats")
    fallen = np.maximum(fallen, 0.0)
    if not fallen.any():
        raise InputError("no task's own fine-tune lowered its loss, so there is nothing to share out")
    return np.asarray(fallen / fallen.sum())


def dirichlet(n: int, seed: int, concentration: float = 1.0) -> FloatArray:
    """A random mixture from a symmetric Dirichlet distribution, the same for the same seed."""
    if n < 1:
        raise InputError(f"a mixture needs at least one task, got n = {n}")
    if not concentration > 0:
        raise InputError(f"the concentration must be positive, got {concentration!r}")
    drawn = np.random.default_rng(seed).gamma(concentration, size=n)
    total = float(drawn.sum())
    if total <= 0:
        raise InputError(f"concentration {concentration!r} is too small for double precision; take at least 0.001")
    return np.asarray(drawn / total)


def _sizes(sizes: npt.ArrayLike) -> FloatArray:
    n = np.asarray(sizes, dtype=np.float64)
    if n.ndim != 1 or len(n) == 0:
        raise InputError(f"sizes must be one number a task, got shape {n.shape}")
    if not np.isfinite(n).all() or (n < 0).any() or not (n > 0).any():
        raise InputError("sizes must be finite and >= 0, with at least one positive")
    return n
