"""torchtune: the counted examples, and the data set's part of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taskpgm_ray.export.examples import Bundle
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import exporter, messages, plain_or_chat, write_counted, write_yaml


@exporter("torchtune", "mixture.jsonl and torchtune.yaml, the data set's part of a LoRA recipe", text=True)
def _torchtune(bundle: Bundle, folder: Path) -> list[Path]:
    recipe = Recipe.of(bundle.config)
    data = write_counted(bundle, folder / "mixture.jsonl", messages if bundle.chat else plain_or_chat)
    source: dict[str, Any] = {"source": "json", "data_files": str(data.resolve()), "split": "train"}
    if bundle.chat:
        dataset = {
            "_component_": "torchtune.datasets.chat_dataset",
            **source,
            "conversation_column": "messages",
            "conversation_style": "openai",
            "train_on_input": False,
        }
    else:
        dataset = {
            "_component_": "torchtune.datasets.instruct_dataset",
            **source,
            "column_map": {"input": "prompt", "output": "completion"},
            "train_on_input": False,
        }
    settings = {
        "dataset": dataset,
        "batch_size": recipe.batch_size,
        "gradient_accumulation_steps": 1,
        "epochs": 1,
        "clip_grad_norm": recipe.max_grad_norm,
        "optimizer": {
            "_component_": "torch.optim.AdamW",
            "lr": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
        },
        "dtype": "bf16" if recipe.bf16 else "fp32",
        "seed": recipe.seed,
    }
    return [
        write_yaml(
            folder / "torchtune.yaml",
            settings,
            f"Merge this into your recipe, which names model and tokenizer: max_seq_len {recipe.max_length}, "
            f"{_adapter(recipe.adapter)}.",
        ),
        data,
    ]


def _adapter(adapter: Adapter | None) -> str:
    if adapter is None:
        return "all weights trained (full_finetune)"
    shape = f"lora_rank {adapter.r}, lora_alpha {adapter.alpha}, lora_dropout {adapter.dropout}"
    return f"{shape}, quantize_base true" if adapter.four_bits else shape
