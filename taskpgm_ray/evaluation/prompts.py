"""The prompts of single items, as the evaluation asks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.evaluation.items import Item
from taskpgm_ray.evaluation.splits import Split

Prompt = str | list[int]
"""The text up to where the answer begins; of the pool's examples the token ids."""


def prompts(split: Split, items: Sequence[Item], config: EvaluationConfig, model: Any, chat: bool) -> list[Prompt]:
    """What is asked of each of these items of a split, few-shot examples and chat template included.

    Args:
        split: Theirs.
        items: Some of its items.
        config: How benchmarks are asked.
        model: The bridge to the engine (`taskpgm_ray.evaluation.bridge.EngineLM`), which writes chats.
        chat: Whether prompts go through the chat template.
    """
    # lm-eval takes seconds to import.
    from taskpgm_ray.evaluation.tasks import ITEM, build_tasks

    tasks = build_tasks(
        split,
        mmlu_shots=config.shots("mmlu"),
        bbh_shots=config.shots("bbh"),
        chat=chat,
        bbh_answers=config.bbh_answers,
        lm_eval=config.lm_eval,
        only={item.id for item in items},
    )
    asked: dict[str, Prompt] = {item.id: item.tokens[0] for item in items if item.tokens is not None}
    for task in tasks.values():
        task.build_requests(model, chat)
        for request in task.instances:
            asked.setdefault(request.doc[ITEM], request.args[0])
    return [asked[item.id] for item in items]
