"""AI2's open-instruct: the tasks' examples as messages, and the arguments that mix them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from taskpgm_ray.errors import InputError
from taskpgm_ray.export.examples import Bundle, Line
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import SAME_TOKENS, exporter, messages, write_tasks
from taskpgm_ray.export.tokenised import content_of

LAYERS = ("q_proj", "o_proj", "v_proj", "k_proj", "gate_proj", "up_proj", "down_proj")
"""Those that its adapters attach to, whatever was wished."""
LAST_TURN = ("last_turn_tulu_tokenize_and_truncate_v1", "sft_tulu_filter_v1")
"""What makes it learn the last reply alone; by default it learns all."""


@exporter(
    "open-instruct",
    "finetune.sh for open-instruct (dataset_mixer_list), and the tasks' examples; chats only",
    text=True,
)
def _open_instruct(bundle: Bundle, folder: Path) -> list[Path]:
    if not bundle.chat:
        raise InputError("open-instruct writes every example by a chat template; this study was trained on plain text")
    recipe = Recipe.of(bundle.config)
    _refuse_layers(recipe.adapter)
    _refuse_other_tokens(bundle)
    files = write_tasks(bundle, folder, messages)
    mixer: list[str] = []
    for task, file in zip(bundle.tasks, files, strict=True):
        mixer += [str(file.resolve()), str(task.count)]
    line = [
        *("python", "open_instruct/finetune.py", "--model_name_or_path", recipe.name),
        *(["--model_revision", recipe.revision] if recipe.revision else []),
        *(["--trust_remote_code"] if recipe.trust_remote_code else []),
        *("--dataset_mixer_list", *mixer, "--dataset_mixer_list_splits", "train"),
        *("--dataset_transform_fn", *LAST_TURN),
        # Its cache is found again by paths and counts, never by content.
        *("--dataset_local_cache_dir", str((folder / f"prepared-{content_of(bundle)}").resolve())),
        *("--max_seq_length", str(recipe.max_length), *_adapter(recipe.adapter)),
        *("--learning_rate", str(recipe.learning_rate), "--lr_scheduler_type", "cosine"),
        *("--warmup_ratio", str(recipe.warmup), "--weight_decay", str(recipe.weight_decay)),
        *("--per_device_train_batch_size", str(recipe.batch_size), "--gradient_accumulation_steps", "1"),
        *("--clip_grad_norm", str(recipe.max_grad_norm)),
        # Both are on by default.
        *("--push_to_hub", "false", "--try_launch_beaker_eval_jobs", "false"),
        *("--num_train_epochs", "1", "--seed", str(recipe.seed), "--output_dir", "output"),
    ]
    path = folder / "finetune.sh"
    notes = [
        "Counts above a file's length repeat it. The learning rate ends at zero here, in the study at a tenth.",
        f"Adapters attach to {', '.join(LAYERS)}." if recipe.adapter else "All weights are trained.",
    ]
    path.write_text("".join(f"# {note}\n" for note in notes) + shlex.join(line) + "\n", encoding="utf-8")
    return [path, *files]


def _refuse_layers(adapter: Adapter | None) -> None:
    modules = adapter.modules if adapter else "all-linear"
    if modules != "all-linear" and set(modules) != set(LAYERS):
        named = modules if isinstance(modules, str) else ", ".join(modules)
        raise InputError(
            f"open-instruct's adapters attach to {', '.join(LAYERS)}, the study's (finetune.lora.target_modules) "
            f"to {named}: take {', '.join(SAME_TOKENS)}"
        )


def _refuse_other_tokens(bundle: Bundle) -> None:
    tokenizer = bundle.tokenizer
    if others := bundle.found(lambda line: not line.cut and not _same(line, tokenizer)):
        raise InputError(
            "open-instruct would train other tokens than the study did, as it writes a conversation by the chat "
            f"template without its tools and as one whole: {others}; take {', '.join(SAME_TOKENS)}"
        )


def _same(line: Line, tokenizer: Any) -> bool:
    """Whether its rule gives the study's ids, and white space at most behind them."""
    said = line.messages or []
    prompt, whole = (
        tokenizer.apply_chat_template(part, add_generation_prompt=asked, return_dict=False)
        for part, asked in ((said[:-1], True), (said, False))
    )
    after = tokenizer.decode(whole[len(line.ids) :])
    return bool(len(prompt) == len(line.prompt_ids) and whole[: len(line.ids)] == line.ids and not after.strip())


def _adapter(adapter: Adapter | None) -> list[str]:
    if adapter is None:
        return []
    shape = {"--lora_rank": adapter.r, "--lora_alpha": adapter.alpha, "--lora_dropout": adapter.dropout}
    bits = ["--use_qlora"] if adapter.four_bits else []
    return ["--use_lora", *bits, *(str(word) for pair in shape.items() for word in pair)]
