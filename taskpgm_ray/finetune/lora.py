"""What is trained of a base model where that is a LoRA adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from taskpgm_ray.config import LoraSection
from taskpgm_ray.errors import ModelError
from taskpgm_ray.finetune.trainer import Trainer
from taskpgm_ray.finetune.workers import Workers, full
from taskpgm_ray.layers import adapted_layers, layers_of

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


class LoraTrainer(Trainer):
    """A base model with one LoRA adapter that is re-initialised for every run."""

    def __init__(
        self,
        model: Any,
        lora: LoraSection,
        device: str = "cpu",
        workers: Workers | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        import torch

        from taskpgm_ray.finetune.lora_product import fuse

        workers = workers or Workers()
        mixed_precision = model.dtype == torch.bfloat16
        adapted = with_adapter(model, lora)
        if workers.whole:
            fuse(adapted)
        super().__init__(adapted, adapted.get_base_model(), mixed_precision, device, workers, gradient_checkpointing)

    def save(self, folder: Path) -> None:
        """Write the adapter as a standard PEFT folder; all workers call it, the first one writes."""
        weights = {name: full(parameter) for name, parameter in self.parameters.items()}
        if self.workers.first:
            self.model.save_pretrained(str(folder), safe_serialization=True, state_dict=weights)

    def _initialise(self) -> None:
        """Draw the adapter's initial weights as PEFT does; the same seed gives the same weights in every lane."""
        import torch

        for name, parameter in self.parameters.items():
            weight = torch.zeros(parameter.shape)
            if ".lora_A." in name:
                torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            self._assign(parameter, weight)
            parameter.grad = None


def with_adapter(model: Any, lora: LoraSection) -> Any:
    """The model with one fresh adapter of this shape (a PEFT model), which changes nothing yet.

    Raises:
        ModelError: The configured modules do not fit this model.
    """
    from peft import LoraConfig, get_peft_model

    modules = list(adapted_layers(layers_of(model), lora))
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules,
        # PEFT turns this on itself where it is needed, but with a warning for each layer.
        fan_in_fan_out=any(type(model.get_submodule(path)).__name__ == "Conv1D" for path in modules),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"no adapter fits on {', '.join(modules)} of this model: {error}") from error
