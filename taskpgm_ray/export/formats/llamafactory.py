"""LLaMA-Factory: a registry of data sets and two training files, one exact and one sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from taskpgm_ray.errors import InputError
from taskpgm_ray.export.examples import Bundle, Line, TaskExamples
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import exporter, messages, write_tasks, write_yaml


@exporter("llamafactory", "dataset_info.json, train_exact.yaml and train_sampled.yaml for LLaMA-Factory")
def _llamafactory(bundle: Bundle, folder: Path) -> list[Path]:
    for task in bundle.tasks:
        if "," in task.name:
            raise InputError(f"LLaMA-Factory separates data sets by commas; rename the task {task.name!r}")
    files = write_tasks(bundle, folder, messages if bundle.chat else _with_end(bundle))
    info = {
        # Draws this many, repeating examples where the file has fewer; ignored when streaming.
        task.name: {"file_name": f"data/{file.name}", "num_samples": task.count, **_layout(bundle, task)}
        for task, file in zip(bundle.tasks, files, strict=True)
    }
    registry = folder / "dataset_info.json"
    registry.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    common, recipe = _common(bundle, folder), Recipe.of(bundle.config)
    exact = common | {"mix_strategy": "concat", "num_train_epochs": 1.0}
    # A stream has no length, so the budget must be given in steps. "over" repeats small tasks until each is used up;
    # "under" would start all tasks anew as soon as the smallest is.
    sampled = common | {
        "streaming": True,
        "mix_strategy": "interleave_over",
        "interleave_probs": ",".join(repr(p) for p in bundle.probabilities),
        "dataloader_num_workers": 1,
        "max_steps": recipe.steps(bundle.document["examples"]),
    }
    return [
        write_yaml(folder / "train_exact.yaml", exact, "Each task gives exactly its count."),
        write_yaml(
            folder / "train_sampled.yaml",
            sampled,
            "Tasks are sampled by weight from streams.",
            "max_steps is that of one device: divide it by the number of yours.",
        ),
        registry,
        *files,
    ]


def _layout(bundle: Bundle, task: TaskExamples) -> dict[str, Any]:
    """How a task's file is read."""
    if not bundle.chat:
        return {"columns": {"prompt": "prompt", "response": "response"}}
    # A column that is named has to be there.
    tools = {"tools": "tools"} if any(line.tools for line in task.lines) else {}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", **tools}
    return {"columns": columns, "formatting": "sharegpt", "tags": tags | {"system_tag": "system"}}


def _common(bundle: Bundle, folder: Path) -> dict[str, Any]:
    recipe = Recipe.of(bundle.config)
    common: dict[str, Any] = {
        "model_name_or_path": recipe.name,
        "stage": "sft",
        "do_train": True,
        **_adapter(recipe.adapter),
        "dataset_dir": str(folder.resolve()),
        "dataset": ",".join(task.name for task in bundle.tasks),
        "cutoff_len": recipe.max_length,
        **recipe.training_arguments,
        "warmup_steps": recipe.warmup,
        "bf16": recipe.bf16,
    }
    if bundle.chat:
        # Without a template it takes the model's own; of a conversation only the last reply was trained.
        return common | {"mask_history": True}
    # This template adds nothing, not even the end of the text: the responses bring it along.
    return common | {"template": "empty"}


def _adapter(adapter: Adapter | None) -> dict[str, Any]:
    if adapter is None:
        return {"finetuning_type": "full"}
    modules = adapter.modules if isinstance(adapter.modules, str) else ",".join(adapter.modules)
    return {
        "finetuning_type": "lora",
        "lora_rank": adapter.r,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "lora_target": "all" if modules == "all-linear" else modules,
        **({"quantization_bit": 4, "quantization_method": "bnb"} if adapter.four_bits else {}),
    }


def _with_end(bundle: Bundle) -> Any:
    end = str(bundle.tokenizer.eos_token)

    def form(line: Line) -> dict[str, Any]:
        return {"prompt": line.prompt, "response": line.completion + end}

    return form
