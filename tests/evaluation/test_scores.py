from __future__ import annotations

from dataclasses import asdict

import pytest

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import ItemScore, summarise


def test_tasks_count_equally_and_so_do_benchmarks() -> None:
    rows = [
        ItemScore("mmlu", "big", "1", 1.0, -1.0),
        ItemScore("mmlu", "big", "2", 1.0, -1.0),
        ItemScore("mmlu", "big", "3", 1.0, -1.0),
        ItemScore("mmlu", "small", "4", 0.0, -3.0),
        ItemScore("bbh", "only", "5", 0.0, -4.0),
    ]
    summary = summarise(rows)
    assert summary["benchmarks"]["mmlu"]["tasks"]["big"] == {"accuracy": 1.0, "gold_logprob": -1.0, "items": 3}
    assert summary["benchmarks"]["mmlu"]["accuracy"] == 0.5
    assert summary["accuracy"] == 0.25
    assert summary["gold_logprob"] == -3.0
    assert summary["items"] == 5


def test_seeds_are_averaged_and_items_counted_once() -> None:
    rows = [ItemScore("bbh", "t", "1", float(seed), -1.0 - seed, seed=seed) for seed in (0, 1)]
    summary = summarise(rows)
    assert (summary["accuracy"], summary["gold_logprob"], summary["items"]) == (0.5, -1.5, 1)


def test_nothing_to_summarise_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="nothing was evaluated"):
        summarise([])


def test_rows_survive_json() -> None:
    row = ItemScore("bbh", "t", "1", 1.0, -0.5, seed=3)
    assert ItemScore(**asdict(row)) == row
