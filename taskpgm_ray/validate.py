"""Everything that can be found wrong with a study before it costs anything: no Ray, no engine, no training.

`taskpgm_ray.runtime.preflight` holds the checks that take milliseconds, `validate` all of them: it reads the tasks, the
model's own configuration and the evaluation data.
"""

from __future__ import annotations

import tempfile
from typing import Any

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import DataError, ModelError
from taskpgm_ray.evaluation import prepare
from taskpgm_ray.models import BaseModelRef, resolve
from taskpgm_ray.runtime.preflight import preflight
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.sources import Example, HubDataset, JsonLines, TaskSource, data_set, task_sources
from taskpgm_ray.tasks.tokens import encode, prompt_text

GENERATED = 8
"""Problems that are drawn from a generator to see that it works."""


def validate(config: StudyConfig) -> list[str]:
    """Check a study's config against the machine, the storage, the model, the tasks and the evaluation data.

    Data sets of the hub are not downloaded, and a packaged model is not converted, so what is inside them is checked
    when the study prepares them.

    Returns:
        One line for each thing that was checked and found fine.

    Raises:
        TaskPGMError: The first thing that is wrong, where, and what to do about it.
    """
    lines = preflight(config)
    root = Storage(config.storage)
    (root / config.study).check_writable()
    lines.append(f"storage: {config.storage} can be written")
    model = resolve(config.model, root)
    lines.append(f"model: {config.model.path} ({model.fingerprint})")
    tokenizer = None
    if model.shared is None or Unit(model.shared, model.source).done():
        lines.append(_check_model(config, model))
        tokenizer = model.tokenizer()
    lines += _check_tasks(config, tokenizer)
    if config.search.balances:
        lines.append(_check_evaluation(config))
    return lines


def _check_model(config: StudyConfig, model: BaseModelRef) -> str:
    """The model's own limits against what the config asks of it."""
    own = model.config()
    longest = model.window(config.model.max_length)
    if longest < config.model.max_length:
        raise ModelError(
            f"model.max_length is {config.model.max_length}, but {config.model.path} ends at {longest} tokens"
        )
    size = config.scoring.support
    if own.vocab_size < size:
        raise ModelError(
            f"scoring.top_k + answer_tokens + the gold token = {size}, but the vocabulary of {config.model.path} has "
            f"only {own.vocab_size} tokens; lower top_k"
        )
    modules = config.finetune.lora.target_modules
    linear = model.linear_modules()
    absent = [] if modules == "all-linear" else [m for m in modules if m.rpartition(".")[2] not in linear]
    if absent:
        raise ModelError(
            f"finetune.lora.target_modules names {absent[0]!r}, which is no linear layer of {config.model.path}; "
            f"it has: {', '.join(linear)}"
        )
    return f"adapters: on {', '.join(linear if modules == 'all-linear' else modules)}"


def _check_tasks(config: StudyConfig, tokenizer: Any) -> list[str]:
    sources = task_sources(config.pool)
    read = 0
    for source in sources:
        kept = config.pool.probes_per_task + config.pool.heldout_per_task
        if isinstance(data_set(source), JsonLines):
            read += _check_examples(source, config, tokenizer, config.pool.max_examples, kept)
        else:
            source.identity()
            if not isinstance(data_set(source), HubDataset):
                _check_examples(source, config, tokenizer, min(GENERATED, config.pool.max_examples), 0)
    lines = [f"tasks: {len(sources)}, {', '.join(source.name for source in sources)}"]
    if read:
        lines.append(f"examples: {read} of JSON lines read, in each task more than the probes")
    remote = sum(isinstance(data_set(source), HubDataset) for source in sources)
    if remote:
        lines.append(f"hub data sets: {remote}, not downloaded and so not checked")
    return lines


def _check_examples(source: TaskSource, config: StudyConfig, tokenizer: Any, limit: int, probes: int) -> int:
    """Read a task's examples, and tokenise until more different ones fit than are kept as probes.

    Returns:
        How many examples were read.
    """
    different: set[str] = set()
    read = 0
    for example in source.examples(limit, config.seed):
        where = f"task {source.name!r}, example {read}"
        read += 1
        prompt_text(example, config.model.prompt_format, where)
        if len(different) <= probes and (tokenizer is None or _fits(example, config, tokenizer, where)):
            different.add(fingerprint(example.turns))
    if len(different) <= probes:
        raise DataError(
            f"task {source.name!r} has {len(different)} usable different examples (repeats and responses longer than "
            f"model.max_length do not count), which is not more than the {probes} kept as probes or held out; "
            "lower pool.probes_per_task or heldout_per_task, raise model.max_length, or drop the task"
        )
    return read


def _fits(example: Example, config: StudyConfig, tokenizer: Any, where: str) -> bool:
    return encode(example, tokenizer, config.model.prompt_format, config.model.max_length, where) is not None


def _check_evaluation(config: StudyConfig) -> str:
    """Draw the two splits into a folder that is thrown away; of the hub's data sets only the names are known."""
    data = config.evaluation.data
    if config.evaluation.lm_eval:
        return "evaluation: lm-eval's tasks by name, not loaded and so not checked"
    if config.evaluation.own_tasks and not (config.evaluation.mmlu or config.evaluation.bbh):
        return "evaluation: the pool's own held-out examples"
    if data == "hub":
        return "evaluation: data sets of the hub, not downloaded and so not checked"
    with tempfile.TemporaryDirectory() as folder:
        sets = prepare(config.evaluation, config.seed, Storage(folder))
        search, report = (len(split.manifest()["items"]) for split in (sets.search, sets.report))
    return f"evaluation: {search} items to search with and {report} others to report on, from {data}"
