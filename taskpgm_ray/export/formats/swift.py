"""ms-swift: the tasks' examples, and settings with a count for each (``path#count``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taskpgm_ray.export.examples import Bundle
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import exporter, messages, write_tasks, write_yaml


@exporter("swift", "exact.yaml and sampled.yaml for `swift sft`, and the tasks' examples")
def _swift(bundle: Bundle, folder: Path) -> list[Path]:
    recipe = Recipe.of(bundle.config)
    files = write_tasks(bundle, folder, messages)
    common: dict[str, Any] = {
        "model": recipe.name,
        # "dummy" adds nothing but the end of the text. A chat has the model's own template, which is the default.
        **({} if bundle.chat else {"template": "dummy"}),
        "loss_scale": "last_round",
        **_adapter(recipe.adapter),
        "max_length": recipe.max_length,
        **recipe.training_arguments,
        "warmup_ratio": recipe.warmup,
        "gradient_accumulation_steps": 1,
        "torch_dtype": "bfloat16" if recipe.bf16 else "float32",
    }
    exact = common | {
        "dataset": [f"{file.resolve()}#{task.count}" for task, file in zip(bundle.tasks, files, strict=True)],
        "num_train_epochs": 1,
    }
    sampled = common | {
        "dataset": [str(file.resolve()) for file in files],
        "streaming": True,
        "interleave_prob": bundle.probabilities,
        "stopping_strategy": "all_exhausted",
        "max_steps": recipe.steps(bundle.document["examples"]),
    }
    return [
        write_yaml(folder / "exact.yaml", exact, "swift sft --config exact.yaml: each task gives exactly its count."),
        write_yaml(
            folder / "sampled.yaml",
            sampled,
            "swift sft --config sampled.yaml: tasks are sampled by weight from streams.",
            "max_steps is that of one device: divide it by the number of yours.",
        ),
        *files,
    ]


def _adapter(adapter: Adapter | None) -> dict[str, Any]:
    if adapter is None:
        return {"tuner_type": "full"}
    return {
        "tuner_type": "lora",
        "lora_rank": adapter.r,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": adapter.modules,
        **({"quant_method": "bnb", "quant_bits": 4} if adapter.four_bits else {}),
    }
