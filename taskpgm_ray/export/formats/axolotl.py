"""Axolotl: the counted examples, and a configuration that trains them to the study's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taskpgm_ray.export.examples import Bundle, Line
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import exporter, write_counted, write_yaml


@exporter("axolotl", "mixture.jsonl and axolotl.yaml")
def _axolotl(bundle: Bundle, folder: Path) -> list[Path]:
    recipe = Recipe.of(bundle.config)
    data = write_counted(bundle, folder / "mixture.jsonl", _trained_last if bundle.chat else _segments(bundle))
    source: dict[str, Any] = {"path": str(data.resolve()), "ds_type": "json"}
    if bundle.chat:
        source |= {"type": "chat_template", "field_messages": "messages", "message_field_training": "train"}
        source |= {"roles_to_train": [], "train_on_eos": "turn"}
    else:
        # Text as it stands, learned where a segment says so: nothing is added, not even begin and end.
        source |= {"type": "input_output"}
    settings = {
        "base_model": recipe.name,
        "datasets": [source],
        "sequence_len": recipe.max_length,
        "train_on_inputs": False,
        **_adapter(recipe.adapter),
        "learning_rate": recipe.learning_rate,
        "lr_scheduler": "cosine",
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
    return [write_yaml(folder / "axolotl.yaml", settings, "axolotl train axolotl.yaml"), data]


def _adapter(adapter: Adapter | None) -> dict[str, Any]:
    if adapter is None:
        return {}
    linear = adapter.modules == "all-linear"
    modules = {"lora_target_linear": True} if linear else {"lora_target_modules": adapter.modules}
    shape = {"lora_r": adapter.r, "lora_alpha": adapter.alpha, "lora_dropout": adapter.dropout}
    kind = {"adapter": "qlora", "load_in_4bit": True} if adapter.four_bits else {"adapter": "lora"}
    return {**kind, **shape, **modules}


def _segments(bundle: Bundle) -> Any:
    tokenizer = bundle.tokenizer
    end = str(tokenizer.eos_token)

    def form(line: Line) -> dict[str, Any]:
        begins = tokenizer.bos_token_id is not None and line.prompt_ids[:1] == [tokenizer.bos_token_id]
        begin = str(tokenizer.bos_token) if begins else ""
        return {
            "segments": [
                {"label": False, "text": begin + line.prompt},
                {"label": True, "text": line.completion + end},
            ]
        }

    return form


def _trained_last(line: Line) -> dict[str, Any]:
    """Of a conversation the last reply alone was trained."""
    said = line.messages or []
    marked = [message | {"train": number == len(said) - 1} for number, message in enumerate(said)]
    return {"messages": marked} | ({"tools": line.tools} if line.tools else {})
