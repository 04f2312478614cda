"""A first config from what is there: the user's data, the model, the machine. Every derived value says why."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taskpgm_ray.config import StudyConfig, load_config
from taskpgm_ray.config_file import parse
from taskpgm_ray.errors import DataError, InputError, TaskPGMError
from taskpgm_ray.models import prepare, resolve
from taskpgm_ray.runtime.preflight import local_gpus
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.preview import TaskPreview, preview
from taskpgm_ray.tasks.sources import source_of, task_sources
from taskpgm_ray.tasks.tokens import needs_chat

READ = 400
"""Rows of each task that are read to judge its lengths."""
LONGEST = 4096
"""Tokens: longer examples are cut unless the user asks for more."""
LARGE = 2048
"""Width of a model from which a small model's learning rate is too much for it."""


@dataclass(frozen=True)
class Found:
    """What a config is made from."""

    tasks: Sequence[TaskPreview]
    notes: Sequence[str]
    limit: int
    """Tokens that the model takes."""
    width: int
    """Of the model's layers."""
    cpus: int
    gpus: int
    chat: str = ""
    """The first row that only a chat template can write; empty where there is none."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every example that was read."""
        shown = [example for task in self.tasks for example in task.examples]
        return np.array([len(example.prompt_ids) + len(example.response_ids) for example in shown])

    @property
    def sizes(self) -> list[int]:
        """Rows that each task has."""
        return [task.size for task in self.tasks]


def look(sources: Sequence[str], model: str) -> Found:
    """Read the first rows of every task, and ask model and machine.

    Args:
        sources: Files, folders, globs, or sources with their scheme such as ``hf:openai/gsm8k``.
        model: As in ``model.path``.

    Raises:
        TaskPGMError: A source or the model cannot be used.
    """
    config = load_config(
        {
            "study": "look",
            "model": {"path": model, "max_length": LONGEST},
            "pool": {"tasks": [source_of(one) for one in sources], "max_examples": READ, "probes_per_task": 1},
            "finetune": {"steps": 1},
            "scoring": {"engines": {"max_model_length": LONGEST}},
        }
    )
    base = resolve(config.model, Storage(config.storage))
    chat = _first_chat(config)
    if chat:
        prepare(base)
        if not base.tokenizer().chat_template:
            raise DataError(
                f"{chat}: a system message or a conversation of several turns, and {model} has no chat template to "
                "write it; give --model one that has, or rows of one question"
            )
        config = config.model_copy(update={"model": config.model.model_copy(update={"prompt_format": "chat"})})
    seen = preview(config, base, READ)
    if not any(task.examples for task in seen.tasks):
        raise InputError(f"no example was read from {', '.join(sources)}")
    return Found(
        tasks=seen.tasks,
        notes=[note for note in seen.notes if "between prompt and response" not in note],
        limit=base.window(LONGEST),
        width=int(base.text_config().hidden_size),
        cpus=os.cpu_count() or 1,
        gpus=local_gpus(),
        chat=chat,
    )


def _first_chat(config: StudyConfig) -> str:
    """Where the first row stands that needs a chat template, if there is one."""
    for source in task_sources(config.pool):
        try:
            rows = source.read(READ, config.seed).rows
        except TaskPGMError:
            continue  # the preview names it, with those of all other tasks
        if found := next((row.where for row in rows if needs_chat(row.example)), ""):
            return found
    return ""


