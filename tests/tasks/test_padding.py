"""Padded batches: padding changes no prediction."""

import pytest

from taskpgm_ray.tasks.padding import collate


@pytest.fixture(scope="module")
def llama(tiny_llama):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


def pairs():
    import numpy as np

    rng = np.random.default_rng(0)
    return [
        (rng.integers(4, 512, size=p).tolist(), rng.integers(4, 512, size=r).tolist())
        for p, r in [(1, 1), (7, 3), (20, 1), (2, 9), (12, 5)]
    ]


def test_shapes_and_targets():
    batch = collate([([5, 6, 7], [8, 1]), ([9], [2, 3, 1])], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 1], [0, 9, 2, 3, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 0, 1, 2, 3]]
    assert batch.targets.tolist() == [[-100, 8, 1], [2, 3, 1]]
    assert batch.tokens == 9


def test_logits_equal_those_without_padding(llama):
    import torch

    examples = pairs()
    batch = collate(examples, pad_id=0)
    with torch.no_grad():
        logits = batch.logits(llama)
        assert logits.shape == (5, 9, 512)
        for row, (prompt, response) in enumerate(examples):
            alone = llama(input_ids=torch.tensor([prompt + response])).logits[0]
            expected = alone[len(prompt) - 1 : -1]
            torch.testing.assert_close(logits[row, 9 - len(response) :], expected, atol=2e-5, rtol=0)


def test_the_padding_token_does_not_matter(llama):
    import torch

    examples = pairs()
    with torch.no_grad():
        first, second = (collate(examples, pad_id=pad).logits(llama) for pad in (0, 77))
    wanted = collate(examples, pad_id=0).targets != -100
    torch.testing.assert_close(first[wanted], second[wanted], atol=2e-5, rtol=0)
