"""lm-eval tasks over the items of a split: MMLU as lettered choices, BBH as direct answers.

Importing this module imports lm-eval; `taskpgm_ray.evaluation.run` does so when something is evaluated.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lm_eval.api.task
from lm_eval.api.task import ConfigurableTask

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation.data import LETTERS, Item
from taskpgm_ray.evaluation.splits import Split, too_few_examples

_ACCURACY = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
_quiet = threading.Lock()


class Documents(list[dict[str, Any]]):
    """What lm-eval reads of a data set: a list that knows its columns."""

    # Not a `datasets.Dataset`: building its fingerprint took half of the time of an evaluation.
    @property
    def features(self) -> dict[str, Any]:
        """Names of the columns (the values are of no interest)."""
        return dict.fromkeys(self[0])


class SplitTask(ConfigurableTask):
    """An lm-eval task over items in memory: no data set script, no cache that could go stale, no network."""

    def __init__(self, config: dict[str, Any], splits: dict[str, list[Item]]) -> None:
        self._splits = splits
        super().__init__(config=config)

    def download(self, *args: Any, **kwargs: Any) -> None:
        """Build the data sets that lm-eval reads (it calls this while it is constructed)."""
        self.dataset = {name: Documents(item.to_record() for item in items) for name, items in self._splits.items()}

    def build_all_requests(self, **kwargs: Any) -> None:
        """As lm-eval, without its progress bar for each task."""
        with _without_progress():
            super().build_all_requests(**kwargs)


def build_tasks(split: Split, *, num_fewshot: int = 0, chat: bool = False) -> dict[str, SplitTask]:
    """lm-eval tasks ``mmlu_<subject>`` and ``bbh_<task>`` over the items of one split.

    Args:
        split: Where the items come from.
        num_fewshot: MMLU: solved examples of the subject's dev set before each question. BBH is always asked directly.
        chat: The prompts will go through a chat template: the answer then follows without a space.

    Raises:
        EvaluationError: A subject has fewer than ``num_fewshot`` dev examples.
    """
    by_task: dict[tuple[str, str], list[Item]] = {}
    for item in split.items():
        by_task.setdefault((item.benchmark, item.task), []).append(item)
    dev = split.dev() if num_fewshot else {}
    tasks = {}
    for (benchmark, name), items in by_task.items():
        if benchmark == "mmlu":
            examples = dev.get(name, [])
            if len(examples) < num_fewshot:
                raise EvaluationError(too_few_examples(name, len(examples), num_fewshot))
            tasks[f"mmlu_{name}"] = SplitTask(_mmlu(name, num_fewshot), {"test": items, "dev": examples})
        else:
            tasks[f"bbh_{name}"] = SplitTask(_bbh(name, chat), {"test": items})
    return tasks


def _mmlu(subject: str, num_fewshot: int) -> dict[str, Any]:
    """The prompt of Hendrycks et al. (2021), as lm-eval's ``mmlu`` writes it."""
    return {
        "task": f"mmlu_{subject}",
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_split": "dev" if num_fewshot else None,
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": num_fewshot,
        "description": "The following are multiple choice questions (with answers) about "
        f"{subject.replace('_', ' ')}.\n\n",
        # Functions, not templates: lm-eval evaluates a rendered template that looks like a number or a list.
        "doc_to_text": _lettered,
        "doc_to_choice": list(LETTERS),
        "doc_to_target": "answer",
        "metric_list": _ACCURACY,
    }


def _bbh(task: str, chat: bool) -> dict[str, Any]:
    """The question of Suzgun et al. (2022) without chain of thought; scored as the likelihood of the target."""
    return {
        "task": f"bbh_{task}",
        "output_type": "loglikelihood",
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": _question,
        "doc_to_target": _target if chat else _spaced_target,
        "metric_list": _ACCURACY,
    }


def _lettered(doc: dict[str, Any]) -> str:
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, doc["choices"], strict=True)]
    return "\n".join([doc["question"].strip(), *choices, "Answer:"])


def _question(doc: dict[str, Any]) -> str:
    return f"Q: {doc['input']}\nA:"


def _target(doc: dict[str, Any]) -> str:
    return doc["target"]


def _spaced_target(doc: dict[str, Any]) -> str:
    return f" {doc['target']}"


@contextmanager
def _without_progress() -> Iterator[None]:
    """lm-eval shows a bar per task and offers no switch for it; the lock keeps concurrent evaluations apart."""
    with _quiet:
        shown = lm_eval.api.task.tqdm
        lm_eval.api.task.tqdm = _no_progress
        try:
            yield
        finally:
            lm_eval.api.task.tqdm = shown


def _no_progress(iterable: Iterable[Any], **kwargs: Any) -> Iterable[Any]:
    return iterable
