"""In-flight checkpoints: one safetensors file in the job's unit, replaced as a whole, removed with the manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from taskpgm_ray.errors import StorageError
from taskpgm_ray.storage import Unit

if TYPE_CHECKING:
    import torch

FILE = "checkpoint.safetensors"
_SCALARS = "state"


@dataclass
class TrainState:
    """Everything that a fine-tune needs to go on.

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
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    """Adapter and optimizer state by name, whole and on the CPU; filled in checkpoints only."""

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

    def scalars(self) -> dict[str, Any]:
        """All but the tensors."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "tensors"}


def save_checkpoint(unit: Unit, state: TrainState) -> None:
    """Replace the unit's checkpoint; readers see the old one or the new one, whole."""
    import torch
    from safetensors.torch import save

    scalars = torch.frombuffer(bytearray(json.dumps(state.scalars()).encode()), dtype=torch.uint8)
    unit.files.write_bytes(FILE, save({**state.tensors, _SCALARS: scalars}))


def load_checkpoint(unit: Unit) -> TrainState | None:
    """The unit's checkpoint, if there is one.

    Raises:
        StorageError: It is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not unit.files.exists(FILE):
        return None
    try:
        tensors = load(unit.files.read_bytes(FILE))
        scalars = json.loads(bytes(tensors.pop(_SCALARS).tolist()))
        return TrainState(**scalars, tensors=tensors)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise StorageError(
            f"the checkpoint {unit.files.uri}/{FILE} is damaged: {error}; remove it to train this job from the start"
        ) from error


def drop_checkpoint(unit: Unit) -> None:
    """Remove the checkpoint of a finished unit."""
    unit.files.delete_file(FILE)
