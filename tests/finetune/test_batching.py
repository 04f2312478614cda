"""Batches: nothing lost, nothing repeated, little padded, never more tokens than allowed."""

import random
from collections import Counter
from itertools import count, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.finetune.batching import PASS_TOKENS, batches, micro_batches, tokens_of


def pairs_of(lengths):
    """One example per length; the last token of each prompt names it."""
    return [([0] * (length - 2) + [number], [1]) for number, length in enumerate(lengths)]


@settings(max_examples=100)
@given(batch=st.integers(1, 7), window=st.integers(1, 6), steps=st.integers(1, 30), seed=st.integers(0, 3))
def test_the_first_examples_of_the_order_are_used_once_each(batch, window, steps, seed):
    made = list(islice(batches(count(), lambda n: n * 7 % 11, batch, window, steps, seed), steps))
    assert [len(examples) for examples in made] == [batch] * steps
    assert sorted(n for examples in made for n in examples) == list(range(steps * batch))


def test_a_window_of_one_keeps_the_order():
    assert list(islice(batches(count(), lambda n: -n, 3, 1, None, 0), 3)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_the_batches_of_a_window_come_in_no_order_of_length():
    rng = random.Random(0)
    order = iter(lambda: rng.randint(1, 500), 0)
    means = [sum(examples) for examples in islice(batches(order, lambda n: n, 8, 16, None, 0), 16)]
    assert means not in (sorted(means), sorted(means, reverse=True))


@settings(max_examples=200)
@given(
    lengths=st.lists(st.integers(2, 300), min_size=1, max_size=40),
    tokens=st.integers(2, 900),
    workers=st.integers(1, 4),
)
def test_forward_passes_hold_every_example_once_within_the_budget(lengths, tokens, workers):
    pairs = pairs_of(lengths)
    passes = micro_batches(pairs, tokens, workers)
    assert Counter(p[0][-1] for shares in passes for share in shares for p in share) == Counter(range(len(pairs)))
    for shares in passes:
        assert len(shares) == workers
        rows = max(len(share) for share in shares)
        widest = max(tokens_of(pair) for share in shares for pair in share)
        assert rows == 1 or rows * widest <= tokens
        assert rows - min(len(share) for share in shares) <= 1


def cost_of(passes):
    """What `micro_batches` keeps small: the tokens of each pass of a worker, padding included, and the pass itself."""
    return sum(
        max(len(share) for share in shares) * max(tokens_of(pair) for share in shares for pair in share) + PASS_TOKENS
        for shares in passes
    )


@settings(max_examples=100)
@given(
    lengths=st.lists(st.integers(2, 300), min_size=1, max_size=7),
    tokens=st.integers(2, 900),
    workers=st.integers(1, 3),
)
def test_no_other_cut_of_the_sorted_examples_costs_less(lengths, tokens, workers):
    rows = sorted(pairs_of(lengths), key=tokens_of, reverse=True)

    def cuts(start):
        """All ways to cut what follows ``start`` into passes that fit."""
        if start == len(rows):
            yield []
        for end in range(start + 1, len(rows) + 1):
            each = -(-(end - start) // workers)
            if each == 1 or each * tokens_of(rows[start]) <= tokens:
                for rest in cuts(end):
                    yield [[rows[start + rank : end : workers] for rank in range(workers)], *rest]

    assert cost_of(micro_batches(rows, tokens, workers)) == min(map(cost_of, cuts(0)))


def passes_of(batch, window, tokens=2048, count=320):
    """Forward passes of batches of examples as long as real ones (log-normal, up to 512 tokens)."""
    rng = random.Random(0)
    order = iter(lambda: pairs_of([min(512, max(4, int(rng.lognormvariate(4.3, 0.6))))])[0], None)
    drawn = islice(batches(order, tokens_of, batch, window, None, 0), count)
    return [rows for examples in drawn for (rows,) in micro_batches(examples, tokens)]


@pytest.mark.parametrize("tokens", [512, 2048, 8192])
def test_of_real_lengths_less_than_a_fifth_is_padding_although_there_are_few_passes(tokens):
    passes = passes_of(16, 1, tokens)
    used = sum(tokens_of(pair) for rows in passes for pair in rows)
    padded = sum(len(rows) * max(map(tokens_of, rows)) for rows in passes)
    assert 1 - used / padded < 0.20
    assert len(passes) < 5 * 320


def test_sorting_a_window_makes_fewer_passes():
    assert len(passes_of(16, 16)) < 0.5 * len(passes_of(16, 1))
