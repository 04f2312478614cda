"""How sure the weights of a mixture are (docs/mathematics.md, section 12).

Over the probes, by the groups that the divergences are stored in, and over the fine-tunes, by what a second fine-tune
of some tasks changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from taskpgm_ray.affinity.bandwidth import NoiseFloor
from taskpgm_ray.affinity.jsd_sums import JSDSums
from taskpgm_ray.mrf import Limits, group_jackknife, nearest_conditionally_psd, solve
from taskpgm_ray.mrf.mixture import Mixture
from taskpgm_ray.mrf.task_influence import driving_vector, problem_of, respond
from taskpgm_ray.mrf.uncertainty import resolved
from taskpgm_ray.numerics.psd import cholesky
from taskpgm_ray.numerics.types import BoolArray, FloatArray

LEVEL = 0.95
DRAWS = 200
"""Draws of probes and seeds, for the inclusion of tasks."""
MOST_TASKS = 400
"""Pools beyond which the draws would take minutes; the intervals are given all the same."""
STEP = 0.5
"""Part of a fine-tune's luck in a draw. With all of it the divergences of a noisy pool are no squared distances any
more, and their repair throws tasks out that a new seed would not (tests/insight/test_certainty.py)."""


@dataclass(frozen=True, eq=False)
class Certainty:
    """Of the weights [n], over which probes were drawn and, where second fine-tunes tell, over the seeds of all."""

    groups: int
    """Groups of probes."""
    fine_tunes: int
    """Tasks whose second fine-tune says what a seed changes; 0: the adapters are taken as they are."""
    low: FloatArray
    """Ends of an interval of `LEVEL` for each weight [n]."""
    high: FloatArray
    inclusion: FloatArray | None
    """Part of the draws in which each task has weight [n]; ``None`` for very large pools."""
    apart: BoolArray
    """Pairs of tasks whose weights differ by more than chance [n, n], each tested at 1 - `LEVEL`."""
    uniform: bool
    """Whether every weight's simultaneous interval (Bonferroni) holds 1 / n: nothing tells the mixture from uniform."""
    probes: FloatArray
    """Covariance over the probes [n, n]."""
    seeds: FloatArray
    """Covariance over the fine-tunes [n, n]; 0 where nothing is known of it."""

    def share(self, members: np.ndarray, weights: FloatArray) -> tuple[float, float]:
        """Interval of the sum of some weights."""
        inside = np.ix_(members, members)
        variances = self.probes[inside].sum(), self.seeds[inside].sum()
        half = float(half_width(*variances, self.groups, self.fine_tunes, LEVEL))
        mass = float(weights[members].sum())
        return max(0.0, mass - half), min(1.0, mass + half)


def certainty(
    sums: JSDSums,
    mixture: Mixture,
    gamma: float,
    taken_off: float = 0.0,
    noise: NoiseFloor | None = None,
    seed: int = 0,
) -> Certainty | None:
    """The certainty of a mixture of S = exp(-gamma (D - taken_off)); gamma and floor are held fixed.

    Args:
        sums: Of the divergences, by groups of probes.
        mixture: A result of ``solve`` on S.
        gamma: Per nat.
        taken_off: Nats.
        noise: Divergences of the second fine-tunes of some tasks; ``None``: there are none.
        seed: Of the draws.

    Returns:
        ``None`` with fewer than three groups of probes.
    """
    kept = np.flatnonzero(sums.weight > 0)
    if len(kept) < 3:
        return None
    n, groups, p = len(mixture.weights), len(kept), mixture.weights
    found = group_jackknife(np.array([_affinity(D, gamma, taken_off) for D in sums.leave_one_bucket_out()]), mixture)
    D, probes, seeds, moves = sums.matrix(), found.covariance, np.zeros((n, n)), None
    if noise is not None:
        moves = _moves(D, sums.models, noise)
        seeds = _over_fine_tunes(_affinity(D, gamma, taken_off), mixture, gamma, moves)
    fine_tunes = 0 if moves is None else len(moves)
    own = np.diag(probes), np.diag(seeds)
    half = half_width(*own, groups, fine_tunes, LEVEL)
    wide = half_width(*own, groups, fine_tunes, 1 - (1 - LEVEL) / n)
    first, second = (np.add.outer(np.diag(V), np.diag(V)) - 2 * V for V in (probes, seeds))
    told = half_width(first, second, groups, fine_tunes, LEVEL)
    return Certainty(
        groups=groups,
        fine_tunes=fine_tunes,
        low=np.clip(p - half, 0.0, 1.0),
        high=np.clip(p + half, 0.0, 1.0),
        inclusion=_inclusion(sums, mixture, gamma, taken_off, moves, seed) if n <= MOST_TASKS else None,
        apart=np.asarray(np.abs(np.subtract.outer(p, p)) > told + 1e-12),
        uniform=bool((np.abs(p - 1 / n) <= wide + 1e-12).all()),
        probes=probes,
        seeds=seeds,
    )


