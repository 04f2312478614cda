from __future__ import annotations

from dataclasses import asdict

import pytest

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.evaluation.scores import check_weights, reweighted


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


ROWS = [
    ItemScore("mmlu", "law", "1", 1.0, -1.0),
    ItemScore("mmlu", "virology", "2", 0.0, -3.0),
    ItemScore("bbh", "boolean", "3", 0.0, -4.0),
    ItemScore("bbh", "sorting", "4", 1.0, -8.0),
]


def test_weights_of_benchmarks_and_tasks() -> None:
    summary = summarise(ROWS, {"bbh": 3.0, "bbh/sorting": 0.0, "mmlu/law": 2.0})
    assert summary["benchmarks"]["mmlu"]["gold_logprob"] == pytest.approx((2 * -1.0 - 3.0) / 3)
    assert summary["benchmarks"]["bbh"]["gold_logprob"] == -4.0
    assert summary["gold_logprob"] == pytest.approx((-5 / 3 + 3 * -4.0) / 4)
    assert summary["benchmarks"]["bbh"]["tasks"]["sorting"]["gold_logprob"] == -8.0


@pytest.mark.parametrize("weights", [{}, {"bbh": 0.0}, {"mmlu": 5.0, "mmlu/law": 0.5}])
def test_a_stored_summary_is_weighted_anew(weights: dict[str, float]) -> None:
    stored = summarise(ROWS, {"bbh": 7.0, "mmlu/virology": 0.0})
    assert reweighted(stored, weights) == summarise(ROWS, weights)


def test_of_one_benchmark_its_own_weight_does_not_count() -> None:
    assert summarise(ROWS[:2], {"mmlu": 0.0}) == summarise(ROWS[:2])


def test_weights_of_what_is_not_there_are_refused() -> None:
    tasks = [(row.benchmark, row.task) for row in ROWS]
    check_weights({"bbh": 0.0, "mmlu/law": 2.0}, tasks)
    with pytest.raises(EvaluationError, match=r"names 'bbh/sort', which is not evaluated; did you mean bbh/sorting"):
        check_weights({"bbh/sort": 2.0}, tasks)
    with pytest.raises(EvaluationError, match="did you mean bbh or mmlu"):
        check_weights({"zzz": 2.0}, tasks)
    with pytest.raises(EvaluationError, match="leaves nothing of bbh: boolean, sorting have weight 0"):
        check_weights({"bbh/boolean": 0.0, "bbh/sorting": 0.0}, tasks)
    with pytest.raises(EvaluationError, match="leaves nothing of the benchmarks: mmlu, bbh have weight 0"):
        check_weights({"bbh": 0.0, "mmlu": 0.0}, tasks)


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