def first_config(study: str, sources: Sequence[str], model: str, found: Found) -> str:
    """The YAML text, whose comments say where each value comes from.

    Raises:
        InputError: A task has too few examples for any split.
    """
    smallest = min(found.tasks, key=lambda task: task.size)
    probes = max(2, min(16, smallest.size // 10))
    held = max(2, min(60, smallest.size // 5))
    if smallest.size < probes + held + 2:
        raise InputError(f"{smallest.name} has {smallest.size} examples: too few to train, probe and judge")
    longest = int(np.quantile(found.lengths, 0.99))
    length = min(max(64, -(-longest // 64) * 64), found.limit, LONGEST)
    large = found.width >= LARGE
    batch, steps = (16, _within(2 * float(np.median(found.sizes)) / 16, 100, 300)) if found.gpus else (8, 48)
    examples = int(min(sum(found.sizes), 100_000))
    lanes, engines, why = _resources(found)
    reason = "two epochs of the middle task, 100 to 300" if found.gpus else "enough to tell tasks apart on CPUs"
    kind = "large" if large else "small"
    form, chat = "", ""
    if found.chat:
        form, chat = ", prompt_format: chat", f"# chat: a system message or several turns, first in {found.chat}.\n"
    text = f"""\
# Made by `taskpgm init` from {len(found.tasks)} tasks with {sum(found.sizes):,} examples.
# `taskpgm config --reference` has every key; `taskpgm validate` checks all of this before anything is trained.
study: {study}
storage: runs  # a folder, or s3://bucket/folder
# 99 in 100 examples have at most {longest:,} tokens.
{chat}model: {{path: {json.dumps(model)}, dtype: bfloat16, max_length: {length}{form}}}

pool:
  max_examples: 2000  # of each task; more would not change its adapter in so few steps
  probes_per_task: {probes}  # a tenth of the smallest task ({smallest.name}: {smallest.size:,} examples), at most 16
  heldout_per_task: {held}  # a fifth of it, at most 60: kept to judge mixtures by the tasks themselves
  tasks:
{_listed(sources, found.tasks)}

finetune:
  steps: {steps}  # {reason}
  batch_size: {batch}
  learning_rate: {"2.0e-4" if large else "1.0e-3"}  # usual for a {kind} model (width {found.width:,})
  # {why}
  lanes: {lanes}

scoring:
  scorer: {"vllm" if found.gpus or large else "hf  # Hugging Face: for small models on CPUs faster than vLLM"}
  engines: {engines}

mixture: {{examples: {examples}}}  # as many as all tasks have together, at most 100,000

search:
  balances: 6  # mixtures from pure diversity to representativeness
  baselines: [uniform, proportional]

evaluation:
  data: exemplars  # a few hundred questions of MMLU and BBH, without a network; `hub` has all of them
  own_tasks: true  # the tasks' held-out examples are a benchmark too
  report_seeds: 3  # fine-tunes for the verdict; more of them show smaller differences
"""
    check(text)
    return text


def check(text: str) -> StudyConfig:
    """The config that a text is.

    Raises:
        ConfigError: It is none.
    """
    return load_config(parse(text, "taskpgm init"))


def _listed(sources: Sequence[str], tasks: Sequence[TaskPreview]) -> str:
    lines = [f"    - {json.dumps(source_of(one))}" for one in sources]
    shown = [f"    # {task.name}: {task.size:,} examples, {task.layout}" for task in tasks[:40]]
    return "\n".join([*lines, *shown, *([f"    # and {len(tasks) - 40} more"] if len(tasks) > 40 else [])])


def _within(value: float, low: int, high: int) -> int:
    return int(min(max(value, low), high))


def _resources(found: Found) -> tuple[str, str, str]:
    """(lanes, engines, why) as YAML."""
    if found.gpus > 1:
        scoring = max(1, found.gpus // 4)
        return (
            f"{{max: {found.gpus - scoring}, gpus: 1, micro_batch_tokens: 8192}}",
            f"{{max: {scoring}, gpus: 1, max_batched_tokens: 8192, max_sequences: 256}}",
            f"this machine has {found.gpus} GPUs: a quarter of them score",
        )
    if found.gpus == 1:
        return (
            "{max: 1, gpus: 0.5, micro_batch_tokens: 4096}",
            "{max: 1, gpus: 0.5, gpu_memory_utilization: 0.45, max_batched_tokens: 8192, max_sequences: 256}",
            "this machine has one GPU, which training and scoring share",
        )
    # A small model's products are too short to gain from many threads: two lanes train more than one twice as wide.
    pairs = 1 if found.width >= LARGE or found.cpus < 2 else 2
    # Side by side with one CPU to spare, lanes and engines stay up from stage to stage.
    share = 0.9 if found.cpus < 2 else (found.cpus - 1) / 2 / pairs
    workers = f"max: {pairs}, cpus: {share:g}, threads: {found.cpus // pairs}"
    return (
        f"{{{workers}, micro_batch_tokens: 512}}",
        f"{{{workers}, kv_cache_gib: 1}}",
        f"no GPU was found: training and scoring share {found.cpus} CPUs",
    )


def study_name(sources: Sequence[str]) -> str:
    """A name after the first source."""
    stem = Path(sources[0].rpartition(":")[2]).stem
    kept = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in stem
    ).strip("-.")
    return kept or "study"
