"""AI2's open-instruct: the tasks' examples as messages, and the arguments that mix them."""

from __future__ import annotations

import shlex
from pathlib import Path

from taskpgm_ray.errors import InputError
from taskpgm_ray.export.examples import Bundle
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import exporter, messages, write_tasks
from taskpgm_ray.export.tokenised import content_of


@exporter(
    "open-instruct",
    "finetune.sh for open-instruct (dataset_mixer_list), and the tasks' examples; chats only",
    text=True,
)
def _open_instruct(bundle: Bundle, folder: Path) -> list[Path]:
    if not bundle.chat:
        raise InputError("open-instruct writes every example by a chat template; this study was trained on plain text")
    recipe, files = Recipe.of(bundle.config), write_tasks(bundle, folder, messages)
    mixer: list[str] = []
    for task, file in zip(bundle.tasks, files, strict=True):
        mixer += [str(file.resolve()), str(task.count)]
    line = [
        *("python", "open_instruct/finetune.py", "--model_name_or_path", recipe.name),
        *(["--model_revision", recipe.revision] if recipe.revision else []),
        *(["--trust_remote_code"] if recipe.trust_remote_code else []),
        *("--dataset_mixer_list", *mixer, "--dataset_mixer_list_splits", "train"),
        # Its cache is found again by paths and counts, never by content.
        *("--dataset_local_cache_dir", str((folder / f"prepared-{content_of(bundle)}").resolve())),
        *("--max_seq_length", str(recipe.max_length), *_adapter(recipe.adapter)),
        *("--learning_rate", str(recipe.learning_rate), "--lr_scheduler_type", "cosine"),
        *("--warmup_ratio", str(recipe.warmup), "--weight_decay", str(recipe.weight_decay)),
        *("--per_device_train_batch_size", str(recipe.batch_size), "--gradient_accumulation_steps", "1"),
        *("--num_train_epochs", "1", "--seed", str(recipe.seed), "--output_dir", "output"),
    ]
    path = folder / "finetune.sh"
    path.write_text(
        "# Counts above a file's length repeat it. Every assistant turn is trained, not the last one alone.\n"
        + shlex.join(line)
        + "\n",
        encoding="utf-8",
    )
    return [path, *files]


def _adapter(adapter: Adapter | None) -> list[str]:
    if adapter is None:
        return []
    shape = {"--lora_rank": adapter.r, "--lora_alpha": adapter.alpha, "--lora_dropout": adapter.dropout}
    bits = ["--use_qlora"] if adapter.four_bits else []
    return ["--use_lora", *bits, *(str(word) for pair in shape.items() for word in pair)]
