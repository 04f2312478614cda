"""The order in which the examples of a mixture are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from taskpgm_ray.errors import InputError


def stream(
    weights: ArrayLike, sizes: Sequence[int], seed: int, orders: Sequence[int] | None = None
) -> Iterator[tuple[int, int]]:
    """Endless (task, example) indices in the mixture's proportions.

    Each step serves the task that is furthest behind its share, so that after any number of steps every task's count
    is within one of its exact share times the number of steps (for two tasks; within a few for many). Inside a task,
    examples come in a fresh random order each epoch; none repeats before all were used.

    Args:
        weights: [n] mixture on the simplex.
        sizes: [n] number of examples of each task.
        seed: Decides the order inside the tasks.
        orders: [n] number of each task's order, which with the seed decides it; default: the task's place. Mixtures of
            one pool that give a task the same number take its examples in the same order, whichever others they hold.

    Raises:
        InputError: Lengths differ, a weight is negative or not finite, all are zero, or a task with weight is empty.
    """
    share = np.asarray(weights, dtype=np.float64)
    if share.shape != (len(sizes),) or not np.isfinite(share).all() or (share < 0).any() or share.sum() <= 0:
        raise InputError(f"weights must be {len(sizes)} non-negative numbers with a positive sum, not {share.tolist()}")
    empty = [i for i, size in enumerate(sizes) if share[i] > 0 and size < 1]
    if empty:
        raise InputError(f"task {empty[0]} has weight {share[empty[0]]:.3g} but no example")
    share = share / share.sum()
    numbers = range(len(sizes)) if orders is None else orders
    epochs = [_epochs(size, np.random.default_rng([seed, n])) for n, size in zip(numbers, sizes, strict=True)]
    debt = np.zeros_like(share)
    while True:
        debt += share
        task = int(np.argmax(debt))
        debt[task] -= 1.0
        yield task, next(epochs[task])


def _epochs(size: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(i) for i in rng.permutation(size))
