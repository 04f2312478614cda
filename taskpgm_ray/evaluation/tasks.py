"""lm-eval tasks over the items of a split: MMLU as lettered choices, BBH as direct answers, others by their own rules.

Importing this module imports lm-eval; `taskpgm_ray.evaluation.run` does so when something is evaluated.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import lm_eval.api.task
from lm_eval.api.task import ConfigurableTask

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import exemplars, harness
from taskpgm_ray.evaluation.answers import closed_answers
from taskpgm_ray.evaluation.items import LETTERS, Item
from taskpgm_ray.evaluation.splits import Split, too_few_examples

_ACCURACY = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
_EXACT_MATCH = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
_FIRST_LINE = r"\A\s*(\S.*?)[.\s]*(?:\n|\Z)"
"""The first line that says something, without a final full stop."""
ITEM = "taskpgm_item"
"""The column that names a document's item; one that no document has."""
ANSWER_TOKENS = 32
"""A direct answer to a BBH question; the longest targets (word lists) need about as many."""
_quiet = threading.Lock()


class Documents(list[dict[str, Any]]):
    """What lm-eval reads of a data set: a list that knows its columns."""

    # Not a `datasets.Dataset`: building its fingerprint took half of the time of an evaluation.
    @property
    def features(self) -> dict[str, Any]:
        """Names of the columns (the values are of no interest)."""
        return dict.fromkeys(self[0])

    def map(self, function: Any) -> Documents:
        """As ``datasets.Dataset.map``, for tasks that rewrite their documents."""
        return Documents(function(doc) for doc in self)


class SplitTask(ConfigurableTask):
    """An lm-eval task over items in memory: no data set script, no cache that could go stale, no network."""

    def __init__(self, config: dict[str, Any], splits: dict[str, list[Item]]) -> None:
        self._splits = splits
        super().__init__(config=config)

    def download(self, *args: Any, **kwargs: Any) -> None:
        """Build the data sets that lm-eval reads (it calls this while it is constructed)."""
        self.dataset = {name: Documents(map(_document, items)) for name, items in self._splits.items()}

    def build_requests(self, model: Any, chat: bool, limit: int | None = None) -> None:
        """The requests of the first ``limit`` documents, as lm-eval's evaluator has them built for this model."""
        self.build_all_requests(
            limit=limit,
            rank=0,
            world_size=1,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            chat_template=model.apply_chat_template if chat else None,
            tokenizer_name=model.tokenizer_name if chat else "",
        )

    def fewshot_context(self, doc: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As lm-eval, but which examples are shown follows from the item: every system is asked the same."""
        if self.config.num_fewshot:
            self.sampler.rnd = random.Random(doc[ITEM])
        return super().fewshot_context(doc, *args, **kwargs)

    def build_all_requests(self, **kwargs: Any) -> None:
        """As lm-eval, without its progress bar for each task."""
        with _without_progress():
            super().build_all_requests(**kwargs)


def build_tasks(
    split: Split,
    *,
    mmlu_shots: int = 0,
    bbh_shots: int = 0,
    chat: bool = False,
    bbh_answers: Literal["likelihood", "generation"] = "likelihood",
    lm_eval: Iterable[str] = (),
    only: Container[str] | None = None,
) -> dict[tuple[str, str], SplitTask]:
    """lm-eval tasks over the items of one split, by benchmark and task; the pool's own examples are no lm-eval tasks.

    Args:
        split: Where the items come from.
        mmlu_shots: Solved examples of the subject's dev set before each question. lm-eval's tasks by name have their
            own number.
        bbh_shots: Solved examples before each question of BBH, and the task's description in front of them.
        chat: The prompts will go through a chat template: the answer then follows without a space.
        bbh_answers: Whether BBH answers are judged by the likelihood of the target or as generated text.
        lm_eval: The entries of ``evaluation.lm_eval``, whose definitions say how their documents are asked.
        only: Ids of the items to be asked; by default all of the split's.

    Raises:
        EvaluationError: A subject or task has fewer examples than that, or an lm-eval task is not there.
    """
    by_task: dict[tuple[str, str], list[Item]] = {}
    for item in split.items():
        if item.tokens is None and (only is None or item.id in only):
            by_task.setdefault((item.benchmark, item.task), []).append(item)
    dev = split.dev()
    named = {harness.benchmark(entry): harness.load_tasks(entry) for entry in lm_eval}
    tasks = {}
    for (benchmark, name), items in by_task.items():
        examples = dev.get((benchmark, name), [])
        if benchmark == "mmlu":
            if len(examples) < mmlu_shots:
                raise EvaluationError(too_few_examples("mmlu", name, len(examples), mmlu_shots))
            config = _mmlu(name, mmlu_shots)
        elif benchmark == "bbh":
            if len(examples) < bbh_shots:
                raise EvaluationError(too_few_examples("bbh", name, len(examples), bbh_shots))
            closed = all(closed_answers(item.question, item.target) for item in (*items, *examples[:bbh_shots]))
            written = _bbh_generated if bbh_answers == "generation" else _bbh_closed if closed else _bbh
            config = written(name, chat)
            if bbh_shots:
                # Where the target has its space in front, there is none between it and the question.
                config = {"target_delimiter": "", **config, **_described(name, bbh_shots)}
        elif name in named.get(benchmark, {}):
            config = harness.config_on_split(named[benchmark][name], bool(examples))
        else:
            raise EvaluationError(f"{split.path} holds items of lm-eval's {benchmark}/{name}, which is not evaluated")
        splits = {"test": items, "dev": examples} if examples else {"test": items}
        tasks[benchmark, name] = SplitTask(config, splits)
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


def _described(task: str, shots: int) -> dict[str, Any]:
    """What lm-eval's ``bbh_fewshot`` puts in front of a question."""
    return {
        "description": exemplars.description(task),
        "num_fewshot": shots,
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
    }


def _bbh_closed(task: str, chat: bool) -> dict[str, Any]:
    """The same question; scored as the likelihood of the target among all answers that the question allows."""
    return _bbh(task, chat) | {
        "output_type": "multiple_choice",
        "doc_to_choice": _answers,
        "doc_to_target": _right_answer,
        "target_delimiter": "" if chat else " ",
    }


def _bbh_generated(task: str, chat: bool) -> dict[str, Any]:
    """The same question; scored as the first line of what the model writes."""
    return _bbh(task, chat) | {
        "output_type": "generate_until",
        "doc_to_target": _target,
        "target_delimiter": "" if chat else " ",
        "generation_kwargs": {
            "until": ["</s>", "Q:", "\n\n"],
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": ANSWER_TOKENS,
        },
        "filter_list": [
            {
                "name": "first-line",
                "filter": [{"function": "regex", "regex_pattern": _FIRST_LINE}, {"function": "take_first"}],
            }
        ],
        "metric_list": _EXACT_MATCH,
    }


def _document(item: Item) -> dict[str, Any]:
    """What lm-eval's templates read, with the item's id."""
    return {**(item.to_record() if item.doc is None else item.doc), ITEM: item.id}


def _lettered(doc: dict[str, Any]) -> str:
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, doc["choices"], strict=True)]
    return "\n".join([doc["question"].strip(), *choices, "Answer:"])


def _question(doc: dict[str, Any]) -> str:
    return f"Q: {doc['input']}\nA:"


def _answers(doc: dict[str, Any]) -> list[str]:
    return list(closed_answers(doc["input"], doc["target"]) or ())


def _right_answer(doc: dict[str, Any]) -> int:
    return _answers(doc).index(doc["target"])


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
