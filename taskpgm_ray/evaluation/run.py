"""Evaluate one system on one split with lm-eval, item by item."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation.client import TokenScorer
from taskpgm_ray.evaluation.scores import ItemScore, summarise
from taskpgm_ray.evaluation.splits import Split

if TYPE_CHECKING:
    from taskpgm_ray.evaluation.bridge import EngineLM

__all__ = ["ItemScore", "evaluate", "summarise"]

_log = logging.getLogger(__name__)


def evaluate(
    split: Split,
    client: TokenScorer,
    tokenizer: Any,
    *,
    num_fewshot: int = 0,
    apply_chat_template: bool = False,
    max_length: int = 2047,
    seed: int = 0,
) -> list[ItemScore]:
    """Score every item of one split, all of them in one call of the client.

    ``gold_logprob`` is, for MMLU, the log of the right letter's probability renormalised over the four letters; for
    BBH, the summed log-probability of the target's tokens divided by their number. The items come from the split's
    unit and are handed to lm-eval in memory: nothing is downloaded and no cache is used.

    Args:
        split: The items; the only ones that this evaluation can read.
        client: The engine under the adapter to be evaluated.
        tokenizer: The Hugging Face tokenizer of its base model.
        num_fewshot: MMLU: solved examples before each question.
        apply_chat_template: Put the prompts through the tokenizer's chat template.
        max_length: Longest prompt in tokens; longer ones lose tokens on the left, with a warning that counts them. An
            engine whose window includes the predicted token takes one token less than its window.
        seed: Seed of the fine-tune, written into the rows.

    Returns:
        One row per item, in the split's order.

    Raises:
        EvaluationError: The split is damaged, a subject lacks few-shot examples, or the engine's answers are unusable.
    """
    _hush()
    from lm_eval import evaluator

    from taskpgm_ray.evaluation.bridge import EngineLM
    from taskpgm_ray.evaluation.tasks import build_tasks

    model = EngineLM(client, tokenizer, max_length=max_length)
    tasks = build_tasks(split, num_fewshot=num_fewshot, chat=apply_chat_template)
    # `simple_evaluate` would also index lm-eval's thousands of tasks, run git and describe the machine.
    results = evaluator.evaluate(
        lm=model,
        task_dict={"tasks": tasks, "groups": {}},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=apply_chat_template,
        fewshot_as_multiturn=apply_chat_template,
    )
    if model.truncated:
        _log.warning(
            "%d evaluation requests were longer than %d tokens and cut on the left", model.truncated, max_length
        )
    rows = []
    for name, samples in results["samples"].items():
        benchmark = name.partition("_")[0]
        score = _mmlu_logprob if benchmark == "mmlu" else _bbh_logprob
        for sample in samples:
            doc = sample["doc"]
            logprob = score(sample, model)
            rows.append(ItemScore(benchmark, doc["task"], doc["item"], float(sample["acc"]), logprob, seed))
    expected = len(split.manifest()["items"])
    if len(rows) != expected:
        raise EvaluationError(f"lm-eval scored {len(rows)} of the {expected} items of {split.path}")
    return rows


def _mmlu_logprob(sample: dict[str, Any], model: EngineLM) -> float:
    choices = np.array([response[0] for response in sample["filtered_resps"]], dtype=np.float64)
    return float(choices[sample["target"]] - np.logaddexp.reduce(choices))


def _bbh_logprob(sample: dict[str, Any], model: EngineLM) -> float:
    ((total, _),) = sample["filtered_resps"]
    ((context, target),) = sample["arguments"]
    return total / len(model._encode_pair(context, target)[1])


def _hush() -> None:
    """lm-eval reports each step at level INFO; show its warnings only, unless somebody chose a level for it."""
    logger = logging.getLogger("lm_eval")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