def half_width(probes: npt.ArrayLike, seeds: npt.ArrayLike, groups: int, fine_tunes: int, level: float) -> FloatArray:
    """Half of an interval from two variances, that over the probes and that over the fine-tunes.

    Student's t with Satterthwaite's degrees of freedom: one less than the groups for the first variance, as many as
    second fine-tunes for the other.
    """
    first, second = (np.maximum(np.asarray(v, dtype=np.float64), 0.0) for v in (probes, seeds))
    variance = np.maximum(first + second, 1e-300)
    inverse = (first / variance) ** 2 / (groups - 1) + (second / variance) ** 2 / max(fine_tunes, 1)
    freedom = 1 / np.maximum(inverse, 1e-12)
    return np.asarray(student.ppf((1 + level) / 2, freedom) * np.sqrt(first + second))


def _affinity(D: FloatArray, gamma: float, taken_off: float) -> FloatArray:
    S = np.exp(-gamma * np.maximum(D - taken_off, 0.0))
    np.fill_diagonal(S, 1.0)
    # A kernel whose floor was taken off for all groups together may be indefinite for a part of them.
    return S if cholesky(S) is not None else nearest_conditionally_psd(S)[0]


def _over_fine_tunes(S: FloatArray, mixture: Mixture, gamma: float, moves: FloatArray) -> FloatArray:
    """Covariance of the weights over the seeds of all fine-tunes [n, n], to first order (equation 12.3)."""
    problem, n = problem_of(S, mixture), len(S)
    pull, total = driving_vector(mixture, problem), np.zeros((n, n))
    for move in moves:
        # Row i: what S changes by where the adapter of task i alone moves like this.
        change = -gamma * problem.S * (move[None, :] - move[:, None])
        downhill = change * pull[:, None]
        downhill[np.diag_indices(n)] = change @ pull
        response = respond(problem, mixture, downhill)
        total += response.T @ response
    return np.asarray(total / (2 * len(moves)))


def _moves(D: FloatArray, tasks: tuple[str, ...], noise: NoiseFloor) -> FloatArray:
    """How the adapters that were trained twice moved [m, n]: -2 (a' - a)'x_j for each x_j, up to a constant (12.2)."""
    at = [tasks.index(task) for task in noise.tasks]
    moves = noise.divergences - D[at]
    # The luck of the first fine-tune is in both factors of this one; without it the expectation is 0.
    moves[range(len(at)), at] = 0.0
    return np.asarray(moves)


def _inclusion(
    sums: JSDSums, mixture: Mixture, gamma: float, taken_off: float, moves: FloatArray | None, seed: int
) -> FloatArray:
    """Part of the draws, of groups with replacement and of other seeds, in which each task has weight [n]."""
    rng = np.random.default_rng(seed)
    kept, n = np.flatnonzero(sums.weight > 0), len(mixture.weights)
    parts, weight = sums.sums[kept].astype(np.float64), sums.weight[kept].astype(np.float64)
    drawn = rng.multinomial(len(kept), np.full(len(kept), 1 / len(kept)), size=DRAWS).astype(np.float64)
    means = np.einsum("bg,gij->bij", drawn, parts, optimize=True) / (drawn @ weight)[:, None, None]
    affinities = []
    for mean in means:
        D = mean + mean.T
        if moves is not None:
            # Either way along one of the moves, for every task: two fine-tunes differ by the luck of both.
            moved = moves[rng.integers(len(moves), size=n)] * rng.choice([-STEP, STEP], size=(n, 1)) / np.sqrt(2)
            along = moved - np.diag(moved)[:, None]
            D = np.maximum(D + along + along.T, 0.0)
        affinities.append(_affinity(D, gamma, taken_off))
    return np.asarray((resolved(np.array(affinities), mixture) > mixture.lower + 1e-12).mean(axis=0))


def solved_within(S: FloatArray, tau: float, limits: Limits, utility: FloatArray | None) -> Mixture:
    """The mixture as a solution between bounds; where only some tasks may have weight, the others are held at 0."""
    lower, upper = limits.bounds
    if limits.most is not None:
        upper = np.where(limits.solve(S, tau, utility) > 0, limits.upper, 0.0)
    found = solve(S, tau, utility=utility, target=limits.target, lower=lower, upper=upper)
    return replace(found, most=limits.most)
