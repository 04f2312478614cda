"""Regret of the balance that a search chooses: the maximum of the curve (ours) against the best trial (peer).

Simulated pools of twelve tasks, four of them clones. The true score along the path is quadratic around a mixture,
linear in it, or a power law in what each task gets of its like, with a standard deviation along the path as named.
Seeds spread by 0.056 nats. Both see the same trials.
"""

import numpy as np

from jobs.benchmarks._common import row
from jobs.benchmarks._simulated import SPREAD
from taskpgm_ray.affinity import kernel
from taskpgm_ray.mrf import path
from taskpgm_ray.search.curve import fit

TASKS, POINTS, STUDIES = 12, 101, 200


def run():
    """A row per number of balances, seeds and height of the true curve; regrets in nats."""
    rng = np.random.default_rng(0)
    rows = []
    for balances in (4, 6, 10):
        for seeds in (1, 3):
            for height in (0.02, 0.05, 0.1):
                regrets = np.array([regret(rng, balances, seeds, height) for _ in range(STUDIES)])
                curve, best = regrets.mean(axis=0)
                what = f"{balances} balances, {seeds} seeds, true spread {height} nats"
                rows.append(row(what, float(curve), float(best), "best trial", target=1.0))
    return rows


def regret(rng, balances, seeds, height):
    """(by the curve, by the best trial) of one study."""
    points = rng.normal(size=(TASKS, 3))
    points[:4] = points[0] + 0.1 * rng.normal(size=(4, 3))
    S = kernel(((points[:, None] - points[None]) ** 2).sum(-1))
    along = path(S)
    mixtures = np.array([along.at(float(t)) for t in along.equal_arc(POINTS, tau_min=0.0, tau_max=4.0)])
    truth = _truth(rng, S, mixtures)
    true = height * truth(mixtures)
    tried = np.linspace(0, POINTS - 1, balances).round().astype(int)
    known = np.vstack([mixtures[tried], np.full((1, TASKS), 1 / TASKS)])
    scores = height * truth(known)[:, None] + SPREAD * rng.normal(size=(len(known), seeds))
    fitted, _ = fit(known, scores.tolist()).at(mixtures)
    best = tried[int(scores[:balances].mean(axis=1).argmax())]
    return true.max() - true[int(fitted.argmax())], true.max() - true[best]


def _truth(rng, S, mixtures):
    kind = rng.integers(3)
    centre = mixtures[rng.integers(len(mixtures))] + 0.02 * rng.normal(size=TASKS)
    slope, share = rng.normal(size=TASKS), rng.dirichlet(np.ones(TASKS))
    shapes = (
        lambda p: -((p - centre) ** 2).sum(-1),
        lambda p: p @ slope,
        lambda p: -(share * (0.02 + p @ S) ** -0.5).sum(-1),
    )
    spread = shapes[kind](mixtures).std()
    return lambda p: shapes[kind](p) / spread
