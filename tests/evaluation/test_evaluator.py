"""The evaluator's process: where it looks for files that a config names by relative paths."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.evaluation import task_files
from taskpgm_ray.evaluation.evaluator import EvaluatorActor, PoolClient, pieces


@pytest.mark.parametrize("folder", ["driver", "gone"])
def test_relative_paths_count_from_the_drivers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "driver").mkdir()
    (tmp_path / "worker").mkdir()
    (tmp_path / "driver" / "mine.yaml").write_text("task: mine\ndataset_path: org/name\n")
    monkeypatch.chdir(tmp_path / "worker")
    model: Any = SimpleNamespace(tokenizer=lambda: None, window=lambda most: most)
    pool: Any = None
    config = load_config({"study": "s", "pool": {"tasks": ["jsonl:x"]}, "finetune": {"steps": 1}})
    EvaluatorActor(model, pool, config, str(tmp_path / folder))
    # A driver outside of the cluster has a folder that is not there.
    expected = "driver" if folder == "driver" else "worker"
    assert Path(os.getcwd()).name == expected
    assert task_files.is_file("mine.yaml") == (expected == "driver")


def test_an_evaluation_goes_to_the_engines_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one question's choices have in common is read once, so they stay together; the answers come in order."""
    asked: list[list[list[int]]] = []

    def next_token(queries: Any) -> Any:
        asked.append([query.prompt for query in queries])
        return [np.array([-float(query.prompt[-1])]) for query in queries], [query.prompt[0] for query in queries]

    monkeypatch.setattr("ray.get", lambda answers: answers)
    prompts = [[question] * 10 + [choice] for question in range(1, 5) for choice in range(50, 53)]
    pool: Any = SimpleNamespace(next_token=next_token, generate=lambda _, some, *rest: [str(p[0]) for p in some])
    client = PoolClient(pool, None, 40)
    answer = client.next_token(prompts, [[7]] * len(prompts))
    assert [len(piece) for piece in asked] == [6, 6]
    assert answer.greedy == [prompt[0] for prompt in prompts]
    assert [float(row[0]) for row in answer.logprobs] == [-float(prompt[-1]) for prompt in prompts]
    assert client.generate(prompts, 3, []) == [str(prompt[0]) for prompt in prompts]


def test_pieces_cover_everything_once() -> None:
    prompts = [[number] * (number % 7 + 1) for number in range(50)]
    found = pieces(prompts, 10)
    assert [prompt for piece in found for prompt in prompts[piece]] == prompts
    assert all(sum(map(len, prompts[piece])) >= 10 for piece in found[:-1])
    assert pieces([[1]], 10) == [slice(0, 1)]
    assert pieces([], 10) == [slice(0, 0)]
