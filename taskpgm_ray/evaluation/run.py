"""Evaluate one system on one split, item by item: lm-eval for its tasks, token ids for the pool's own examples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation.harness import right_metrics
from taskpgm_ray.evaluation.scores import ItemScore, summarise
from taskpgm_ray.evaluation.splits import Split
from taskpgm_ray.evaluation.token_scorer import TokenScorer
from taskpgm_ray.tasks.marks import controls

if TYPE_CHECKING:
    from taskpgm_ray.evaluation.bridge import EngineLM
    from taskpgm_ray.evaluation.items import Item
    from taskpgm_ray.evaluation.tasks import SplitTask

__all__ = ["ItemScore", "evaluate", "summarise"]

_log = logging.getLogger(__name__)


def evaluate(
    split: Split,
    client: TokenScorer,
    tokenizer: Any,
    *,
    config: EvaluationConfig | None = None,
    apply_chat_template: bool = False,
    max_length: int = 2047,
    seed: int = 0,
) -> list[ItemScore]:
    """Score every item of one split.

    ``gold_logprob`` is, among given choices, the log of the right one's probability renormalised over them; of a text
    to be given, the summed log-probability of its tokens divided by their number, whether or not the accuracy comes
    from generated text. The items come from the split's unit and are handed to lm-eval in memory: nothing else is
    asked.

    Args:
        split: The items; the only ones that this evaluation can read.
        client: The engine under the adapter to be evaluated.
        tokenizer: The Hugging Face tokenizer of its base model.
        config: Few-shot examples, how BBH is answered, which lm-eval tasks there are; by default, the defaults.
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
    from taskpgm_ray.evaluation.bridge import EngineLM
    from taskpgm_ray.evaluation.tasks import build_tasks

    config = config or EvaluationConfig()
    model = EngineLM(client, tokenizer, max_length=max_length)
    items = split.items()
    tasks = build_tasks(
        split,
        mmlu_shots=config.shots("mmlu"),
        bbh_shots=config.shots("bbh"),
        chat=apply_chat_template,
        bbh_answers=config.bbh_answers,
        lm_eval=config.lm_eval,
    )
    scores = _by_lm_eval(tasks, model, apply_chat_template) | _by_tokens([i for i in items if i.tokens], model)
    if model.truncated:
        _log.warning(
            "%d evaluation requests were longer than %d tokens and cut on the left", model.truncated, max_length
        )
    unscored = [item.id for item in items if item.id not in scores]
    if unscored or len(scores) != len(items):
        raise EvaluationError(f"{len(scores)} of the {len(items)} items of {split.path} were scored")
    return [ItemScore(item.benchmark, item.task, item.id, *scores[item.id], seed) for item in items]


