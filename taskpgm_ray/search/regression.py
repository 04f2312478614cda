"""Regressions of the score on the weights, from any runs on different mixtures; judged on mixtures that they never saw.

The comparators are RegMix (Liu et al. 2024, arXiv 2407.01492: boosted trees or a linear model on proxy runs) and data
mixing laws (Ye et al. 2024, arXiv 2403.16952: loss = c + k exp(t'p)). Needs numpy, SciPy and scikit-learn alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.errors import InputError
from taskpgm_ray.search.ranks import LEAST, rank_correlation

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]
"""Mixtures [k, n] -> a number for each [k], the higher the better."""
SAME = 1e-6
"""Mixtures nearer than this in total variation are one."""
PERFECT = 0.01
"""Loss that a perfect score counts as: accuracy 1 is no certainty, and a loss of 0 has no logarithm."""
PARTS = 50
"""More mixtures than this are left out several at a time, in so many parts."""
RIDGES = np.geomspace(1e-6, 1e2, 17)
"""Penalties of the linear model, in its largest squared singular value."""


@dataclass(frozen=True, eq=False)
class Tried:
    """m different mixtures of n tasks, and what training on them scored."""

    mixtures: Floats
    """[m, n]."""
    scores: Floats
    """[m], the mean over the runs of each; higher is better."""
    counts: NDArray[np.int64]
    """[m] runs."""
    of_run: NDArray[np.int64]
    """[runs]: which of the m mixtures each run is of."""


@dataclass(frozen=True, eq=False)
class Regression:
    """The model that ranks unseen mixtures best, and how well each of the models does."""

    model: str
    """``log-linear`` or ``boosted``."""
    judged: dict[str, tuple[float, float]]
    """Model -> (Spearman's correlation with the scores of mixtures that were left out, lower end of its interval)."""
    mixtures: int
    """How many it was fitted to."""
    predict: Predict
    """Mixtures [k, n] -> expected scores [k]."""

    @property
    def correlation(self) -> float:
        """Of the model that is used."""
        return self.judged[self.model][0]

    @property
    def low(self) -> float:
        """Its lower end."""
        return self.judged[self.model][1]

    @property
    def tells_apart(self) -> bool:
        """Whether the runs are shown to tell mixtures apart at all."""
        return self.low > 0


def pooled(mixtures: Floats, scores: Sequence[float] | Floats) -> Tried:
    """Runs by mixture: those of one mixture are averaged, so that they are left out together and none tells of another.

    Args:
        mixtures: [runs, n] on the simplex.
        scores: [runs]; higher is better.

    Raises:
        InputError: The shapes do not fit together, or a score is no finite number.
    """
    values = np.asarray(scores, dtype=np.float64)
    if mixtures.ndim != 2 or values.shape != (len(mixtures),):
        raise InputError(f"a score for each mixture, got shapes {mixtures.shape} and {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(f"the score of run {int(np.flatnonzero(~np.isfinite(values))[0]) + 1} is no finite number")
    first: list[int] = []
    of_run = np.empty(len(mixtures), dtype=np.int64)
    for run, mixture in enumerate(mixtures):
        near = np.flatnonzero(np.abs(mixtures[first] - mixture).sum(axis=1) / 2 < SAME)
        of_run[run] = near[0] if len(near) else len(first)
        first += [] if len(near) else [run]
    counts = np.bincount(of_run, minlength=len(first))
    means = np.bincount(of_run, weights=values, minlength=len(first)) / np.maximum(counts, 1)
    return Tried(np.asarray(mixtures[first]), means, counts, of_run)


def regress(tried: Tried) -> Regression:
    """Fit both models, and keep the one that ranks mixtures better that were left out.

    Raises:
        InputError: There are fewer than five different mixtures, or their scores do not differ.
    """
    m = len(tried.mixtures)
    if m < LEAST:
        raise InputError(f"a regression takes at least {LEAST} different mixtures with scores, and there are {m}")
    if np.ptp(tried.scores) == 0:
        raise InputError(f"all {m} mixtures have the score {tried.scores[0]:.6g}: there is nothing to regress")
    merits, back = _merits(tried.scores)
    judged = {
        name: rank_correlation(_left_out(fit, tried.mixtures, merits, tried.counts), merits)
        for name, fit in MODELS.items()
    }
    model = max(judged, key=lambda name: judged[name][0])
    fitted = MODELS[model](tried.mixtures, merits, tried.counts)
    return Regression(model, judged, m, lambda mixtures: back(fitted(mixtures)))


def _merits(scores: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Minus the logarithm of the loss [m], which a mixing law makes linear in the weights; and the way back.

    The loss is minus the score where no score is positive (log-probabilities, and losses with their sign turned), and
    1 - score where all are between 0 and 1 (accuracies); see `PERFECT`. Other scores have no best one to be counted
    from, and stay as they are. A mixing law's constant c is taken to be 0: few runs do not tell it from the rest.
    """
    low, high = float(scores.min()), float(scores.max())
    if high <= 0:
        top = 0.0 if high < 0 else PERFECT
    elif low >= 0 and high <= 1:
        top = 1.0 + PERFECT
    else:
        return scores, lambda merits: merits
    return np.asarray(-np.log(top - scores)), lambda merits: np.asarray(top - np.exp(-merits))


def _left_out(fit: Callable[..., Predict], mixtures: Floats, merits: Floats, counts: NDArray[np.int64]) -> Floats:
    """How far each mixture [m] is expected to be above the mean of the others, by a fit to the others alone."""
    part = np.arange(len(mixtures)) % PARTS
    found = np.empty(len(mixtures))
    for one in range(int(part.max()) + 1):
        out, kept = part == one, part != one
        # Above that mean, not the number itself: where a good mixture is left out, the mean of the others is low, and
        # a model that expects nothing but the mean would rank all mixtures the wrong way round.
        mean = np.average(merits[kept], weights=counts[kept])
        found[out] = fit(mixtures[kept], merits[kept], counts[kept])(mixtures[out]) - mean
    return found


def _log_linear(mixtures: Floats, merits: Floats, counts: NDArray[np.int64]) -> Predict:
    """Ridge regression; its penalty is the one with the least squared error over mixtures that are left out."""
    root = np.sqrt(counts)
    centre, mean = np.average(mixtures, axis=0, weights=counts), np.average(merits, weights=counts)
    U, s, Vt = np.linalg.svd(root[:, None] * (mixtures - centre), full_matrices=False)
    y = root * (merits - mean)
    along = U.T @ y
    errors = []
    for ridge in RIDGES * s[0] ** 2:
        kept = s**2 / (s**2 + ridge)
        # What a row has to say in its own prediction; without it the error is the residual divided by the rest.
        own = counts / counts.sum() + U**2 @ kept
        errors.append(float((((y - U @ (kept * along)) / np.maximum(1 - own, 1e-12)) ** 2).sum()))
    ridge = RIDGES[int(np.argmin(errors))] * s[0] ** 2
    slope = Vt.T @ (s / (s**2 + ridge) * along)
    return lambda given: np.asarray(mean + (given - centre) @ slope)


def _boosted(mixtures: Floats, merits: Floats, counts: NDArray[np.int64]) -> Predict:
    """Gradient-boosted trees of two splits, for few runs; without chance, but for ties, which the seed breaks."""
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(n_estimators=100, max_depth=2, min_samples_leaf=2, random_state=0)
    model.fit(mixtures, merits, sample_weight=counts)
    return lambda given: np.asarray(model.predict(given), dtype=np.float64)


MODELS: dict[str, Callable[..., Predict]] = {"log-linear": _log_linear, "boosted": _boosted}
"""By name; of equally good ones the first is taken."""
