"""Axolotl: the counted examples as the study's token ids, and a configuration that trains them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taskpgm_ray.export.examples import Bundle
from taskpgm_ray.export.recipe import LAST_RATE, Adapter, Recipe
from taskpgm_ray.export.registry import exporter, write_yaml
from taskpgm_ray.export.tokenised import content_of, write_dataset


@exporter("axolotl", "axolotl.yaml, and the counted examples as token ids")
def _axolotl(bundle: Bundle, folder: Path) -> list[Path]:
    recipe = Recipe.of(bundle.config)
    data = write_dataset(bundle, folder / "tokenised")
    settings = {
        "base_model": recipe.name,
        **({"revision_of_model": recipe.revision} if recipe.revision else {}),
        **({"trust_remote_code": True} if recipe.trust_remote_code else {}),
        # Without a type: rows of ids and labels are trained as they are.
        "datasets": [{"path": str((folder / "tokenised").resolve()), "type": None}],
        # Prepared data are found again by paths and settings, never by content: another mixture in the same folder
        # would train this one.
        "dataset_prepared_path": str((folder / f"prepared-{content_of(bundle)}").resolve()),
        "sequence_len": recipe.max_length,
        **_adapter(recipe.adapter),
        "learning_rate": recipe.learning_rate,
        "lr_scheduler": "cosine",
        "cosine_min_lr_ratio": LAST_RATE,
        "optimizer": "adamw_torch",
        "warmup_ratio": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "micro_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "bf16": recipe.bf16,
        "seed": recipe.seed,
        "output_dir": "output",
    }
    return [write_yaml(folder / "axolotl.yaml", settings, "axolotl train axolotl.yaml"), *data]


def _adapter(adapter: Adapter | None) -> dict[str, Any]:
    if adapter is None:
        return {}
    linear = adapter.modules == "all-linear"
    modules = {"lora_target_linear": True} if linear else {"lora_target_modules": adapter.modules}
    shape = {"lora_r": adapter.r, "lora_alpha": adapter.alpha, "lora_dropout": adapter.dropout}
    kind = {"adapter": "qlora", "load_in_4bit": True} if adapter.four_bits else {"adapter": "lora"}
    return {**kind, **shape, **modules}