def _by_lm_eval(tasks: dict[tuple[str, str], SplitTask], model: EngineLM, chat: bool) -> dict[str, tuple[float, float]]:
    """(accuracy, gold log-probability) of each item of lm-eval's tasks, by its id."""
    if not tasks:
        return {}
    from lm_eval import evaluator

    from taskpgm_ray.evaluation.tasks import ITEM

    named = {f"{benchmark}_{name}": task for (benchmark, name), task in tasks.items()}
    open_answers = {
        f"{benchmark}_{name}"
        for (benchmark, name), task in tasks.items()
        if benchmark == "bbh" and task.OUTPUT_TYPE == "loglikelihood"
    }
    # `simple_evaluate` would also index lm-eval's thousands of tasks, run git and describe the machine.
    results = evaluator.evaluate(
        lm=model,
        task_dict={"tasks": named, "groups": {}},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    samples: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, rows in results["samples"].items():
        for sample in rows:
            # A task with several filters gives a row for each; the last one reads the answer most leniently.
            samples[sample["doc"][ITEM]] = (name, sample)
    generated = {
        item: sample for item, (name, sample) in samples.items() if named[name].OUTPUT_TYPE == "generate_until"
    }
    gold = _gold_of_generated(generated, {item: named[samples[item][0]] for item in generated}, model, chat)
    by_task: dict[str, list[dict[str, Any]]] = {}
    for name, sample in samples.values():
        by_task.setdefault(name, []).append(sample)
    metrics = {name: _metric(named[name], found) for name, found in by_task.items()}
    told = {
        item: (float(sample[metrics[name]]), gold[item] if item in gold else _gold(named[name], sample, model))
        for item, (name, sample) in samples.items()
    }
    greedy = [item for item, (name, sample) in samples.items() if name in open_answers and told[item][0]]
    for item, ends in zip(greedy, _ended([samples[item][1] for item in greedy], model), strict=True):
        told[item] = (float(ends), told[item][1])
    return told


def _ended(samples: Sequence[dict[str, Any]], model: EngineLM) -> list[bool]:
    """Whether greedy decoding stops after each target: "14" is not right where the answer is "1"."""
    if not samples:
        return []
    pairs = [model._encode_pair(*sample["arguments"][0]) for sample in samples]
    prompts = [(context + target)[-model.max_length :] for context, target in pairs]
    end = model.eot_token_id
    following = model.client.next_token(prompts, [[end]] * len(prompts)).greedy
    pattern = controls(model.tokenizer)
    texts = [model.tokenizer.decode([token]) for token in following]
    return [
        token == end or text.lstrip(" ").startswith("\n") or bool(pattern and pattern.fullmatch(text))
        for token, text in zip(following, texts, strict=True)
    ]


def _metric(task: SplitTask, samples: Sequence[dict[str, Any]]) -> str:
    """The task's first metric by which every item is between 0 (wrong) and 1 (right): one for all of its items."""
    for metric in right_metrics(task):
        values = [sample.get(metric) for sample in samples]
        if all(isinstance(value, (int, float, np.number)) and 0 <= value <= 1 for value in values):
            return metric
    raise EvaluationError(
        f"lm-eval's {task.config.task!r} scores its items by {', '.join(task.aggregation())}, none of which is between "
        "0 (wrong) and 1 (right) for all of them"
    )


def _gold(task: SplitTask, sample: dict[str, Any], model: EngineLM) -> float:
    responses = [response[0] for response in sample["filtered_resps"]]
    if task.OUTPUT_TYPE == "multiple_choice":
        return _gold_choice(task, sample, np.array(responses, dtype=np.float64))
    ((context, target),) = sample["arguments"]
    return responses[0] / len(model._encode_pair(context, target)[1])


def _gold_choice(task: SplitTask, sample: dict[str, Any], logprobs: np.ndarray) -> float:
    """Of the right choices' probability, renormalised over all choices."""
    choices = task.doc_to_choice(sample["doc"])
    # Some tasks ask each choice without its question as well; those answers come last.
    logprobs = logprobs[: len(choices)]
    gold = task.doc_to_text(sample["doc"]) if task.multiple_input else task.doc_to_target(sample["doc"])
    right = gold if isinstance(gold, list) else [gold]
    indices = [choices.index(one) if isinstance(one, str) else int(one) for one in right]
    return float(np.logaddexp.reduce(logprobs[indices]) - np.logaddexp.reduce(logprobs))


def _gold_of_generated(
    samples: dict[str, dict[str, Any]], tasks: dict[str, SplitTask], model: EngineLM, chat: bool
) -> dict[str, float]:
    """Log-probability per token of the right text, after the prompt that the model was to go on from."""
    pairs = []
    for item, sample in samples.items():
        task, doc = tasks[item], sample["doc"]
        target = task.doc_to_target(doc)
        if isinstance(target, int) and task.config.doc_to_choice is not None:
            target = task.doc_to_choice(doc)[target]
        # Of several right texts the first is taken.
        text = target[0] if isinstance(target, list) else target
        pairs.append(model._encode_pair(sample["arguments"][0][0], f"{_delimiter(task, chat)}{text}"))
    scores = model._loglikelihood_tokens([(None, context, target) for context, target in pairs])
    totals = (total for total, _ in scores)
    return {item: total / len(pair[1]) for item, total, pair in zip(samples, totals, pairs, strict=True)}


def _delimiter(task: SplitTask, chat: bool) -> str:
    """What stands in front of an answer: nothing where a chat template has begun the reply, as in lm-eval's choices."""
    begun = task.config.gen_prefix or ""
    return "" if chat and (not begun or begun[-1].isspace()) else str(task.config.target_delimiter)


def _by_tokens(items: list[Item], model: EngineLM) -> dict[str, tuple[float, float]]:
    """(accuracy, gold log-probability) of the pool's own examples, on the token ids that a fine-tune trains on."""
    requests = [(None, *item.tokens) for item in items if item.tokens is not None]
    scores = model._loglikelihood_tokens(requests)
    return {
        item.id: (float(greedy), total / len(response))
        for item, (_, _, response), (total, greedy) in zip(items, requests, scores, strict=True)
    }


def _hush() -> None:
    """lm-eval reports each step at level INFO; show its warnings only, unless somebody chose a level for it."""
    logger = logging.getLogger("lm_eval")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
