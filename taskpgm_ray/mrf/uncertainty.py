"""How sure the weights are: two jackknives and a bootstrap over examples (docs/mathematics.md, section 12).

Units: divergences in nats, gamma per nat, weights and standard errors as shares of the mixture.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf.mixture import Mixture
from taskpgm_ray.mrf.solvers.optimum import find_optimum
from taskpgm_ray.mrf.solvers.problem import build
from taskpgm_ray.mrf.task_influence import driving_vector, problem_of, respond, without_groups
from taskpgm_ray.numerics.checks import as_floats, vector
from taskpgm_ray.numerics.constants import LN2
from taskpgm_ray.numerics.threads import single_threaded_blas
from taskpgm_ray.numerics.types import FloatArray, IntArray


@dataclass(frozen=True)
class WeightUncertainty:
    """Sampling uncertainty of the weights of a mixture of n tasks."""

    weights: FloatArray
    """The weights whose uncertainty this is [n]."""
    covariance: FloatArray
    """[n, n]."""
    method: str
    """"infinitesimal jackknife", "group jackknife" or "bootstrap"."""
    replicates: FloatArray | None = field(default=None, repr=False)
    """Re-solved weights [B, n] of the bootstrap or the group jackknife."""

    @property
    def standard_errors(self) -> FloatArray:
        """[n]."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)))

    @property
    def inclusion(self) -> FloatArray | None:
        """Share of the bootstrap replicates in which each task has weight [n]; None for the other methods.

        For a task near weight 0 this says more than its standard error, which is too small there.
        """
        if self.method != "bootstrap" or self.replicates is None:
            return None
        return np.asarray((self.replicates > 0).mean(axis=0))

    def interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Confidence limits (lower [n], upper [n]), cut to [0, 1]: weights -/+ z * standard error."""
        if not 0 < level < 1:
            raise InputError(f"the level must be between 0 and 1, got {level!r}")
        half = float(ndtri((1 + level) / 2)) * self.standard_errors
        return np.clip(self.weights - half, 0.0, 1.0), np.clip(self.weights + half, 0.0, 1.0)

    def percentile_interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Percentiles of the bootstrap replicates (lower [n], upper [n])."""
        if self.method != "bootstrap" or self.replicates is None:
            raise InputError("percentile intervals need bootstrap replicates")
        if not 0 < level < 1:
            raise InputError(f"the level must be between 0 and 1, got {level!r}")
        low, high = np.quantile(self.replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return np.asarray(low), np.asarray(high)

    def difference(self, i: int, j: int) -> tuple[float, float]:
        """Test of p_i = p_j: (z, two-sided p-value), z = (p_i - p_j) / sqrt(V_ii + V_jj - 2 V_ij).

        (nan, nan) when the variance of the difference is zero: the data cannot tell.
        """
        V = self.covariance
        variance = float(V[i, i] + V[j, j] - 2 * V[i, j])
        if variance <= 1e-30:
            return float("nan"), float("nan")
        z = float(self.weights[i] - self.weights[j]) / variance**0.5
        return z, float(2 * ndtr(-abs(z)))

    def mass(self, tasks: npt.ArrayLike) -> tuple[float, float]:
        """Sum of the weights of some tasks (a cluster) and its standard error."""
        index = np.asarray(tasks, dtype=np.int64)
        part = self.covariance[np.ix_(index, index)]
        return float(self.weights[index].sum()), float(max(part.sum(), 0.0) ** 0.5)


def infinitesimal_jackknife(
    S: npt.ArrayLike,
    mixture: Mixture,
    divergences: npt.ArrayLike,
    example_weights: npt.ArrayLike | None = None,
    *,
    gamma: float | None = None,
) -> WeightUncertainty:
    """Full covariance of the weights from one solution, for S = exp(-gamma D).

    The influence of example e on the weights is delta_e = Q (dS_e (tau m - p))_A with dS_e = -gamma S o (d^e - D); then
    Cov = E / (E - 1) * sum_e w_e^2 delta_e delta_e', equation (12.1). Under the median rule gamma = ln 2 / median D
    moves with the examples too, d gamma_e = -gamma (d^e - D)_median / median, and dS_e gains -S o D d gamma_e. Valid
    away from the bounds; near them use ``bootstrap``.

    Args:
        S: affinities [n, n] of the mixture.
        mixture: result of ``solve``.
        divergences: JSD of every pair on every example [E, n, n], nats (``affinity.example_divergences``).
        example_weights: weight of each example [E]; equal if None.
        gamma: scale of the kernel, per nat, held fixed; None: the median rule of ``affinity.kernel``.

    Raises:
        InputError: shapes do not match, or S is not exp(-gamma D) of these divergences.
    """
    d, w = _examples(divergences, example_weights, len(mixture.weights))
    mean = np.asarray(np.tensordot(w, d, axes=1), dtype=np.float64)
    problem = problem_of(S, mixture)
    scale, pairs = (gamma, None) if gamma is not None else _median_rule(mean)
    expected = np.exp(-scale * mean)
    if float(np.abs(expected - problem.S).max()) > 1e-6:
        raise InputError(
            "S is not exp(-gamma D) of these divergences: give the gamma and the examples S was built from"
        )
    pull = driving_vector(mixture, problem)
    changes = -scale * np.einsum("eij,ij,j->ei", d - mean, problem.S, pull, optimize=True)
    if pairs is not None:
        median = mean[pairs].mean()
        moved = -scale * (d[:, pairs[0], pairs[1]].mean(axis=1) - median) / median
        changes -= np.outer(moved, (problem.S * mean) @ pull)
    return from_influences(mixture, respond(problem, mixture, changes), w)


def from_influences(mixture: Mixture, influences: FloatArray, example_weights: FloatArray) -> WeightUncertainty:
    """Covariance from the influence of each example [E, n] and the example weights [E] (sum 1)."""
    count = len(example_weights)
    scaled = influences * example_weights[:, None]
    return WeightUncertainty(
        weights=mixture.weights,
        covariance=np.asarray(count / (count - 1) * scaled.T @ scaled),
        method="infinitesimal jackknife",
    )


def group_jackknife(affinities: npt.ArrayLike, mixture: Mixture) -> WeightUncertainty:
    """Covariance from the affinities without each group of examples [G, n, n]: one solution a group.

    Cov = (G - 1) / G * sum_g (p_g - mean)(p_g - mean)'. Whether gamma is frozen is the caller's choice: it is in the
    affinities (``affinity.JSDSums.leave_one_bucket_out`` gives the divergences).

    Raises:
        InputError: shapes do not match, or fewer than two groups.
        IndefiniteAffinityError: a replicate is not PSD where it has to be.
    """
    replicates = resolved(affinities, mixture)
    groups = len(replicates)
    if groups < 2:
        raise InputError(f"the group jackknife needs at least 2 groups, got {groups}")
    spread = replicates - replicates.mean(axis=0)
    return WeightUncertainty(
        weights=mixture.weights,
        covariance=np.asarray((groups - 1) / groups * spread.T @ spread),
        method="group jackknife",
        replicates=replicates,
    )


def bootstrap(
    mixture: Mixture,
    divergences: npt.ArrayLike,
    example_weights: npt.ArrayLike | None = None,
    *,
    gamma: float | None = None,
    replicates: int = 200,
    seed: int = 0,
) -> WeightUncertainty:
    """Re-solve on examples drawn with replacement: standard errors, percentiles, inclusion frequency.

    Args:
        mixture: result of ``solve`` on exp(-gamma D).
        divergences: [E, n, n] as in ``infinitesimal_jackknife``.
        example_weights: [E]; equal if None.
        gamma: scale of the kernel, per nat, held fixed; None: the median rule, anew in each replicate.
        replicates: number of draws B.
        seed: of the draws.

    Raises:
        InputError: shapes do not match, or fewer than two replicates.
    """
    if replicates < 2:
        raise InputError(f"the bootstrap needs at least 2 replicates, got {replicates}")
    d, w = _examples(divergences, example_weights, len(mixture.weights))
    rng = np.random.default_rng(seed)
    count = len(w)
    flat = d.reshape(count, -1)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=replicates) * w
    drawn /= drawn.sum(axis=1, keepdims=True)
    means = (drawn @ flat).reshape(replicates, *d.shape[1:])
    scales = np.array([_median_rule(D)[0] if gamma is None else gamma for D in means])
    affinities = np.exp(-scales[:, None, None] * means)
    solved = resolved(affinities, mixture)
    spread = solved - solved.mean(axis=0)
    return WeightUncertainty(
        weights=mixture.weights,
        covariance=np.asarray(spread.T @ spread / (replicates - 1)),
        method="bootstrap",
        replicates=solved,
    )


