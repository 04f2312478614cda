"""What a Hugging Face model predicts with at a time: its own weights, an adapter on them, or those of a fine-tune."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from taskpgm_ray.config import LoraSection
from taskpgm_ray.finetune.lora import with_adapter
from taskpgm_ray.scoring.adapters import AdapterFolders
from taskpgm_ray.scoring.engine import EngineSpec
from taskpgm_ray.scoring.folders import Folders, name_of
from taskpgm_ray.scoring.whole_models import ModelFolders, read_weights
from taskpgm_ray.storage import Unit


class Weights(Protocol):
    """A model in memory, and what it can be made to predict with."""

    model: Any
    folders: Folders

    def under(self, unit: Unit | None) -> AbstractContextManager[Any]:
        """Let the model predict as this fine-tune does, or, for ``None``, as the base model does."""


def weights_of(spec: EngineSpec, device: str) -> Weights:
    """The base model on the device, for what the engine scores."""
    return WholeModels(spec, device) if spec.lora is None else Adapters(spec, spec.lora, device)


class Adapters:
    """As many adapters as the engine keeps, on one base model."""

    def __init__(self, spec: EngineSpec, lora: LoraSection, device: str) -> None:
        from taskpgm_ray.finetune.lora_product import fuse

        # An adapter that is never used: the base model is then the same program whether adapters were loaded before it
        # or not. Bare, and with adapters switched off, its predictions differ in the last digits.
        self.model: Any = with_adapter(spec.model.load(), lora).to(device).eval()
        fuse(self.model)
        self.folders: Folders = AdapterFolders(spec.model, lora, spec.config.cached_adapters)
        self._resident = spec.config.max_loras
        self._loaded: dict[str, str] = {}
        self._count = 0

    def under(self, unit: Unit | None) -> AbstractContextManager[Any]:
        """See `Weights.under`."""
        if unit is None:
            return self.model.disable_adapter()
        self.model.set_adapter(self._load(unit))
        return nullcontext()

    def _load(self, unit: Unit) -> str:
        key = name_of(unit)
        if key not in self._loaded:
            folder = str(self.folders.folder(unit))
            if len(self._loaded) >= self._resident:
                oldest = next(iter(self._loaded))
                # PEFT warns of the end of an active adapter.
                self.model.set_adapter("default")
                self.model.delete_adapter(self._loaded.pop(oldest))
            # Names are never used twice, so a stale adapter cannot answer for another.
            name, self._count = f"adapter{self._count}", self._count + 1
            self.model.load_adapter(folder, name)
            self._loaded[key] = name
        return self._loaded[key]


class WholeModels:
    """One model at a time, whose weights are exchanged; the base model's stay in memory."""

    def __init__(self, spec: EngineSpec, device: str) -> None:
        self.model: Any = spec.model.load().to(device).eval()
        self.folders: Folders = ModelFolders(spec.model, spec.config.cached_adapters)
        self._base = {name: tensor.to("cpu", copy=True) for name, tensor in self.model.state_dict().items()}
        self._held: str | None = ""
        """Whose weights the model has; empty: the base model's; ``None``: not known."""

    def under(self, unit: Unit | None) -> AbstractContextManager[Any]:
        """See `Weights.under`."""
        wanted = name_of(unit) if unit else ""
        if wanted != self._held:
            weights = read_weights(self.folders.folder(unit)) if unit else self._base
            self._held = None
            # Not strict: of tied weights a file has one name. What is there was compared with the base model.
            self.model.load_state_dict(weights, strict=False)
            self._held = wanted
        return nullcontext()
