"""Which examples make a batch: lengths are sorted within a window, and forward passes are filled by tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from taskpgm_ray.tasks.padding import Pair

PADDING = 0.1
"""Most of a forward pass that may be padding."""

T = TypeVar("T")


def batches(
    order: Iterator[T], length: Callable[[T], int], batch_size: int, window: int, steps: int | None, seed: int
) -> Iterator[list[T]]:
    """Endless batches of ``batch_size`` examples of similar length.

    The examples of ``window`` batches are taken from ``order``, sorted by length, cut into batches, and the batches
    are shuffled. Within a window nothing is left out or repeated, so the mixture's proportions hold at its end.

    Args:
        order: Endless examples in drawing order.
        length: Tokens of an example.
        batch_size: Examples per batch.
        window: Batches per window; 1 keeps the order.
        steps: Batches that will be used, where that is known: the last window is then only as wide as is needed.
        seed: Decides the order of the batches in a window.
    """
    made = 0
    while True:
        width = window if steps is None or made >= steps else min(window, steps - made)
        rng = np.random.default_rng([seed, made])
        drawn = list(islice(order, width * batch_size))
        if width > 1:
            drawn.sort(key=length)
        for index in rng.permutation(width):
            yield drawn[index * batch_size : (index + 1) * batch_size]
        made += width


def micro_batches(pairs: Sequence[Pair], tokens: int, workers: int = 1) -> list[list[list[Pair]]]:
    """Cut a batch into forward passes of examples of similar length: few tokens of padding, none too large.

    Args:
        pairs: The examples of one batch.
        tokens: Most rows x columns of a forward pass per worker; an example longer than that has one to itself.
        workers: Workers that share every forward pass; all take part in the same number of passes.

    Returns:
        For each forward pass the examples of each worker, [passes][workers][rows]; a worker may have none.
    """
    passes: list[list[Pair]] = []
    widest = used = 0
    for pair in sorted(pairs, key=tokens_of, reverse=True):
        rows = len(passes[-1]) + 1 if passes else 0
        used += tokens_of(pair)
        fits = -(-rows // workers) * widest <= tokens and used >= (1 - PADDING) * rows * widest
        if passes and fits:
            passes[-1].append(pair)
        else:
            passes.append([pair])
            widest = used = tokens_of(pair)
    return [[rows[rank::workers] for rank in range(workers)] for rows in passes]


def tokens_of(pair: Pair) -> int:
    """Tokens of one example, prompt and response."""
    return len(pair[0]) + len(pair[1])