def resolved(affinities: npt.ArrayLike, mixture: Mixture) -> FloatArray:
    """The mixtures [B, n] of other affinities [B, n, n] under the same balance, bounds, target or utility."""
    without_groups(mixture)
    matrices = as_floats(affinities, "affinities")
    n = len(mixture.weights)
    if matrices.ndim != 3 or matrices.shape[1:] != (n, n):
        raise InputError(f"affinities must have shape [replicates, {n}, {n}], got {matrices.shape}")
    bounded = bool((mixture.lower > 0).any() or (mixture.upper < 1).any())
    bounds = (mixture.lower, mixture.upper) if bounded else (None, None)
    found = []
    with single_threaded_blas():
        for matrix in matrices:
            problem = build(matrix, mixture.utility, mixture.target, *bounds)
            start = problem.classes.sums(mixture.weights)
            found.append(problem.expand(find_optimum(problem, mixture.tau, start).mass))
    return np.array(found)


def _median_rule(D: FloatArray) -> tuple[float, tuple[IntArray, IntArray]]:
    """gamma = ln 2 / median off-diagonal divergence, and the one or two pairs in the middle that define it."""
    i, j = np.triu_indices(len(D), 1)
    if len(i) == 0:
        raise InputError("the median rule needs at least two tasks; give gamma")
    order = np.argsort(D[i, j], kind="stable")
    middle = order[(len(order) - 1) // 2 : len(order) // 2 + 1]
    median = float(D[i[middle], j[middle]].mean())
    if median <= 0:
        raise InputError("the median divergence is 0: the median rule gives no scale; give gamma")
    return LN2 / median, (i[middle], j[middle])


def _examples(
    divergences: npt.ArrayLike, example_weights: npt.ArrayLike | None, n: int
) -> tuple[FloatArray, FloatArray]:
    d = as_floats(divergences, "divergences")
    if d.ndim != 3 or d.shape[1:] != (n, n) or len(d) < 2:
        raise InputError(f"divergences must have shape [at least 2 examples, {n}, {n}], got {d.shape}")
    if example_weights is None:
        return d, np.full(len(d), 1 / len(d))
    w = vector(example_weights, len(d), "example_weights")
    if (w < 0).any() or not w.sum() > 0:
        raise InputError("example_weights must be >= 0 with a positive sum")
    return d, w / w.sum()
