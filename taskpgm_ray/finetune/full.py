"""What is trained of a base model where that is all of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from taskpgm_ray.finetune.trainer import Trainer
from taskpgm_ray.finetune.workers import Workers, full, own_part


class FullTrainer(Trainer):
    """A base model whose weights are all trained, and put back for every run.

    A bfloat16 model is trained in float32 with bfloat16 products: the steps of full fine-tuning are too small for
    bfloat16 weights, which would round most of them away. It is saved in its own precision.
    """

    def __init__(
        self, model: Any, device: str = "cpu", workers: Workers | None = None, gradient_checkpointing: bool = False
    ) -> None:
        import torch

        workers = workers or Workers()
        self._dtype = model.dtype
        self._config, self._generation = deepcopy(model.config), deepcopy(model.generation_config)
        self._config.dtype = self._dtype
        model.requires_grad_(True)
        # Sharded, a model is copied and widened when each worker has only its share of it.
        start = self._widened(model) if workers.whole else {}
        super().__init__(model, model, self._dtype == torch.bfloat16, device, workers, gradient_checkpointing)
        self._start = start or self._widened(model)

    @staticmethod
    def _widened(model: Any) -> dict[str, Any]:
        """Make the weights float32; this worker's part of each as it was, on the CPU."""
        start = {
            name: own_part(parameter).detach().to("cpu", copy=True) for name, parameter in model.named_parameters()
        }
        model.float()
        return start

    def save(self, folder: Path) -> None:
        """Write the model as a standard Hugging Face folder without its tokenizer; all workers call it, see above."""
        weights = {}
        for name, tensor in self._whole():
            if self.workers.first:
                weights[name] = tensor
        if self.workers.first:
            from huggingface_hub import save_torch_state_dict

            save_torch_state_dict(weights, str(folder))
            self._config.save_pretrained(str(folder))
            if self._generation is not None:
                self._generation.save_pretrained(str(folder))

    def _whole(self) -> Iterator[tuple[str, Any]]:
        """Every parameter and stored buffer, once, as it is saved."""
        seen = set()
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            # Tied weights are one tensor with two names, of which loaders want the first.
            if id(tensor) not in seen:
                seen.add(id(tensor))
                whole = full(tensor)
                yield name, whole.to(self._dtype) if whole.is_floating_point() else whole

    def _initialise(self) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self.parameters.items():
                own_part(parameter).copy_(self._start[name])
                parameter.grad = None
