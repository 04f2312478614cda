"""Pointwise mutual information between "which model" and the answer (docs/mathematics.md, section 10)."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.affinity.kernels import kernel
from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.psd import Repair, nearest_conditionally_psd, repair_within_noise
from taskpgm_ray.numerics.types import FloatArray, IntArray


def pmi(gold: npt.ArrayLike) -> FloatArray:
    """pmi_i(e) = L_i(e) - log mean_k exp L_k(e) -> [n, E], nats, at most ln n.

    Args:
        gold: L_i(e) [n, E]: mean log-probability per token of the right answer of example e under model i. The mean
            over tokens (a tempered likelihood) keeps long answers from dominating; sums would saturate at ln n.
    """
    L = _gold(gold)
    top = L.max(axis=0)
    return np.asarray(L - top - np.log(np.exp(L - top).mean(axis=0)))


def lift(gold: npt.ArrayLike, base: npt.ArrayLike) -> FloatArray:
    """L_i(e) - L_0(e) -> [n, E], nats per token: > 0 where model i helps, < 0 where it hurts."""
    L = _gold(gold)
    L0 = np.asarray(base, dtype=np.float64)
    if L0.shape != (L.shape[1],):
        raise InputError(f"base must have one entry an example ({L.shape[1]}), got shape {L0.shape}")
    if not np.isfinite(L0).all():
        raise InputError("base must be finite: the base model gave an answer the probability 0 or NaN")
    return np.asarray(L - L0)


def pmi_matrix(gold: npt.ArrayLike, owner: npt.ArrayLike, base: npt.ArrayLike | None = None) -> FloatArray:
    """Mean PMI of model i on the examples of task j -> [n, n], rows models, columns tasks; not symmetric.

    Without ``base``: A_ij = mean over e of task j of pmi_i(e), relative to the mean of all models; it depends on the
    set of models. With ``base``: B_ij = mean of L_i - L_0, the lift over the base model; adding a task leaves the rest
    unchanged. A and B differ by a constant in each column. Each example of a task counts the same.

    Args:
        gold: [n, E], mean log-probability per token of the right answer; n models, one a task.
        owner: [E], task (0 to n - 1) of each probe example; every task needs at least one.
        base: [E], the same for the base model.
    """
    values = pmi(gold) if base is None else lift(gold, base)
    task = _owner(owner, values)
    sizes = np.bincount(task, minlength=len(values))
    table = np.stack([np.bincount(task, weights=row, minlength=len(values)) for row in values])
    return np.asarray(table / sizes)


def pmi_standard_errors(gold: npt.ArrayLike, owner: npt.ArrayLike, base: npt.ArrayLike | None = None) -> FloatArray:
    """Standard errors of ``pmi_matrix`` [n, n] over the examples of each task; NaN for a task with one example."""
    values = pmi(gold) if base is None else lift(gold, base)
    task = _owner(owner, values)
    n = len(values)
    errors = np.full((n, n), np.nan)
    for j in range(n):
        own = values[:, task == j]
        if own.shape[1] > 1:
            errors[:, j] = own.std(axis=1, ddof=1) / np.sqrt(own.shape[1])
    return errors


def pmi_kernel(gold: npt.ArrayLike, owner: npt.ArrayLike, gamma: float | None = None) -> FloatArray:
    """Kernel on the distances of the models' PMI profiles -> S [n, n], PSD with unit diagonal; the affinity for PMI.

    S_ij = exp(-gamma mean_e (L_i(e) - L_j(e))^2), each task counting once in the mean. The distances are Euclidean (PMI
    and lift differ from L by what all models share), so the kernel is PSD for every gamma (Schoenberg), and copies of
    one task share one place, which a correlation of centred profiles does not give them.

    Args:
        gold: [n, E], mean log-probability per token of the right answer; n models, one a task.
        owner: [E], task (0 to n - 1) of each example.
        gamma: Bandwidth per squared nat; ``ln 2 / median distance`` if None.
    """
    values = _gold(gold)
    task = _owner(owner, values)
    weights = 1.0 / (len(values) * np.bincount(task, minlength=len(values))[task])
    return kernel(profile_distances(profile_gram(values, weights)), gamma)


def profile_distances(gram: npt.ArrayLike) -> FloatArray:
    """mean_e (L_i(e) - L_j(e))^2 [n, n], squared nats, from inner products of the PMI profiles, centred or not."""
    products = np.asarray(gram, dtype=np.float64)
    norms = np.diag(products)
    D = norms[:, None] + norms[None, :] - (products + products.T)
    # Sums are kept to 2^-40, so that equal profiles may be apart by as little, to either side.
    D = np.maximum((D + D.T) / 2, 0.0)
    np.fill_diagonal(D, 0.0)
    return np.asarray(D)


def pmi_profile(gold: npt.ArrayLike, owner: npt.ArrayLike) -> FloatArray:
    """Correlation of the models' PMI profiles over the common probe set -> S [n, n], PSD with unit diagonal.

    The profile of model i is its PMI on every example, minus the mean over models, with examples weighted so that each
    task counts once. To look at, not to mix by: centred profiles add up to zero, so that the mixture of their norms has
    no energy at all, and at every balance up to 1 the off-diagonal of S says nothing. `pmi_kernel` is to mix by.

    Raises:
        InputError: a model whose profile is constantly zero (it predicts as the average of all models).
    """
    values = pmi(gold)
    task = _owner(owner, values)
    weights = 1.0 / (len(values) * np.bincount(task, minlength=len(values))[task])
    return profile_affinity(profile_gram(gold, weights))


def profile_gram(gold: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
    """Inner products of the centred PMI profiles [n, n]; those of disjoint sets of examples add up.

    Args:
        gold: [n, E], mean log-probability per token of the right answer.
        weights: [E], weight of each example.
    """
    values = pmi(gold)
    profile = (values - values.mean(axis=0)) * np.sqrt(np.asarray(weights, dtype=np.float64))
    return np.asarray(profile @ profile.T)


def profile_affinity(gram: npt.ArrayLike) -> FloatArray:
    """Correlations from inner products of profiles -> S [n, n], PSD with unit diagonal.

    Raises:
        InputError: a model whose profile is constantly zero (it predicts as the average of all models).
    """
    products = np.asarray(gram, dtype=np.float64)
    norm = np.sqrt(np.maximum(np.diag(products), 0.0))
    if (norm <= 1e-6 * max(float(norm.max()), 1e-6)).any():
        i = int(norm.argmin())
        raise InputError(
            f"model {i} has no profile of its own: its answers are as likely as under the average of all models on "
            "every probe, so that no correlation exists. Was its adapter applied?"
        )
    S = products / np.outer(norm, norm)
    S = (S + S.T) / 2
    np.fill_diagonal(S, 1.0)
    return np.asarray(S)


def pmi_pairwise(table: npt.ArrayLike) -> FloatArray:
    """The paper's pairwise PMI [n, n]: how much better each of two models is than the other on its own task.

    S_ij = (mean over task j of L_i - L_j + mean over task i of L_j - L_i) / 2 = (M + M')_ij / 2 - (M_ii + M_jj) / 2 for
    M of ``pmi_matrix``, with or without base (what a column has in common cancels). Zero diagonal, mostly negative, and
    indefinite as a rule. Nats per token.

    Args:
        table: M [n, n], rows models, columns tasks.
    """
    M = np.asarray(table, dtype=np.float64)
    if M.ndim != 2 or M.shape[0] != M.shape[1] or not np.isfinite(M).all():
        raise InputError(f"the table must be a finite square matrix, got shape {M.shape}")
    own = np.diag(M)
    S = (M + M.T) / 2 - (own[:, None] + own[None, :]) / 2
    np.fill_diagonal(S, 0.0)
    return np.asarray(S)


def pmi_symmetric(table: npt.ArrayLike, noise: float | None = None) -> tuple[FloatArray, Repair | None]:
    """(A + A') / 2, made PSD on 1-perp by the Frobenius-nearest projection -> (S [n, n], what was changed or None).

    Args:
        table: A or B of ``pmi_matrix`` [n, n].
        noise: standard error of an entry of (A + A') / 2; when given, a negative part beyond 2 sqrt(n) noise is an
            IndefiniteAffinityError instead of being clipped.
    """
    A = np.asarray(table, dtype=np.float64)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or not np.isfinite(A).all():
        raise InputError(f"the table must be a finite square matrix, got shape {A.shape}")
    S = (A + A.T) / 2
    if noise is not None:
        return repair_within_noise(S, noise)
    repaired, repair = nearest_conditionally_psd(S)
    return (repaired, repair) if repair.clipped else (S, None)


def _gold(gold: npt.ArrayLike) -> FloatArray:
    L = np.asarray(gold, dtype=np.float64)
    if L.ndim != 2 or 0 in L.shape:
        raise InputError(f"gold must have shape [models, examples], none empty, got {L.shape}")
    if not np.isfinite(L).all():
        i, e = np.argwhere(~np.isfinite(L))[0]
        raise InputError(f"gold[{i}, {e}] = {L[i, e]}: log-probabilities per token must be finite")
    return L


def _owner(owner: npt.ArrayLike, values: FloatArray) -> IntArray:
    task = np.asarray(owner)
    n, count = values.shape
    if task.shape != (count,) or not np.issubdtype(task.dtype, np.integer):
        raise InputError(
            f"owner must be {count} whole numbers, the task of each example; got {task.dtype} {task.shape}"
        )
    missing = np.setdiff1d(np.arange(n), task)
    if (task < 0).any() or (task >= n).any() or len(missing):
        raise InputError(
            f"owner must name each of the {n} tasks 0 to {n - 1} at least once; missing: {missing[:5].tolist()}, "
            f"found up to {int(task.max())}"
        )
    return task.astype(np.int64)
