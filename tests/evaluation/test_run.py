from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import EvaluationSets, NextToken, Split, evaluate, prepare, summarise
from taskpgm_ray.evaluation.run import _metric
from taskpgm_ray.evaluation.tasks import ITEM
from taskpgm_ray.storage import Storage

from .helpers import ConstantClient, HFClient


@pytest.fixture
def sets(folder: Path, tmp_path: Path) -> EvaluationSets:
    config = EvaluationConfig(data=str(folder), report_items_per_subject=6)
    return prepare(config, 0, Storage(str(tmp_path / "study")))


@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_item_scores_equal_lm_eval_on_the_hugging_face_model(
    sets: EvaluationSets, model: Any, tokenizer: Any, num_fewshot: int
) -> None:
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    from taskpgm_ray.evaluation.tasks import build_tasks

    client = HFClient(model, tokenizer)
    rows = evaluate(sets.report, client, tokenizer, config=EvaluationConfig(num_fewshot=num_fewshot), max_length=500)
    assert len(client.calls) == 1
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu", max_length=500)
    tasks = {f"{b}_{name}": task for (b, name), task in build_tasks(sets.report, mmlu_shots=num_fewshot).items()}
    samples = evaluator.evaluate(lm=theirs, task_dict={"tasks": tasks, "groups": {}}, bootstrap_iters=0)["samples"]
    want = [sample for name in tasks for sample in samples[name]]
    assert [row.item for row in rows] == [sample["doc"][ITEM] for sample in want]
    assert [row.item for row in rows] == [item.id for item in sets.report.items()]
    assert [row.accuracy for row in rows] == [sample["acc"] for sample in want]
    for row, sample in zip(rows, want, strict=True):
        responses = [response[0] for response in sample["filtered_resps"]]
        doc, chances = sample["doc"], np.exp(responses) / np.exp(responses).sum()
        # BBH's questions here are answered by True or False.
        right = doc["answer"] if row.benchmark == "mmlu" else ["True", "False"].index(doc["target"])
        assert row.gold_logprob == pytest.approx(math.log(chances[right]), abs=1e-4)
    assert {row.accuracy for row in rows if row.benchmark == "mmlu"} == {0.0, 1.0}


def test_known_scores_of_a_constant_model(sets: EvaluationSets, tokenizer: Any) -> None:
    rows = evaluate(sets.search, ConstantClient(), tokenizer, seed=7)
    assert {row.seed for row in rows} == {7}
    assert {row.benchmark: row.gold_logprob for row in rows} == pytest.approx(
        {"mmlu": -math.log(4), "bbh": -math.log(2)}, abs=1e-6
    )
    summary = summarise(rows)
    assert summary["items"] == len(sets.search.items()) == 10
    assert summary["gold_logprob"] == pytest.approx(-(math.log(4) + math.log(2)) / 2, abs=1e-6)


def test_an_evaluation_asks_its_own_split_only(sets: EvaluationSets, tokenizer: Any) -> None:
    client = ConstantClient()
    rows = evaluate(sets.search, client, tokenizer)
    theirs = {item.id for item in sets.report.items()}
    assert not theirs & {row.item for row in rows}
    asked = "\n".join(tokenizer.decode(prompt) for prompt in client.prompts)
    assert all(item.question in asked for item in sets.search.items())
    assert not any(item.question in asked for item in sets.report.items())


def test_a_search_trial_that_would_read_the_report_split_raises(sets: EvaluationSets, tokenizer: Any) -> None:
    client = ConstantClient()
    with pytest.raises(EvaluationError, match="is the report split and cannot be read as the search split"):
        evaluate(Split("search", sets.report.storage, sets.report.path), client, tokenizer)
    assert client.prompts == []


def test_chat_prompts(sets: EvaluationSets, tokenizer: Any) -> None:
    client = ConstantClient()
    evaluate(sets.search, client, tokenizer, config=EvaluationConfig(num_fewshot=1), apply_chat_template=True)
    first = tokenizer.decode(client.prompts[0])
    assert first.startswith("<system>The following are multiple choice questions (with answers) about subject 0.")
    assert first.count("<user>") == 2
    assert first.endswith("Answer:\n<assistant>")


def scored_by(**higher: bool | None) -> Any:
    return SimpleNamespace(
        aggregation=lambda: dict.fromkeys(higher), higher_is_better=lambda: higher, config=SimpleNamespace(task="t")
    )


def test_accuracy_is_one_metric_of_a_task_that_is_better_when_higher() -> None:
    """crows_pairs' difference in likelihood is between 0 and 1 for some items; an error rate is so for all."""
    samples = [{"diff": 0.4, "wer": 0.9, "acc": 1.0}, {"diff": 7.3, "wer": 0.0, "acc": 0.0}]
    assert _metric(scored_by(wer=False, acc=True), samples) == "acc"
    assert _metric(scored_by(diff=True, acc=True), samples) == "acc"
    with pytest.raises(EvaluationError, match="'t' scores its items by diff, none of which is between 0"):
        _metric(scored_by(diff=True), samples)
    for unknown in (False, None):
        with pytest.raises(EvaluationError, match="of which none is said to be better when it is higher"):
            _metric(scored_by(wer=unknown), samples)


def test_cut_prompts_are_counted(sets: EvaluationSets, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = ConstantClient()
    evaluate(sets.search, client, tokenizer, max_length=30)
    assert max(map(len, client.prompts)) == 30
    assert "evaluation requests were longer than 30 tokens and cut on the left" in caplog.text


def test_nothing_but_log_probabilities_is_taken(sets: EvaluationSets, tokenizer: Any) -> None:
    class Broken(ConstantClient):
        def next_token(self, prompts: list[list[int]], tokens: list[list[int]]) -> NextToken:
            answer = super().next_token(prompts, tokens)
            answer.logprobs[2][0] = np.nan
            return answer

    with pytest.raises(EvaluationError, match=r"request 2: .* are no log-probabilities"):
        evaluate(sets.search, Broken(), tokenizer)


OFFLINE = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the network was touched")

socket.socket.connect = socket.getaddrinfo = refuse
import taskpgm_ray.evaluation
heavy = [name for name in ("lm_eval", "torch", "datasets", "transformers", "ray", "scipy") if name in sys.modules]
assert not heavy, heavy
from evaluation.helpers import ConstantClient, tiny_tokenizer
from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.storage import Storage

sets = taskpgm_ray.evaluation.prepare(EvaluationConfig(), 0, Storage(sys.argv[1]))
rows = taskpgm_ray.evaluation.evaluate(sets.report, ConstantClient(), tiny_tokenizer())
assert len(rows) == 160, len(rows)
"""


def test_exemplars_need_no_network_and_say_nothing(tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path / "empty"), "PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OFFLINE, str(tmp_path / "study")],
        check=False,
        capture_output=True,
        text=True,
        env=home,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "empty" / "datasets").exists()
