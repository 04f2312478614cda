"""The evaluator's process: where it looks for files that a config names by relative paths."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.evaluation import task_files
from taskpgm_ray.evaluation.evaluator import EvaluatorActor


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
