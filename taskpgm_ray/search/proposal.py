"""The mixture that a prediction of scores proposes: the mean of the best of many that keep the limits.

As RegMix has it (Liu et al. 2024, arXiv 2407.01492): a maximum of the prediction would be a maximum of its errors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.mrf.limits import Limits

Floats = NDArray[np.float64]
DRAWS = 20_000
"""Mixtures that are drawn."""
BEST = 0.01
"""Part of them whose mean is proposed. Further rounds around the best come nearer to the maximum of the prediction, and
farther from that of curved scores (docs/decisions.md, 111)."""
CORNERS, OF_GROUPS = 2_000, 200
"""Corners of the limits that are looked for; each is a linear program where groups are limited."""
MIXED = 8
"""Corners that one draw is mixed of, where there are more than tasks."""
EVEN = (0.05, 5.0)
"""Range of a draw's concentration: from nearly one corner to nearly all of them alike."""


def propose(predict: Callable[[Floats], Floats], limits: Limits, known: Floats, seed: int) -> Floats:
    """The mean [n] of the best hundredth of the mixtures that are drawn within the limits.

    What keeps bounds and limits of groups is a convex set, so that the mean is in it. Mixtures of at most so many tasks
    are none: there the nearest such mixture to the mean is taken.

    Args:
        predict: Mixtures [k, n] -> scores [k], the higher the better.
        limits: What the mixture has to keep to.
        known: Mixtures [k, n] around which half of the draws are; those that do not keep the limits are not used.
        seed: Of the draws.

    Raises:
        InputError: No mixture keeps the limits.
    """
    rng = np.random.default_rng(seed)
    made = drawn(corners_of(limits, rng), known[limits.kept(known)], rng)
    scores = predict(made)
    # All that are as good as the last of them: trees give many mixtures one score.
    least = np.sort(scores)[-max(1, round(BEST * len(made)))]
    mean = np.asarray(made[scores >= least].mean(axis=0))
    if limits.most is None:
        return mean / mean.sum()
    return limits.nearest(mean)


def drawn(corners: Floats, known: Floats, rng: np.random.Generator) -> Floats:
    """The mixtures [k, n] that are known, and `DRAWS` random ones: half around those, half anywhere.

    Draws are mixtures of the corners [v, n] of what keeps the limits, so that none has to be thrown away. Where those
    are single tasks they are Dirichlet draws around uniform.
    """
    made = _mixed(corners, DRAWS, rng)
    if len(known):
        far = made[: DRAWS // 2]
        start = known[rng.integers(len(known), size=len(far))]
        made[: DRAWS // 2] = start + rng.random((len(far), 1)) * (far - start)
    return np.vstack([known, made])


def corners_of(limits: Limits, rng: np.random.Generator) -> Floats:
    """Corners [v, n] of what keeps bounds and limits of groups; all of them where each is one task's."""
    n, room = len(limits.lower), 1 - float(limits.lower.sum())
    if not limits.groups and (limits.upper - limits.lower >= room).all():
        return np.asarray(limits.lower + room * np.eye(n))
    wanted = OF_GROUPS if limits.groups else CORNERS
    found = np.array([limits.corner(rng.normal(size=n)) for _ in range(wanted)])
    return np.asarray(np.unique(found.round(12), axis=0))


def _mixed(corners: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Dirichlet mixtures [count, n] of all corners, or of some where there are more than tasks."""
    v, n = corners.shape
    least, most = (float(end) for end in np.log(EVEN))
    concentration = np.exp(rng.uniform(least, most, size=(count, 1)))
    # A sum of gammas that all underflow would be no mixture.
    shares = rng.gamma(concentration, size=(count, v if v <= n else MIXED)) + 1e-300
    shares /= shares.sum(axis=1, keepdims=True)
    if v <= n:
        return np.asarray(shares @ corners)
    made = np.zeros((count, n))
    for share in shares.T:
        made += share[:, None] * corners[rng.integers(v, size=count)]
    return made
