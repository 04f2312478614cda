"""How well something cheaper than training ranks mixtures as training does. Needs numpy and SciPy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError

LEAST = 5
"""Mixtures without which nothing is said."""


def rank_correlation(predicted: npt.ArrayLike, trained: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Spearman's correlation of the two scores of each mixture [m], and the lower end of its interval.

    The interval is Fisher's with the variance of Bonett and Wright (2000); with fewer than five mixtures, or scores
    that do not differ, nothing can be said and the lower end is -1.
    """
    from scipy.stats import norm, spearmanr

    a, b = np.asarray(predicted, dtype=np.float64), np.asarray(trained, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"one predicted and one trained score a mixture, got shapes {a.shape} and {b.shape}")
    if len(a) < LEAST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0, -1.0
    rho = float(spearmanr(a, b).statistic)
    n = len(a)
    # Fisher's interval has no width at 1, however few the mixtures: a perfect order counts as one half-way to that with
    # two neighbours exchanged.
    most = 1 - 6 / (n * (n**2 - 1))
    error = np.sqrt((1 + rho**2 / 2) / (n - 3))
    low = np.tanh(np.arctanh(np.clip(rho, -most, most)) - norm.ppf((1 + confidence) / 2) * error)
    return rho, float(low)
