"""The score as a smooth function of the mixture, from noisy trials: its maximum is no maximum of the noise.

A Gaussian process over mixtures (Rasmussen & Williams 2006, chapter 2): trials of all families and baselines are points
of one simplex, so that they inform each other. What is not known of it (its length, its height and, where no mixture
was trained twice, the seeds' spread) is averaged over a grid by marginal likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.4)
"""In the largest distance of two mixtures that were tried."""
HEIGHTS = (0.0, 0.5, 1.0, 2.0)
"""Standard deviations of the function, in the spread of the trials' scores; 0: no mixture differs."""
NOISES = (0.25, 0.5, 1.0)
"""Standard deviations over seeds, in the same, where no mixture was trained twice."""


@dataclass(frozen=True, eq=False)
class _Model:
    """A posterior with length, height and noise given."""

    evidence: float
    """Log-probability of these, up to a constant."""
    length: float
    variance: float
    """Of the function, before anything was seen of it."""
    level: float
    inverse: Floats
    """[m, m] of the covariance of the trials' means."""
    residuals: Floats
    """[m] that times their distance from the level."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A posterior over functions of the mixture."""

    mixtures: Floats
    """[m, n] those that were tried."""
    models: tuple[_Model, ...]

    def at(self, mixtures: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation [k] of the score at these mixtures [k, n]."""
        squares = _squares(mixtures, self.mixtures)
        means, variances = [], []
        for one in self.models:
            near = one.variance * np.exp(-squares / (2 * one.length**2))
            means.append(one.level + near @ one.residuals)
            variances.append(np.maximum(one.variance - np.einsum("ki,ij,kj->k", near, one.inverse, near), 0.0))
        evidence = np.array([one.evidence for one in self.models])
        shares = np.exp(evidence - evidence.max())
        shares /= shares.sum()
        mean = shares @ np.array(means)
        spread = shares @ (np.array(variances) + (np.array(means) - mean) ** 2)
        return mean, np.sqrt(spread)


def fit(mixtures: Floats, scores: Sequence[Sequence[float]], noises: Sequence[float] = NOISES) -> Curve:
    """The curve through the trials.

    Args:
        mixtures: [m, n], at least one.
        scores: Of each mixture, one for each seed.
        noises: Standard deviations over seeds that may be, in the spread of the scores, where no mixture has two.
    """
    means = np.array([np.mean(of_one) for of_one in scores])
    counts = np.array([len(of_one) for of_one in scores], dtype=np.float64)
    spread = float(means.std()) or 1.0
    squares = _squares(mixtures, mixtures)
    reach = float(np.sqrt(squares.max())) or 1.0
    known = _seed_spread(scores)
    levels = [known] if known is not None else [noise * spread for noise in noises]
    models = []
    for length, height, noise in product(LENGTHS, HEIGHTS, levels):
        if height == 0 and length != LENGTHS[0]:
            continue  # a function without height has no length
        variance = (height * spread) ** 2
        K = variance * np.exp(-squares / (2 * (length * reach) ** 2)) + np.diag(noise**2 / counts + 1e-12 * spread**2)
        inverse = np.asarray(np.linalg.inv(K), dtype=np.float64)
        total = float(inverse.sum())
        level = float(inverse.sum(axis=0) @ means) / total
        residuals = inverse @ (means - level)
        # The level is unknown too, and integrated out.
        evidence = -0.5 * ((means - level) @ residuals + np.linalg.slogdet(K)[1] + np.log(total * spread**2))
        # Models without height are as likely beforehand as all the others of their noise together.
        prior = -np.log(1 if height == 0 else len(LENGTHS) * (len(HEIGHTS) - 1))
        models.append(_Model(float(evidence + prior), length * reach, variance, level, inverse, np.asarray(residuals)))
    return Curve(mixtures, tuple(models))


def _squares(a: Floats, b: Floats) -> Floats:
    """Squared distances [k, m] of mixtures."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0)


def _seed_spread(scores: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation over seeds, pooled; ``None`` where no mixture was trained twice."""
    repeated = [np.array(of_one) for of_one in scores if len(of_one) > 1]
    freedom = sum(len(of_one) - 1 for of_one in repeated)
    if not freedom:
        return None
    return float(np.sqrt(sum(((of_one - of_one.mean()) ** 2).sum() for of_one in repeated) / freedom)) or None
