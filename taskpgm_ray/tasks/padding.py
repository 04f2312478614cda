"""Padded batches of (prompt_ids, response_ids) pairs, for training and for one-pass scoring alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Pair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Batch:
    """Left-padded token ids: every response ends in the last column, so one slice covers all scored positions."""

    input_ids: torch.Tensor
    """int64 [rows, columns]"""
    attention_mask: torch.Tensor
    """int64 [rows, columns]"""
    position_ids: torch.Tensor
    """int64 [rows, columns]; counted from each row's first token, so that padding does not shift positions."""
    targets: torch.Tensor
    """int64 [rows, longest response]: the token to be predicted, -100 where a shorter response has none."""
    tokens: int
    """Tokens that are not padding."""

    def logits(self, model: Any) -> torch.Tensor:
        """Logits of the scored positions, [rows, longest response, vocabulary]; the head runs on no other position."""
        import torch

        columns, keep = self.input_ids.shape[1], self.targets.shape[1]
        # The logits at a position predict the next token, so the last column's are not needed. Indices rather than
        # a number: a slice of the hidden states is not contiguous, and the head is 40 times slower on one (CPU, bf16).
        scored = torch.arange(columns - keep - 1, columns - 1, device=self.input_ids.device)
        return model(
            input_ids=self.input_ids,
            attention_mask=self.attention_mask,
            position_ids=self.position_ids,
            logits_to_keep=scored,
            use_cache=False,
        ).logits


def collate(pairs: Sequence[Pair], pad_id: int, device: Any = "cpu") -> Batch:
    """One padded batch of the given examples."""
    import torch

    columns = max(len(prompt) + len(response) for prompt, response in pairs)
    longest = max(len(response) for _, response in pairs)
    ids = torch.full((len(pairs), columns), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    targets = torch.full((len(pairs), longest), -100, dtype=torch.long)
    for row, (prompt, response) in enumerate(pairs):
        tokens = torch.tensor(prompt + response)
        ids[row, -len(tokens) :] = tokens
        mask[row, -len(tokens) :] = 1
        targets[row, longest - len(response) :] = torch.tensor(response)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Batch(ids.to(device), mask.to(device), positions.to(device), targets.to(device), int(mask.sum()))
