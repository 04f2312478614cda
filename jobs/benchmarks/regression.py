"""Regret of the curve's balance (ours) against what regressions propose and against the best trial (peers).

Simulated pools of twelve tasks, four of them clones. The true score is quadratic around a mixture of the path, linear
in the weights, or a power law in what each task gets of its like; its standard deviation over random mixtures is 0.1
nats, seeds spread by 0.056 nats. Regret is to the best of all mixtures. Every method has the same number of trials, one
seed each: balances along the path and uniform for the curve, for the best trial and for the baseline `regression`,
which proposes one mixture more; random mixtures and uniform for the regression as RegMix has it.
"""

import numpy as np

from jobs.benchmarks._common import row
from jobs.benchmarks._simulated import SPREAD
from taskpgm_ray.affinity import kernel
from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import Limits, path
from taskpgm_ray.search.curve import fit
from taskpgm_ray.search.proposal import drawn, propose
from taskpgm_ray.search.regression import pooled, regress

TASKS, POINTS, POOLS, HEIGHT, LEVEL = 12, 101, 12, 0.1, -2.0
KINDS = ("quadratic", "linear", "power law")
TRIALS = (8, 24)
PEERS = ("regression on the same trials", "regression on random mixtures", "best trial")


def run():
    """A row per kind of truth, number of trials and peer; mean regrets in nats."""
    rows = []
    for kind in KINDS:
        for trials in TRIALS:
            rng = np.random.default_rng([KINDS.index(kind), trials])
            ours, *peers = np.array([regrets(rng, kind, trials) for _ in range(POOLS)]).mean(axis=0)
            what = f"{kind}, {trials} trials"
            rows += [row(what, float(ours), float(peer), name) for name, peer in zip(PEERS, peers, strict=True)]
    return rows


def regrets(rng, kind, trials):
    """Of the curve's choice and of each peer, in one pool [nats]."""
    points = rng.normal(size=(TASKS, 3))
    points[:4] = points[0] + 0.1 * rng.normal(size=(4, 3))
    S = kernel(((points[:, None] - points[None]) ** 2).sum(-1))
    along = path(S)
    mixtures = np.array([along.at(float(t)) for t in along.equal_arc(POINTS, tau_min=0.0, tau_max=4.0)])
    truth = _truth(rng, kind, S, mixtures)

    def scored(tried):
        return truth(tried) + SPREAD * rng.normal(size=len(tried))

    uniform = np.full((1, TASKS), 1 / TASKS)
    tried = np.linspace(0, POINTS - 1, trials - 1).round().astype(int)
    known = np.vstack([mixtures[tried], uniform])
    scores = scored(known)
    fitted, _ = fit(known, [[score] for score in scores]).at(mixtures)
    others = np.vstack([rng.dirichlet(np.ones(TASKS), trials - 1), uniform])
    chosen = [
        mixtures[int(fitted.argmax())],
        _proposal(known, scores, mixtures),
        _proposal(others, scored(others), others),
        known[int(scores[:-1].argmax())],
    ]
    # The best of all mixtures, as near as single tasks, the path and many draws come to it.
    best = truth(np.vstack([np.eye(TASKS), mixtures, drawn(np.eye(TASKS), mixtures, rng)])).max()
    return [float(best - truth(one[None])[0]) for one in chosen]


def _proposal(tried, scores, near):
    try:
        return propose(regress(pooled(tried, scores)).predict, Limits.none(TASKS), np.vstack([tried, near]), 0)
    except InputError:  # uniform, which needs no regression
        return np.full(TASKS, 1 / TASKS)


def _truth(rng, kind, S, mixtures):
    centre = mixtures[rng.integers(len(mixtures))] + 0.02 * rng.normal(size=TASKS)
    slope, share = rng.normal(size=TASKS), rng.dirichlet(np.ones(TASKS))
    shape = {
        "quadratic": lambda p: -((p - centre) ** 2).sum(-1),
        "linear": lambda p: p @ slope,
        "power law": lambda p: -(share * (0.02 + p @ S) ** -0.5).sum(-1),
    }[kind]
    spread = shape(rng.dirichlet(np.ones(TASKS), 1000)).std()
    return lambda p: LEVEL + HEIGHT * shape(p) / spread
