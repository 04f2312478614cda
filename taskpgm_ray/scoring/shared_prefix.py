"""Prompts that begin alike in one row of a forward pass: the common beginning once, then each one's own end.

The choices of a question are such prompts. An end sees the beginning and itself, and its tokens count their positions
from the beginning on, so that each prompt is predicted as if it were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 16
"""Tokens that prompts have in common at least to share a row."""


@dataclass
class Row:
    """One row of a forward pass."""

    trunk: list[int]
    """The tokens that all prompts of the row begin with."""
    ends: list[list[int]] = field(default_factory=list)
    """What follows in each of them."""

    @property
    def ids(self) -> list[int]:
        """All tokens of the row."""
        return [*self.trunk, *(token for end in self.ends for token in end)]

    @property
    def size(self) -> int:
        """Tokens of the row."""
        return len(self.trunk) + sum(map(len, self.ends))

    @property
    def positions(self) -> list[int]:
        """Of each token in its prompt."""
        start = len(self.trunk)
        return [*range(start), *(start + place for end in self.ends for place in range(len(end)))]

    @property
    def parts(self) -> NDArray[np.int32]:
        """Which end each token belongs to, from 1; 0 is the trunk."""
        return np.repeat(np.arange(len(self.ends) + 1), [len(self.trunk), *map(len, self.ends)]).astype(np.int32)

    def place(self, number: int, length: int) -> int:
        """Where in the row the first ``length`` tokens of a prompt end; ``number`` is its place among `ends`."""
        if length <= len(self.trunk):
            return length - 1
        return sum(map(len, self.ends[:number])) + length - 1


def rows_of(prompts: Sequence[list[int]]) -> list[tuple[Row, list[int]]]:
    """Rows, each with the indices of its prompts; neighbours share one where that saves tokens."""
    rows: list[tuple[int, list[int]]] = []
    """(length of the trunk, prompts)"""
    for index, prompt in enumerate(prompts):
        if rows:
            length, members = rows[-1]
            common = min(length, shared(prompts[members[0]], prompt))
            # Those that are there already lose what is no longer common to all.
            if common >= LEAST and common > (length - common) * (len(members) - 1):
                rows[-1] = (common, [*members, index])
                continue
        rows.append((len(prompt), [index]))
    return [
        (Row(prompts[members[0]][:length], [prompts[index][length:] for index in members]), members)
        for length, members in rows
    ]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens with which both begin."""
    most = min(len(one), len(other))
    differing = np.flatnonzero(np.asarray(one[:most]) != np.asarray(other[:most]))
    return int(differing[0]) if len(differing) else most


def mask_of(rows: Sequence[Row], width: int, dtype: Any) -> Any:
    """What is added to the attention scores of these rows, which stand at the right end [rows, 1, width, width]."""
    import torch

    parts = np.full((len(rows), width), -1, dtype=np.int32)
    for number, row in enumerate(rows):
        parts[number, width - row.size :] = row.parts
    seen = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])
    seen &= np.tri(width, dtype=bool)
    least = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), least)[:, None]


def takes_masks(config: Any) -> bool:
    """Whether a model attends as such a mask says: to everything before, at positions that it is told.

    Args:
        config: The text part of the model's own configuration.
    """
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        bool(rotary) and kinds == {"full_attention"} and not getattr(config, "alibi", False) and not _windowed(config)
    )


def _windowed(config: Any) -> bool:
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)
