"""In-flight checkpoints: safetensors files in the job's unit, replaced as a whole, removed with the manifest.

One file holds an adapter's; of a whole model there are further ones, which the main file names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from taskpgm_ray.errors import StorageError
from taskpgm_ray.storage import Unit

if TYPE_CHECKING:
    import torch

FILE = "checkpoint.safetensors"
PART = "checkpoint-{step}-{number}.safetensors"
MOST_BYTES = 2 * 2**30
"""Of one file, as long as no tensor has more: so much of a checkpoint is in memory at one time."""
_SCALARS = "state"


@dataclass
class TrainState:
    """Everything but tensors that a fine-tune needs to go on.

    The random generator and the position in the data are functions of the step, so they need no entry.
    """

    step: int = 0
    tokens: int = 0
    """Trained tokens, without padding."""
    computed: int = 0
    """Tokens that went through the model, with padding."""
    seconds: float = 0.0
    loss_first: float = 0.0
    loss_last: float = 0.0
    heldout_loss_before: float = 0.0

    def after_step(self, loss: float, tokens: int, computed: int, seconds: float) -> TrainState:
        """The state after one more step: its loss, its tokens without and with padding, and all seconds so far."""
        return replace(
            self,
            step=self.step + 1,
            tokens=self.tokens + tokens,
            computed=self.computed + computed,
            seconds=seconds,
            loss_first=loss if self.step == 0 else self.loss_first,
            loss_last=loss,
        )

    def outcome(self) -> dict[str, Any]:
        """What is recorded of a fine-tune that came to its end."""
        return {
            "steps": self.step,
            "tokens": self.tokens,
            "padding": round(1 - self.tokens / self.computed, 4),
            "seconds": round(self.seconds, 3),
            "loss_first": self.loss_first,
            "loss_last": self.loss_last,
        }


@dataclass
class Checkpoint:
    """A fine-tune between two steps."""

    state: TrainState
    tensors: Iterable[tuple[str, torch.Tensor]]
    """Trained weights and optimizer state by name, whole and on the CPU; to be read once."""


def save_checkpoint(unit: Unit, checkpoint: Checkpoint, confirm: Callable[[], None] = lambda: None) -> None:
    """Replace the unit's checkpoint; readers see the old one or the new one, whole.

    Args:
        unit: Of the fine-tune.
        checkpoint: Its state.
        confirm: Called before each file, of which a large model has many.
    """
    import torch
    from safetensors.torch import save

    parts: list[str] = []
    batch: dict[str, Any] = {}
    size = 0
    for name, tensor in checkpoint.tensors:
        if batch and size + tensor.nbytes > MOST_BYTES:
            parts.append(PART.format(step=checkpoint.state.step, number=len(parts)))
            confirm()
            unit.files.write_bytes(parts[-1], save(batch))
            batch, size = {}, 0
        batch[name] = tensor
        size += tensor.nbytes
    facts = asdict(checkpoint.state) | ({"parts": parts} if parts else {})
    scalars = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
    confirm()
    unit.files.write_bytes(FILE, save({**batch, _SCALARS: scalars}))
    if parts:
        _drop_parts(unit, keep=parts)


def load_checkpoint(unit: Unit) -> Checkpoint | None:
    """The unit's checkpoint, if there is one; further files are read when their tensors are.

    Raises:
        StorageError: It is damaged.
    """
    if not unit.files.exists(FILE):
        return None
    tensors = _read(unit, FILE)
    try:
        facts = json.loads(bytes(tensors.pop(_SCALARS).tolist()))
        parts = facts.pop("parts", [])
        state = TrainState(**facts)
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(unit, FILE, error) from error

    def every() -> Iterator[tuple[str, Any]]:
        yield from tensors.items()
        for part in parts:
            yield from _read(unit, part).items()

    return Checkpoint(state, every())


def drop_checkpoint(unit: Unit, parts: bool) -> None:
    """Remove the checkpoint of a finished unit.

    Args:
        unit: The job's.
        parts: Whether there may be further files.
    """
    unit.files.delete_file(FILE)
    if parts:
        _drop_parts(unit, keep=())


def _drop_parts(unit: Unit, keep: Iterable[str]) -> None:
    begin, _, end = PART.partition("{step}-{number}")
    for name in unit.files.names():
        if name.startswith(begin) and name.endswith(end) and name not in keep:
            unit.files.delete_file(name)


def _read(unit: Unit, file: str) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(unit.files.read_bytes(file))
    except SafetensorError as error:
        raise _damaged(unit, file, error) from error


def _damaged(unit: Unit, file: str, error: Exception) -> StorageError:
    return StorageError(
        f"the checkpoint {unit.files.uri}/{file} is damaged: {error}; remove it to train this job from the start"
    )
