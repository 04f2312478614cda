"""The order of training: the mixture's proportions at every moment, and no repeats within an epoch."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import InputError
from taskpgm_ray.finetune.stream import stream

mixtures = st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda w: sum(w) > 1e-3)


@settings(max_examples=150)
@given(weights=mixtures, steps=st.integers(1, 300), seed=st.integers(0, 5))
def test_proportions_at_every_moment(weights, steps, seed):
    share = np.array(weights) / sum(weights)
    counts = np.zeros(len(weights))
    for number, (task, _) in enumerate(islice(stream(weights, [7] * len(weights), seed), steps), start=1):
        counts[task] += 1
        # A task never gets ahead by a whole example, and what it lacks is spread over the others.
        assert (counts < number * share + 1 + 1e-9).all()
        assert (counts > number * share - len(weights)).all()
        if len(weights) == 2:
            assert np.abs(counts - number * share).max() <= 1 + 1e-9
    assert counts.sum() == steps
    assert not counts[share == 0].any()


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), epochs=st.integers(1, 3), seed=st.integers(0, 5))
def test_every_example_once_an_epoch(sizes, epochs, seed):
    drawn = [[] for _ in sizes]
    for task, example in islice(stream(np.ones(len(sizes)), sizes, seed), epochs * max(sizes) * len(sizes)):
        drawn[task].append(example)
    for size, examples in zip(sizes, drawn, strict=True):
        for start in range(0, len(examples) - size + 1, size):
            assert sorted(examples[start : start + size]) == list(range(size))


def test_the_seed_decides_the_order():
    def first(seed, n=60):
        return list(islice(stream([0.5, 0.3, 0.2], [20, 20, 20], seed), n))

    assert first(1) == first(1)
    assert first(1) != first(2)
    # The order of the tasks is the mixture's alone.
    assert [task for task, _ in first(1)] == [task for task, _ in first(2)]


def test_epochs_differ():
    order = [example for _, example in islice(stream([1.0], [30], 0), 60)]
    assert order[:30] != order[30:]


def test_the_scale_of_the_weights_does_not_matter():
    assert list(islice(stream([1, 3], [5, 5], 0), 40)) == list(islice(stream([0.25, 0.75], [5, 5], 0), 40))


def test_equal_weights_take_turns():
    assert Counter(task for task, _ in islice(stream([1, 1, 1], [2, 2, 2], 0), 30)) == {0: 10, 1: 10, 2: 10}


def test_a_task_without_weight_may_be_empty():
    assert {task for task, _ in islice(stream([1, 0], [3, 0], 0), 9)} == {0}


@pytest.mark.parametrize(
    ("weights", "sizes", "message"),
    [
        ([0.5, 0.5], [3], "weights must be 1 non-negative numbers"),
        ([1.5, -0.5], [3, 3], r"not \[1\.5, -0\.5\]"),
        ([float("nan"), 1], [3, 3], "non-negative numbers with a positive sum"),
        ([0, 0], [3, 3], "with a positive sum"),
        ([0.4, 0.6], [3, 0], r"task 1 has weight 0\.6 but no example"),
    ],
)
def test_what_is_no_mixture(weights, sizes, message):
    with pytest.raises(InputError, match=message):
        next(stream(weights, sizes, 0))


def test_mixtures_that_number_their_orders_are_paired():
    """The same seed gives the same order inside a task, whichever tasks a mixture leaves out."""

    def order(weights, orders, task, n=200):
        return [e for t, e in islice(stream(weights, [9] * len(weights), 3, orders), n) if t == task]

    whole = order([0.4, 0.3, 0.3], None, 2)
    without_the_first = order([0.6, 0.4], [1, 2], 1)
    length = min(len(whole), len(without_the_first))
    assert length > 50
    assert whole[:length] == without_the_first[:length]
    assert whole[:length] != order([0.6, 0.4], None, 1)[:length]
