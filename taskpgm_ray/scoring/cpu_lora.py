"""LoRA on vLLM's CPU build: one matrix product per adapter instead of one gathered copy of its weights per token.

vLLM 0.32's CPU operators index the stacked adapter weights with every token's slot, which copies an adapter's matrices
once per token (most of the time of a LoRA forward pass), and reads slot -1, the base model's, as the last slot: the
base model's tokens are then served with whatever adapter lies there. The operators below group the tokens by slot and
leave those of the base model alone.
"""

from __future__ import annotations

from typing import Any

from taskpgm_ray.errors import ScoringError

OPERATORS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice", "sgmv_shrink", "sgmv_expand", "sgmv_expand_slice")


def install() -> None:
    """Replace vLLM's CPU LoRA operators in this process.

    Raises:
        ScoringError: This vLLM has other operators than those that are replaced.
    """
    import vllm
    from vllm.lora.punica_wrapper import punica_cpu

    absent = [name for name in OPERATORS if not hasattr(punica_cpu, name)]
    if absent:
        raise ScoringError(
            f"vLLM {vllm.__version__} has no CPU operator {absent[0]}; use the vLLM release that pyproject.toml names"
        )
    for name in OPERATORS:
        setattr(punica_cpu, name, globals()[name])


def bgmv_shrink(inputs: Any, weights: Any, output: Any, slots: Any, scaling: float = 1.0) -> None:
    """output[t, :r] = scaling * A[slot of t] @ inputs[t]"""
    for rows, slot in _groups(slots, inputs.shape[0]):
        product = _product(inputs[rows], weights[slot], output.dtype)
        output[rows, : product.shape[1]] = scaling * product


def bgmv_expand(inputs: Any, weights: Any, output: Any, slots: Any, add_inputs: bool = True) -> None:
    """output[t] (+)= B[slot of t] @ inputs[t]"""
    bgmv_expand_slice(inputs, weights, output, slots, 0, min(weights.shape[-2], output.shape[1]), add_inputs)


def bgmv_expand_slice(
    inputs: Any, weights: Any, output: Any, slots: Any, slice_offset: int, slice_size: int, add_inputs: bool = True
) -> None:
    """output[t, offset : offset + size] (+)= B[slot of t] @ inputs[t]"""
    columns = slice(slice_offset, slice_offset + slice_size)
    for rows, slot in _groups(slots, inputs.shape[0]):
        product = _product(inputs[rows], weights[slot], output.dtype)[:, :slice_size]
        if add_inputs:
            output[rows, columns] += product
        else:
            output[rows, columns] = product


def sgmv_shrink(inputs: Any, weights: Any, output: Any, _: Any, lengths: Any, slots: Any, *rest: Any) -> None:
    """`bgmv_shrink` with one slot per sequence; the last argument is the scaling."""
    bgmv_shrink(inputs, weights, output, slots.repeat_interleave(lengths), rest[-1])


def sgmv_expand(inputs: Any, weights: Any, output: Any, _: Any, lengths: Any, slots: Any, *rest: Any) -> None:
    """`bgmv_expand` with one slot per sequence; the last argument says whether to add."""
    bgmv_expand(inputs, weights, output, slots.repeat_interleave(lengths), rest[-1])


def sgmv_expand_slice(inputs: Any, weights: Any, output: Any, _: Any, lengths: Any, slots: Any, *rest: Any) -> None:
    """`bgmv_expand_slice` with one slot per sequence; the last arguments are offset, size and whether to add."""
    bgmv_expand_slice(inputs, weights, output, slots.repeat_interleave(lengths), *rest[-3:])


def _product(inputs: Any, weight: Any, dtype: Any) -> Any:
    """Inputs times the transposed weight, in the precision of the output; ``weight`` is [out, in] or [1, out, in]."""
    return inputs.to(dtype) @ weight.reshape(weight.shape[-2:]).to(dtype).T


def _groups(slots: Any, tokens: int) -> list[tuple[Any, int]]:
    """(rows, slot) of every adapter among the tokens; all rows as a slice where there is only one adapter."""
    present = slots[:tokens].unique().tolist()
    if len(present) == 1:
        return [(slice(0, min(tokens, len(slots))), present[0])] if present[0] >= 0 else []
    return [((slots[:tokens] == slot).nonzero(as_tuple=True)[0], slot) for slot in present if slot >= 0]
