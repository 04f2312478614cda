"""Usable information: what is exchanged, the figures, and that an adapter of random answers has none."""

from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpgm_ray.config import LoraSection
from taskpgm_ray.finetune.batching import tokens_of
from taskpgm_ray.finetune.job import Recipe
from taskpgm_ray.finetune.lora import LoraTrainer
from taskpgm_ray.finetune.usable import exchanged, usable

LORA = LoraSection(r=4, alpha=8)
RECIPE = Recipe(
    lora=LORA, steps=40, tokens=None, batch_size=4, sort_window=1, learning_rate=0.02, warmup_fraction=0.2,
    weight_decay=0.0, max_grad_norm=1.0, seed=0, init_seed=0,
)  # fmt: skip


@pytest.fixture
def trainer(tiny_llama):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return LoraTrainer(AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval(), LORA)


def train(trainer, pairs, heldout):
    examples = cycle(pairs)
    return trainer.run(([next(examples) for _ in range(4)] for _ in cycle([0])), RECIPE, 0, heldout)


def test_every_answer_is_put_under_the_next_question():
    examples = [([k, k], [10 + k]) for k in range(4)]
    assert exchanged(examples) == [([1, 1], [10]), ([2, 2], [11]), ([3, 3], [12]), ([0, 0], [13])]
    assert exchanged(examples[:1]) == [None]
    assert exchanged([]) == []


def test_a_question_that_makes_the_pair_too_long_is_passed_over():
    short, long = ([1], [2, 3, 4]), ([5, 6, 7], [8])
    assert exchanged([short, long, ([9], [2])]) == [([9], [2, 3, 4]), ([9], [8]), ([1], [2])]
    assert exchanged([([1], [2, 3, 4]), ([5, 6, 7], [8])]) == [None, ([1], [8])]


lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12)


@given(lengths)
def test_a_pair_is_never_longer_than_the_longest_example_and_never_its_own(sizes):
    examples = [([k] * question, [k] * answer) for k, (question, answer) in enumerate(sizes)]
    for k, pair in enumerate(exchanged(examples)):
        fitting = [o for o, (q, _) in enumerate(examples) if o != k and len(q) + sizes[k][1] <= max(map(sum, sizes))]
        assert (pair is None) == (not fitting)
        if pair:
            assert pair[1] == examples[k][1]
            assert pair[0][0] in fitting
            assert tokens_of(pair) <= max(map(sum, sizes))


def test_the_figures_are_over_answers():
    found = usable([1.0, 2.0, 0.5], [2.0, 2.5, 3.5])
    assert found.information == pytest.approx((1 + 0.5 + 3) / 3)
    assert found.error == pytest.approx(np.std([1, 0.5, 3], ddof=1) / 3**0.5)
    assert found.surprise == pytest.approx(8 / 3)
    assert usable([1.0], [2.0]) is None
    assert usable([], []) is None


def questions(answers):
    """Four questions again and again, of two tokens, with these answers."""
    return [([100 + k % 4, 200], [300 + answer, 1]) for k, answer in enumerate(answers)]


def test_only_where_answers_hang_on_questions_there_is_something_to_use(trainer):
    rng = np.random.default_rng(0)
    found = {}
    for name, answers, heldout in (
        ("right", np.arange(48) % 2, np.arange(24) % 2),
        ("drawn", rng.integers(2, size=48), rng.integers(2, size=24)),
    ):
        outcome = train(trainer, questions(answers), questions(heldout))
        assert outcome["heldout_loss_after"] < 0.5 * outcome["heldout_loss_before"], name
        found[name] = outcome["usable"]
    # Each question has a neighbour of the other answer: nearly all that there is to be known is known.
    right, drawn = found["right"], found["drawn"]
    assert right["information"] > 0.9 * right["surprise"] > 1
    assert right["information"] > 10 * right["error"]
    assert drawn["information"] < 2 * drawn["error"]


def test_the_losses_are_those_of_the_examples_one_by_one(trainer):
    examples = [([5] * (1 + k), [7] * (1 + k % 3)) for k in range(9)] + [([5], [7])]
    together = trainer.losses(examples, 0, 24)
    alone = [trainer.mean_loss([example], 0) * len(example[1]) for example in examples]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert together[0] == pytest.approx(together[-1])


def test_of_one_held_out_example_nothing_is_said(trainer):
    assert train(trainer, questions([0, 1]), questions([1]))["usable"] is None
