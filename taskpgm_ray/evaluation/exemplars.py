"""The few-shot exemplars that lm-eval's wheel ships: real MMLU and BBH questions without a network.

The wheel holds, as chain-of-thought prompts, 282 questions of MMLU's 57 subjects (``tasks/mmlu/flan_cot_fewshot``) and
3 of each of the 27 BBH tasks (``tasks/bbh/cot_fewshot``). Question, choices and final answer are parsed out of them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from taskpgm_ray.errors import DataError, EvaluationError
from taskpgm_ray.evaluation.items import LETTERS, Item, Items, TaskItems, bbh_item, mmlu_item

# The choices stand on one line or on several; a fifth one makes the last group match "(E)" and is refused below.
_CHOICES = re.compile(r"(.*)\n\(A\) (.*?)\s*\(B\) (.*?)\s*\(C\) (.*?)\s*\(D\) (.*)", re.DOTALL)
_LETTER = re.compile(r"[Tt]he answer is \(?([A-Z])\)?")
_ANSWER = re.compile(r"[Ss]o the answer is (.+?)\.?\s*$")


def identity() -> dict[str, str]:
    """The version of lm-eval, which fixes the exemplars."""
    try:
        return {"source": "exemplars", "lm_eval": importlib.metadata.version("lm_eval")}
    except importlib.metadata.PackageNotFoundError:
        raise EvaluationError(
            "evaluation.data 'exemplars' needs the package lm-eval, which is not installed; install it or give a folder"
        ) from None


def load(*, mmlu: bool = True, bbh: bool = True) -> Items:
    """All exemplars, to be halved into search and report.

    Raises:
        DataError: An exemplar has no recognisable question or answer; the message names file and position.
        EvaluationError: lm-eval, or its task files, are not installed.
    """
    items = Items([])
    if mmlu:
        for file, subject, samples in _task_files("mmlu/flan_cot_fewshot"):
            task = TaskItems("mmlu", subject)
            for number, sample in enumerate(samples, 1):
                where = f"{file}, sample {number}"
                item = _mmlu(subject, sample, where)
                if item is None:
                    items.skipped.append(f"{file.name}, sample {number}: it has other than four choices")
                else:
                    task.shared.append(item)
            items.tasks.append(task)
    if bbh:
        for file, name, samples in _task_files("bbh/cot_fewshot"):
            found = [_bbh(name, sample, f"{file}, sample {number}") for number, sample in enumerate(samples, 1)]
            items.tasks.append(TaskItems("bbh", name, shared=found))
    return items


def solved() -> dict[str, list[Item]]:
    """The solved examples of each BBH task that lm-eval's ``bbh_fewshot`` shows, in its order."""
    found = {}
    for file, name, samples in _task_files("bbh/fewshot"):
        items = []
        for number, sample in enumerate(samples, 1):
            where = f"{file}, sample {number}"
            question, target = _texts(sample, "input", where)
            items.append(bbh_item(name, {"input": question, "target": target}, where))
        found[name] = items
    return found


def description(task: str) -> str:
    """What ``bbh_fewshot`` says in front of the examples of a BBH task; nothing of one that it does not know."""
    return next((_content(file)["description"] for file, name, _ in _task_files("bbh/fewshot") if name == task), "")


def _mmlu(subject: str, sample: Any, where: str) -> Item | None:
    """The item, or ``None`` for a well-formed question that does not have exactly four choices."""
    question, worked = _texts(sample, "question", where)
    parts, letters = _CHOICES.fullmatch(question.strip()), _LETTER.findall(worked)
    if parts is None or not letters:
        raise DataError(f"{where}: no choices (A) to (D), or no 'The answer is (X)'; is this another lm-eval version?")
    stem, *choices = (part.strip() for part in parts.groups())
    if "(E)" in choices[3] or letters[-1] not in LETTERS:
        return None
    return mmlu_item(subject, {"question": stem, "choices": choices, "answer": LETTERS.index(letters[-1])}, where)


def _bbh(task: str, sample: Any, where: str) -> Item:
    question, worked = _texts(sample, "input", where)
    answer = _ANSWER.search(worked.strip().rpartition("\n")[2])
    if answer is None:
        raise DataError(f"{where}: it does not end in 'So the answer is ...'; is this another lm-eval version?")
    return bbh_item(task, {"input": question.strip(), "target": answer[1]}, where)


def _texts(sample: Any, question: str, where: str) -> tuple[str, str]:
    if not isinstance(sample, dict) or not all(isinstance(sample.get(key), str) for key in (question, "target")):
        raise DataError(f"{where}: expected the texts {question!r} and 'target'; is this another lm-eval version?")
    return sample[question], sample["target"]


def _task_files(folder: str) -> Iterator[tuple[Path, str, list[Any]]]:
    """(file, subject or task, samples) of each task's YAML file, by name."""
    # find_spec locates the package without running it: importing lm-eval takes seconds.
    spec = importlib.util.find_spec("lm_eval")
    base = Path(spec.origin).parent / "tasks" / folder if spec is not None and spec.origin else None
    if base is None or not base.is_dir():
        raise EvaluationError(f"lm-eval's {folder} is not installed; install lm-eval >= 0.4.13 or give a folder")
    for file in sorted(base.glob("[a-z]*.yaml")):
        content = _content(file)
        try:
            yield file, content["dataset_name"], list(content["fewshot_config"]["samples"])
        except (KeyError, TypeError):
            raise DataError(f"{file} has no dataset_name with few-shot samples; is this another version?") from None


@cache
def _content(file: Path) -> Any:
    # Not `yaml.safe_load`: the C loader is the same parser at ten times the speed.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
