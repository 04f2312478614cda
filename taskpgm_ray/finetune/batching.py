"""Which examples make a batch: lengths are sorted within a window, and forward passes are cut where it costs least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from taskpgm_ray.tasks.padding import Pair

PASS_TOKENS = 150
"""What a forward and backward pass costs beside its tokens, in tokens: starting some thousands of operations. Measured
with SmolLM2-135M on a CPU; an accelerator's figure is larger, which makes fewer passes no worse."""

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
    """Cut a batch into the forward passes that take the least time together: little padding, and few of them.

    Args:
        pairs: The examples of one batch.
        tokens: Most rows x columns of a forward pass per worker; an example longer than that has one to itself.
        workers: Workers that share every forward pass; all take part in the same number of passes.

    Returns:
        For each forward pass the examples of each worker, [passes][workers][rows]; a worker may have none.
    """
    rows = sorted(pairs, key=tokens_of, reverse=True)
    lengths = np.array([tokens_of(pair) for pair in rows])
    # Examples of similar length go together, so a pass is a run of the sorted ones, and the best cut of all follows
    # from the best cuts of the first 0, 1, 2, ... of them.
    cost, cuts = np.zeros(len(rows) + 1), np.zeros(len(rows) + 1, dtype=int)
    for end in range(1, len(rows) + 1):
        each = -(-np.arange(end, 0, -1) // workers)
        area = each * lengths[:end]
        total = np.where((area <= tokens) | (each == 1), cost[:end] + area + PASS_TOKENS, np.inf)
        cuts[end] = np.argmin(total)
        cost[end] = total[cuts[end]]
    passes: list[list[list[Pair]]] = []
    end = len(rows)
    while end:
        passes.append([rows[cuts[end] + rank : end : workers] for rank in range(workers)])
        end = int(cuts[end])
    return passes[::-1]


def tokens_of(pair: Pair) -> int:
    """Tokens of one example, prompt and response."""
    return len(pair[0]) + len(pair[1])
