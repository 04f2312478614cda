"""A linear layer with a LoRA adapter as one operation: y = x W' + s (x A') B', and its gradients.

PEFT writes the same as six operations, three of them over all outputs, and copies the layer's input to the adapter's
precision. On a small model that is more time than the base model's own products take.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch


def fuse(model: Any) -> int:
    """Let every plain LoRA layer of a PEFT model compute its output in one operation; the number of such layers.

    Left to PEFT are layers that are more than W and one product: dropout, DoRA, biases of the adapter, Conv1D,
    quantised weights.
    """
    from peft.tuners.lora.layer import Linear

    fused = 0
    for layer in model.modules():
        if type(layer) is Linear and _plain(layer):
            layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
            fused += 1
    return fused


def _plain(layer: Any) -> bool:
    (name,) = layer.lora_A
    return (
        type(layer.base_layer) is torch.nn.Linear
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
        and not layer.fan_in_fan_out
    )


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    if layer.disable_adapters:
        plain: torch.Tensor = layer.base_layer(x)
        return plain
    base, (name,) = layer.base_layer, layer.active_adapters
    # Mixed precision: the base's is that of all products, as in autocast.
    x = x.to(base.weight.dtype)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    y: torch.Tensor = _LoraProduct.apply(x, base.weight, base.bias, a, b, layer.scaling[name])  # type: ignore[no-untyped-call]
    return y


class _LoraProduct(torch.autograd.Function):
    """x [..., inputs], W [outputs, inputs], bias [outputs] or None, A [r, inputs], B [outputs, r], s -> [..., outputs].

    W and bias are frozen.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a_used, b_used = a.to(x.dtype), b.to(x.dtype)
        hidden = rows @ a_used.T
        y = torch.nn.functional.linear(rows, weight, bias).addmm_(hidden, b_used.T, alpha=scaling)
        ctx.save_for_backward(rows, hidden, weight, a_used, b_used)
        ctx.shape, ctx.scaling, ctx.dtypes = x.shape, scaling, (a.dtype, b.dtype)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, hidden, weight, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        of_hidden = (grad @ b).mul_(ctx.scaling)
        of_a = (of_hidden.T @ rows).to(ctx.dtypes[0])
        of_b = (grad.T @ hidden).to(ctx.dtypes[1]).mul_(ctx.scaling)
        # The first layers' input, the embedding, is frozen.
        of_x = (grad @ weight).addmm_(of_hidden, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_a, of_b, None
