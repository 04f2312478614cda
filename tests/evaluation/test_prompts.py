"""What is shown as a question is what the evaluation asks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taskpgm_ray.config import EvaluationConfig, load_config
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import EvaluationSets, evaluate, evaluator, prepare
from taskpgm_ray.evaluation.bridge import EngineLM
from taskpgm_ray.evaluation.evaluator import EvaluatorActor
from taskpgm_ray.evaluation.prompts import prompts
from taskpgm_ray.storage import Storage

from .helpers import HFClient


@pytest.fixture
def sets(folder: Path, tmp_path: Path) -> EvaluationSets:
    return prepare(EvaluationConfig(data=str(folder)), 0, Storage(str(tmp_path / "study")))


@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_the_prompts_are_those_of_the_evaluation(
    sets: EvaluationSets, model: Any, tokenizer: Any, num_fewshot: int
) -> None:
    config = EvaluationConfig(num_fewshot=num_fewshot)
    client = HFClient(model, tokenizer)
    evaluate(sets.report, client, tokenizer, config=config)
    asked = {tuple(prompt) for prompt in client.calls[0][0]}
    bridge = EngineLM(client, tokenizer)
    items = sets.report.items()[::3]
    found = prompts(sets.report, items, config, bridge, chat=False)
    assert len(found) == len(items) > 3
    for item, prompt in zip(items, found, strict=True):
        assert item.question in str(prompt)
        assert tuple(bridge.prompt_ids(str(prompt), 8)) in asked
    chat = prompts(sets.report, items[:1], config, bridge, chat=True)
    assert str(chat[0]).endswith("<assistant>")


def test_answers_are_greedy_texts_after_the_prompts(
    sets: EvaluationSets, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = HFClient(model, tokenizer)
    monkeypatch.setattr(evaluator, "PoolClient", lambda *arguments: client)
    config = load_config({"study": "s", "pool": {"tasks": ["jsonl:x"]}, "finetune": {"steps": 1}})
    base: Any = SimpleNamespace(tokenizer=lambda: tokenizer, window=lambda most: 500)
    pool: Any = None
    actor = EvaluatorActor(base, pool, config)
    items = sets.report.items()[:2]
    told = actor.answers(None, sets.report, [item.id for item in items], 8)
    bridge = EngineLM(client, tokenizer)
    for item, (question, answer) in zip(items, told, strict=True):
        assert item.question in question
        assert answer == client.generate([bridge.prompt_ids(question, 8)], 8, [])[0]
    with pytest.raises(EvaluationError, match="search split"):
        actor.answers(None, sets.search, [], 8)
