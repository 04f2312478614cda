"""The study's recipe in the words that trainers share: model, adapter if any, optimiser, length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskpgm_ray.config import LoraSection, StudyConfig

LAST_RATE = 0.1
"""Where the cosine of a fine-tune ends, as a part of the learning rate."""


@dataclass(frozen=True)
class Adapter:
    """The shape of a LoRA adapter."""

    r: int
    alpha: int
    dropout: float
    modules: list[str] | str
    """Names of layers, ``all-linear``, or a regular expression of whole paths."""
    four_bits: bool = False
    """Whether the weights under it are 4-bit NormalFloat (QLoRA)."""

    @property
    def pattern(self) -> str | None:
        """The regular expression, where the modules are one."""
        return self.modules if isinstance(self.modules, str) and self.modules != "all-linear" else None


@dataclass(frozen=True)
class Recipe:
    """What a final run repeats of the study's fine-tunes."""

    model: str
    """An absolute folder or a hub name; empty where the study's model came out of a package."""
    revision: str | None
    """Commit or tag on the hub, where the study names one."""
    trust_remote_code: bool
    adapter: Adapter | None
    """``None``: all weights are trained."""
    learning_rate: float
    warmup: float
    """Part of the run."""
    weight_decay: float
    max_grad_norm: float
    batch_size: int
    max_length: int
    bf16: bool
    seed: int

    @classmethod
    def of(cls, config: StudyConfig) -> Recipe:
        """From a study's config."""
        finetune, model = config.finetune, config.model
        lora = finetune.adapter
        return cls(
            model=_place(model.path),
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            adapter=None if lora is None else _adapter(lora, model.quantization is not None),
            learning_rate=finetune.learning_rate,
            warmup=finetune.warmup_fraction,
            weight_decay=finetune.weight_decay,
            max_grad_norm=finetune.max_grad_norm,
            batch_size=finetune.batch_size,
            max_length=model.max_length,
            bf16=model.dtype == "bfloat16",
            seed=config.seed,
        )

    @property
    def name(self) -> str:
        """The model, or a word to be replaced."""
        return self.model or "SET-YOUR-MODEL"

    @property
    def source(self) -> dict[str, Any]:
        """What of the model is needed besides its name, as TRL, LLaMA-Factory and ms-swift call it."""
        revision = {"model_revision": self.revision} if self.revision else {}
        return revision | ({"trust_remote_code": True} if self.trust_remote_code else {})

    @property
    def training_arguments(self) -> dict[str, Any]:
        """What every trainer built on transformers' ``TrainingArguments`` calls by these names."""
        return {
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": LAST_RATE},
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
            "per_device_train_batch_size": self.batch_size,
            "seed": self.seed,
            "output_dir": "output",
        }

    def steps(self, examples: int, devices: int = 1) -> int:
        """Optimizer steps of one pass over so many examples, each device taking ``batch_size`` of them at a time."""
        return -(-examples // (self.batch_size * devices))


def _place(path: str) -> str:
    if path.startswith("package:"):
        return ""
    # A folder that is not here can be one of another machine, or a hub name: both stay as they are.
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def _adapter(lora: LoraSection, four_bits: bool) -> Adapter:
    modules = lora.target_modules
    return Adapter(lora.r, lora.alpha, lora.dropout, modules if isinstance(modules, str) else list(modules), four_bits)
