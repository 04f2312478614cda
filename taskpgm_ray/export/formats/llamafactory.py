"""LLaMA-Factory: the counted examples as the study's token ids, and a training file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from taskpgm_ray.errors import InputError
from taskpgm_ray.export.examples import Bundle
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import exporter, write_yaml
from taskpgm_ray.export.tokenised import write_dataset


@exporter("llamafactory", "train.yaml for LLaMA-Factory, and the counted examples as token ids")
def _llamafactory(bundle: Bundle, folder: Path) -> list[Path]:
    recipe = Recipe.of(bundle.config)
    data = write_dataset(bundle, folder / "tokenised")
    settings: dict[str, Any] = {
        "model_name_or_path": recipe.name,
        **recipe.source,
        "stage": "sft",
        "do_train": True,
        **_adapter(recipe.adapter),
        "tokenized_path": str((folder / "tokenised").resolve()),
        # Not read, as the data are tokenised, but asked for; of a template the ids need nothing either.
        "dataset": "mixture",
        "template": "empty",
        "cutoff_len": recipe.max_length,
        **recipe.training_arguments,
        "num_train_epochs": 1.0,
        # As a number of steps, since its transformers may be one that knows no part of a run there (4).
        "warmup_steps": math.ceil(recipe.warmup * recipe.steps(bundle.document["examples"])),
        "bf16": recipe.bf16,
    }
    notes = [
        "llamafactory-cli train train.yaml",
        "warmup_steps is that of one device: divide it by the number of yours.",
    ]
    if bundle.chat:
        notes.append("The ids are those of the model's own chat template: name it when you chat with what was trained.")
    return [write_yaml(folder / "train.yaml", settings, *notes), *data]


def _adapter(adapter: Adapter | None) -> dict[str, Any]:
    if adapter is None:
        return {"finetuning_type": "full"}
    if adapter.pattern:
        raise InputError(
            f"LLaMA-Factory takes names of layers and no regular expression such as {adapter.pattern!r} "
            "(finetune.lora.target_modules): take axolotl, swift or trl"
        )
    modules = adapter.modules if isinstance(adapter.modules, str) else ",".join(adapter.modules)
    return {
        "finetuning_type": "lora",
        "lora_rank": adapter.r,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "lora_target": "all" if modules == "all-linear" else modules,
        **({"quantization_bit": 4, "quantization_method": "bnb"} if adapter.four_bits else {}),
    }
