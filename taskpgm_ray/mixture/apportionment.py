"""Weights to whole numbers of examples: the largest-remainder method, with what each task has as a limit."""

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray, IntArray


def counts(weights: npt.ArrayLike, budget: int, available: npt.ArrayLike | None = None) -> IntArray:
    """Examples of each task [n] that sum to ``budget`` exactly.

    Largest remainder (Hamilton): every task gets the whole part of weight * budget, the largest remainders get one
    more; equal remainders go to the larger weight, then to the earlier task. A task that would get more than
    ``available`` gets that; what it cannot take is shared among the others in proportion to their weights.

    Args:
        weights: non-negative [n], sum 1 to 1e-6.
        budget: total number of examples, >= 0.
        available: most examples a task may give [n] (its size times the allowed epochs); None: no limit.

    Raises:
        InputError: bad weights or budget, or the tasks with weight cannot give ``budget`` examples.
    """
    p = _weights(weights)
    if isinstance(budget, bool) or int(budget) != budget or budget < 0:
        raise InputError(f"the budget must be a whole number of examples >= 0, got {budget!r}")
    total = int(budget)
    limit = _limits(available, len(p), total)
    limit = np.where(p > 0, limit, 0)
    if int(limit.sum()) < total:
        raise InputError(
            f"the tasks with weight have {int(limit.sum())} examples, the budget asks for {total}: "
            "lower the budget, allow more epochs, or give upper bounds to the mixture"
        )
    shares = _capped_shares(p, total, limit)
    whole = np.minimum(np.floor(shares + 1e-9).astype(np.int64), limit)
    left = total - int(whole.sum())
    while left > 0:
        open_ = np.flatnonzero(whole < limit)
        remainder = shares[open_] - whole[open_]
        # lexsort: the last key counts first.
        order = np.lexsort((open_, -p[open_], -np.round(remainder, 9)))
        chosen = open_[order[:left]]
        whole[chosen] += 1
        left -= len(chosen)
    while left < 0:
        # The 1e-9 above may round one share too many up.
        surplus = np.where(whole > 0, whole - shares, -np.inf)
        whole[int(surplus.argmax())] -= 1
        left += 1
    return whole


def token_counts(
    weights: npt.ArrayLike, budget: float, tokens_per_example: npt.ArrayLike, available: npt.ArrayLike | None = None
) -> IntArray:
    """Examples of each task [n] whose tokens are in proportion to the weights and come to about ``budget`` tokens.

    Weights then mean shares of the training tokens. The number of examples of a task is weight * budget / (its mean
    tokens an example), rounded so that the whole count is that of the unrounded mixture; of any tokens it is one at
    least.

    Args:
        weights: non-negative [n], sum 1: shares of tokens.
        budget: total number of tokens.
        tokens_per_example: mean number of tokens of an example of each task [n], > 0.
        available: most examples a task may give [n].
    """
    examples = _per_token(weights, tokens_per_example)
    if budget < 0:
        raise InputError(f"the budget must be a number of tokens >= 0, got {budget!r}")
    total = max(round(float(budget * examples.sum())), 1 if budget else 0)
    return counts(examples / examples.sum(), total, available)


def mean_length(available: npt.ArrayLike, tokens_per_example: npt.ArrayLike) -> float:
    """Mean tokens of an example of the whole pool, of tasks with so many examples [n] of such mean tokens [n]."""
    return float(np.average(np.asarray(tokens_per_example, dtype=np.float64), weights=np.asarray(available)))


def example_shares(weights: npt.ArrayLike, tokens_per_example: npt.ArrayLike) -> FloatArray:
    """Shares of the examples [n] of which the tokens have these shares.

    Args:
        weights: shares of tokens, non-negative [n], sum 1.
        tokens_per_example: mean number of tokens of an example of each task [n], > 0.
    """
    examples = _per_token(weights, tokens_per_example)
    return np.asarray(examples / examples.sum())


def _per_token(weights: npt.ArrayLike, tokens_per_example: npt.ArrayLike) -> FloatArray:
    """Examples of each task [n] in one token of a mixture with these shares of tokens."""
    p = _weights(weights)
    length = np.asarray(tokens_per_example, dtype=np.float64)
    if length.shape != p.shape or not np.isfinite(length).all() or (length <= 0).any():
        raise InputError(f"tokens_per_example must be {len(p)} positive numbers, one a task")
    return np.asarray(p / length)


def _capped_shares(p: FloatArray, total: int, limit: IntArray) -> FloatArray:
    """weight * scale, limited; the scale makes the sum ``total``."""
    shares = p * total
    capped = np.zeros(len(p), dtype=bool)
    while True:
        over = ~capped & (shares > limit)
        if not over.any():
            return shares
        capped |= over
        shares[capped] = limit[capped]
        rest = float(p[~capped].sum())
        if rest > 0:
            shares[~capped] = p[~capped] * ((total - float(limit[capped].sum())) / rest)


def _weights(weights: npt.ArrayLike) -> FloatArray:
    p = np.asarray(weights, dtype=np.float64)
    if p.ndim != 1 or len(p) == 0:
        raise InputError(f"weights must be one number a task, got shape {p.shape}")
    if not np.isfinite(p).all() or (p < 0).any():
        raise InputError("weights must be finite and >= 0")
    if abs(float(p.sum()) - 1) > 1e-6:
        raise InputError(f"weights must sum to 1, they sum to {p.sum():.9g}")
    return np.asarray(p / p.sum())


def _limits(available: npt.ArrayLike | None, n: int, total: int) -> IntArray:
    if available is None:
        return np.full(n, total, dtype=np.int64)
    limit = np.asarray(available, dtype=np.float64)
    if limit.shape != (n,) or np.isnan(limit).any() or (limit < 0).any():
        raise InputError(f"available must be {n} numbers >= 0, one a task")
    return np.asarray(np.minimum(np.floor(limit), total), dtype=np.int64)
