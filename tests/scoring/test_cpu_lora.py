"""LoRA operators for the CPU against a plain loop over tokens."""

import pytest

from taskpgm_ray.scoring import cpu_lora

TOKENS, WIDE, RANK, SLOTS = 9, 16, 4, 3

MIXED = [0, 2, -1, 2, 1, -1, 0, 2, 1]
SLOT_PATTERNS = {
    "mixed": MIXED,
    "one slot": [1] * TOKENS,
    "last slot": [SLOTS - 1] * TOKENS,
    "base only": [-1] * TOKENS,
    "one adapter and the base": [2, 2, -1, -1, 2, -1, 2, 2, -1],
}


@pytest.fixture
def numbers():
    """Seeded random tensors."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.fixture(params=SLOT_PATTERNS, ids=lambda name: name.replace(" ", "-"))
def slots(request):
    import torch

    return torch.tensor(SLOT_PATTERNS[request.param])


@pytest.fixture(params=[True, False], ids=["stacked-4d", "stacked-3d"])
def stacked(request, numbers):
    """(slots, out, in) weights as vLLM stacks them: with or without an extra axis."""

    def make(out, width):
        weights = numbers(SLOTS, out, width)
        return weights[:, None] if request.param else weights

    return make


def matrix(weights, slot):
    return weights[slot].reshape(weights.shape[-2:])


def test_shrink(numbers, stacked, slots):
    import torch

    inputs, weights, output = numbers(TOKENS, WIDE), stacked(RANK, WIDE), torch.zeros(TOKENS, RANK)
    cpu_lora.bgmv_shrink(inputs, weights, output, slots, 0.5)
    for t, slot in enumerate(slots.tolist()):
        expected = 0.5 * matrix(weights, slot) @ inputs[t] if slot >= 0 else torch.zeros(RANK)
        torch.testing.assert_close(output[t], expected)


@pytest.mark.parametrize("add", [True, False])
def test_expand(numbers, stacked, slots, add):
    import torch

    inputs, weights, output = numbers(TOKENS, RANK), stacked(WIDE, RANK), numbers(TOKENS, WIDE)
    before = output.clone()
    cpu_lora.bgmv_expand(inputs, weights, output, slots, add)
    for t, slot in enumerate(slots.tolist()):
        # A token of the base model keeps what was there, whether or not adapters add to theirs.
        expected = before[t]
        if slot >= 0:
            expected = matrix(weights, slot) @ inputs[t] + (before[t] if add else 0)
        torch.testing.assert_close(output[t], expected)


@pytest.mark.parametrize("add", [True, False])
def test_expand_into_a_slice(numbers, stacked, slots, add):
    import torch

    inputs, weights, output = numbers(TOKENS, RANK), stacked(5, RANK), numbers(TOKENS, WIDE)
    before = output.clone()
    cpu_lora.bgmv_expand_slice(inputs, weights, output, slots, 6, 5, add)
    for t, slot in enumerate(slots.tolist()):
        expected = before[t].clone()
        if slot >= 0:
            product = matrix(weights, slot) @ inputs[t]
            expected[6:11] = product + before[t, 6:11] if add else product
        torch.testing.assert_close(output[t], expected)


def test_more_slots_than_tokens_as_in_a_padded_batch(numbers):
    import torch

    inputs, weights = numbers(4, WIDE), numbers(SLOTS, RANK, WIDE)
    for slots in (torch.tensor([0, 1, -1, 2, 2, 2]), torch.tensor([1, 1, 1, 1, 0, 0])):
        output = torch.zeros(4, RANK)
        cpu_lora.bgmv_shrink(inputs, weights, output, slots)
        for t in range(4):
            expected = weights[slots[t]] @ inputs[t] if slots[t] >= 0 else torch.zeros(RANK)
            torch.testing.assert_close(output[t], expected)


def test_an_output_wider_than_the_rank_keeps_its_rest(numbers):
    import torch

    output = torch.full((TOKENS, RANK + 2), 7.0)
    cpu_lora.bgmv_shrink(numbers(TOKENS, WIDE), numbers(SLOTS, RANK, WIDE), output, torch.tensor(MIXED))
    assert (output[:, RANK:] == 7.0).all()
    assert (output[MIXED.index(-1)] == 7.0).all()


def test_products_are_taken_in_the_precision_of_the_output(numbers):
    import torch

    inputs, weights = numbers(TOKENS, WIDE).bfloat16(), numbers(SLOTS, RANK, WIDE).bfloat16()
    output = torch.zeros(TOKENS, RANK)
    cpu_lora.bgmv_shrink(inputs, weights, output, torch.tensor(MIXED))
    torch.testing.assert_close(output[0], weights[0].float() @ inputs[0].float())


def test_sequences_with_a_slot_each(numbers):
    import torch

    lengths, per_sequence = torch.tensor([2, 3, 4]), torch.tensor([1, -1, 2])
    per_token = per_sequence.repeat_interleave(lengths)
    starts = torch.tensor([0, 2, 5])
    rest = (3, 4, TOKENS)

    inputs, a = numbers(TOKENS, WIDE), numbers(SLOTS, RANK, WIDE)
    shrunk, expected = torch.zeros(TOKENS, RANK), torch.zeros(TOKENS, RANK)
    cpu_lora.sgmv_shrink(inputs, a, shrunk, starts, lengths, per_sequence, *rest, 2.0)
    cpu_lora.bgmv_shrink(inputs, a, expected, per_token, 2.0)
    assert torch.equal(shrunk, expected)
    assert not shrunk[2:5].any()
    assert shrunk[:2].abs().min() > 0

    b, output = numbers(SLOTS, WIDE, RANK), numbers(TOKENS, WIDE)
    expected = output.clone()
    cpu_lora.bgmv_expand(shrunk, b, expected, per_token, True)
    cpu_lora.sgmv_expand(shrunk, b, output, starts, lengths, per_sequence, *rest, True)
    assert torch.equal(output, expected)

    c = numbers(SLOTS, 5, RANK)
    expected = output.clone()
    cpu_lora.bgmv_expand_slice(shrunk, c, expected, per_token, 6, 5, False)
    cpu_lora.sgmv_expand_slice(shrunk, c, output, starts, lengths, per_sequence, *rest, 6, 5, False)
    assert torch.equal(output, expected)
