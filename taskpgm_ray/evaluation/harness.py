"""Any task of lm-eval by its name, its group's name, or the YAML file that defines it, as items for the two splits.

Importing this module is cheap; lm-eval is imported, and its data sets are loaded, when a task is.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import task_files
from taskpgm_ray.evaluation.items import Item, Items, TaskItems
from taskpgm_ray.paths import looked_in

SHOWN = 64
"""Documents of a task's few-shot split that are kept to be shown; they are never asked."""
ASKING = 2
"""Version of how documents are asked and which are shown; with another one they are asked anew."""


def benchmark(entry: str) -> str:
    """The name that an entry of ``evaluation.lm_eval`` has in tables: its own, or its file's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(entry).stem if task_files.is_file(entry) else entry)


def identity(entries: Sequence[str]) -> list[Any]:
    """What the items of these entries depend on, as far as it is known without loading them.

    A hub data set is trusted to stay as it is; pin its revision in a YAML file of your own where that matters. Of a
    file's task the local documents, functions and includes count as well.
    """
    if not entries:
        return []
    content = [task_files.content(e) if task_files.is_file(e) else e for e in entries]
    return [importlib.metadata.version("lm_eval"), content, ASKING]


def load(entry: str) -> Items:
    """The documents of every task behind an entry.

    Validation searches and test reports where the task has both; otherwise its documents are to be halved. Documents
    are taken after the task's own ``process_docs``.

    Raises:
        EvaluationError: lm-eval knows no such task, its data cannot be loaded, or it asks for no answer.
    """
    name = benchmark(entry)
    return Items([_task_items(name, task_name, task) for task_name, task in load_tasks(entry).items()])


def load_tasks(entry: str) -> dict[str, Any]:
    """lm-eval's task objects behind an entry, by their names; their data sets are loaded with them."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    try:
        # Indexing lm-eval's thousands of tasks takes seconds, and a file needs none of them.
        tasks = TaskManager(include_defaults=not task_files.is_file(entry)).load([entry])["tasks"]
    except KeyError as error:
        raise EvaluationError(
            f"evaluation.lm_eval names {entry!r}, which is neither a task or group of lm-eval nor a YAML file"
            + (looked_in(entry) if task_files.means_file(entry) else "")
        ) from error
    except Exception as error:  # a task is a program (templates, functions, a hub client) and raises whatever it likes
        raise EvaluationError(
            f"lm-eval's {entry!r} cannot be loaded: {type(error).__name__}: {error}; check its file, its data and the "
            "network"
        ) from error
    for name, task in tasks.items():
        if not isinstance(task, ConfigurableTask):
            raise EvaluationError(f"lm-eval's {name!r} is a Python class of its own; only tasks of a YAML file work")
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            raise EvaluationError(
                f"lm-eval's {name!r} measures the perplexity of texts and asks for no answer, so there is nothing to "
                "be right or wrong about; choose a task with answers"
            )
        if task.OUTPUT_TYPE == "generate_until":
            task_files.refuse_sampling(name, task.config.generation_kwargs)
        right_metrics(task)
    return dict(tasks)


def right_metrics(task: Any) -> list[str]:
    """Those metrics of an lm-eval task that may be the accuracy: the higher, the better.

    Raises:
        EvaluationError: There is none; an error rate or the like would call the worse of two mixtures the better one.
    """
    higher = task.higher_is_better()
    found = [metric for metric in task.aggregation() if higher.get(metric)]
    if not found:
        raise EvaluationError(
            f"lm-eval's {task.config.task!r} scores its items by {', '.join(task.aggregation())}, of which none is "
            "said to be better when it is higher; choose a task with right and wrong answers, or in a file of your own "
            "give a metric higher_is_better: true"
        )
    return found


def config_on_split(task: Any, has_examples: bool) -> dict[str, Any]:
    """The task's own config, but reading ``test`` (and ``dev``) of data that is handed to it."""
    config = {field.name: getattr(task.config, field.name) for field in fields(task.config)}
    shots = replace(config["fewshot_config"], split="dev" if has_examples else None, process_docs=None)
    return config | {
        "dataset_path": None,
        "dataset_name": None,
        "custom_dataset": None,
        "dataset_kwargs": None,
        # The stored documents have been through it.
        "process_docs": None,
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": shots.split,
        "fewshot_config": shots,
    }


def _task_items(name: str, task_name: str, task: Any) -> TaskItems:
    def items(docs: Any) -> list[Item]:
        return [_item(name, task_name, task, dict(doc)) for doc in docs]

    found = TaskItems(name, task_name)
    shots = task.config.num_fewshot or 0
    if shots and (task.fewshot_cfg.split is not None or task.fewshot_cfg.samples is None):
        shown = list(task.fewshot_docs())
        if task.fewshot_cfg.sampler != "first_n":
            random.Random(0).shuffle(shown)
        # What is shown of a split that is asked as well is lost for the questions.
        found.dev = items(shown[: shots if _shows_what_is_asked(task) else max(SHOWN, shots)])
    if task.has_validation_docs() and task.has_test_docs():
        found.search, found.report = items(task.validation_docs()), items(task.test_docs())
    else:
        found.shared = items(task.eval_docs)
    return found


def _shows_what_is_asked(task: Any) -> bool:
    """Whether examples come from a split that is asked; where the task names none, lm-eval takes the first it has."""
    config = task.config
    split = task.fewshot_cfg.split or config.training_split or config.validation_split or config.test_split
    return split in (config.validation_split, config.test_split)


def _item(name: str, task_name: str, task: Any, doc: dict[str, Any]) -> Item:
    try:
        doc = json.loads(json.dumps(doc))
    except TypeError as error:
        raise EvaluationError(f"a document of lm-eval's {task_name!r} is no plain text: {error}") from error
    question, target = task.doc_to_text(doc), task.doc_to_target(doc)
    choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else []
    _refuse_empty(task_name, task, doc, target, choices)
    # In tasks with several contexts and one continuation, the "text" is the number of the right context.
    asked = question if isinstance(question, str) else json.dumps(doc, sort_keys=True)
    return Item(name, task_name, asked, str(target), tuple(map(str, choices)), doc)


def _refuse_empty(name: str, task: Any, doc: dict[str, Any], target: Any, choices: Sequence[Any]) -> None:
    """Raise an `EvaluationError` for an answer that has no tokens: the engine could not say how likely it is."""
    # Of several right texts the first is taken.
    right = (target[0] if target else "") if isinstance(target, list) else target
    if task.OUTPUT_TYPE == "multiple_choice":
        empty = any(f"{task.config.target_delimiter}{choice}" == "" for choice in choices)
    else:
        empty = not choices and not str(right).strip()
    if empty:
        raise EvaluationError(
            f"a document of lm-eval's {name!r} has an empty answer, whose likelihood cannot be asked: "
            f"{json.dumps(doc)[:200]}; drop such documents (process_docs), or mend the task's doc_to_target"
        )
