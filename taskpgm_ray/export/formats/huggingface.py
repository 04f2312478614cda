"""Hugging Face: a module for ``datasets``, and settings for ``trl sft``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from taskpgm_ray.export.examples import Bundle, Line
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import exporter, write_counted, write_tasks, write_yaml

TEMPLATE = '''"""A mixture of fine-tuning tasks for Hugging Face datasets (4 or later).

    from mixture_dataset import exact, sampled
"""

import json
from pathlib import Path

from datasets import Dataset, concatenate_datasets, interleave_datasets

DATA = Path(__file__).parent / "data"
EXAMPLES = @EXAMPLES@
TASKS = @TASKS@


def _read(file):
    # Not by load_dataset, which makes points in time of texts that are dates.
    with open(DATA / file, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    names = dict.fromkeys(name for row in rows for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})


def sampled(seed=0):
    """A stream of EXAMPLES examples, each from a task drawn by weight; small tasks repeat."""
    streams = [
        _read(task["file"]).to_iterable_dataset().shuffle(seed=seed, buffer_size=10_000).repeat(None)
        for task in TASKS.values()
    ]
    total = sum(task["weight"] for task in TASKS.values())
    mixed = interleave_datasets(
        streams,
        probabilities=[task["weight"] / total for task in TASKS.values()],
        seed=seed,
        stopping_strategy="first_exhausted",
    )
    return mixed.take(EXAMPLES)


def exact(seed=0):
    """A shuffled dataset in which every task gives exactly its count; small tasks repeat."""
    parts = []
    for task in TASKS.values():
        examples = _read(task["file"])
        epochs, rest = divmod(task["count"], len(examples))
        parts += [examples] * epochs
        if rest:
            parts.append(examples.shuffle(seed=seed).select(range(rest)))
    return concatenate_datasets(parts).shuffle(seed=seed)
'''


@exporter(
    "datasets", "mixture_dataset.py for Hugging Face datasets (sampled or exact), and the tasks' examples", text=True
)
def _datasets(bundle: Bundle, folder: Path) -> list[Path]:
    files = write_tasks(bundle, folder)
    path = folder / "mixture_dataset.py"
    tasks = {
        task.name: {"file": file.name, "weight": weight, "count": task.count}
        for task, file, weight in zip(bundle.tasks, files, bundle.probabilities, strict=True)
    }
    # JSON of strings and numbers is also Python, and quotes whatever a name may hold.
    filled = TEMPLATE.replace("@TASKS@", json.dumps(tasks, indent=4))
    path.write_text(filled.replace("@EXAMPLES@", str(bundle.document["examples"])), encoding="utf-8")
    return [path, *files]


@exporter("trl", "sft.yaml for `trl sft --config`, and the counted examples as token ids")
def _trl(bundle: Bundle, folder: Path) -> list[Path]:
    data, recipe = write_counted(bundle, folder / "mixture.jsonl", _masked), Recipe.of(bundle.config)
    # Rows with ids are not tokenised again.
    columns = list(_masked(bundle.tasks[0].lines[0]))
    settings = {
        "model_name_or_path": recipe.name,
        **recipe.source,
        "datasets": [{"path": "json", "data_files": str(data.resolve()), "columns": columns}],
        # What the mask says.
        "completion_only_loss": True,
        "max_length": recipe.max_length,
        **_peft(recipe.adapter),
        **recipe.training_arguments,
        # A part of the run; transformers 4 would take it for a number of steps.
        "warmup_steps": recipe.warmup,
        "num_train_epochs": 1,
        "bf16": recipe.bf16,
    }
    return [write_yaml(folder / "sft.yaml", settings, "trl sft --config sft.yaml (with transformers 5)"), data]


def _masked(line: Line) -> dict[str, Any]:
    return {"input_ids": line.ids, "completion_mask": [0] * len(line.prompt_ids) + [1] * len(line.completion_ids)}


def _peft(adapter: Adapter | None) -> dict[str, Any]:
    if adapter is None:
        return {}
    return {
        "use_peft": True,
        "lora_r": adapter.r,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "lora_target_modules": adapter.modules,
        **(
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
            if adapter.four_bits
            else {}
        ),
    }
