"""torchtune: the counted examples, and the data set's part of a recipe."""

from __future__ import annotations

from pathlib import Path

from taskpgm_ray.errors import InputError
from taskpgm_ray.export.examples import Bundle, Line
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import SAME_TOKENS, exporter, messages, write_counted, write_yaml


@exporter("torchtune", "mixture.jsonl and torchtune.yaml, the data set's part of a LoRA recipe; chats only", text=True)
def _torchtune(bundle: Bundle, folder: Path) -> list[Path]:
    _refuse(bundle)
    recipe = Recipe.of(bundle.config)
    data = write_counted(bundle, folder / "mixture.jsonl", messages)
    dataset = {
        "_component_": "torchtune.datasets.chat_dataset",
        "source": "json",
        "data_files": str(data.resolve()),
        "split": "train",
        "conversation_column": "messages",
        "conversation_style": "openai",
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
            f"Merge this into your recipe, which names model and tokenizer. The study had {_model(recipe)}, "
            f"max_seq_len {recipe.max_length}, {_adapter(recipe.adapter)}.",
            f"Its learning rate rose over the first {recipe.warmup:.0%} of the run and fell along a cosine to a tenth; "
            "torchtune's own schedules end at zero.",
        ),
        data,
    ]


def _refuse(bundle: Bundle) -> None:
    """Raise `InputError` for what torchtune would train otherwise than the study did."""
    if not bundle.chat:
        raise InputError(
            "torchtune's tokenizers write every example as a chat; this study was trained on plain text: take "
            f"{', '.join(SAME_TOKENS)}"
        )
    if several := bundle.found(lambda line: not _one_reply(line)):
        raise InputError(
            "torchtune learns every reply of a conversation and knows no tools; the study learned the last reply, "
            f"and these conversations have several or call tools: {several}; take {', '.join(SAME_TOKENS)}"
        )


def _one_reply(line: Line) -> bool:
    roles = [message["role"] for message in line.messages or []]
    return roles.count("assistant") == 1 and "tool" not in roles and not line.tools


def _model(recipe: Recipe) -> str:
    return f"{recipe.name} at revision {recipe.revision}" if recipe.revision else recipe.name


def _adapter(adapter: Adapter | None) -> str:
    if adapter is None:
        return "all weights trained (full_finetune)"
    modules = adapter.modules if isinstance(adapter.modules, str) else ", ".join(adapter.modules)
    shape = f"lora_rank {adapter.r}, lora_alpha {adapter.alpha}, lora_dropout {adapter.dropout} (on {modules})"
    return f"{shape}, quantize_base true" if adapter.four_bits else shape
