"""Which tasks carry a difference."""

from dataclasses import replace

import pytest

from taskpgm_ray.judge.rows import TaskScores
from taskpgm_ray.report.carriers import carriers, sentence, weighing


def rows(*differences, benchmark="bbh", whole=1.0):
    within = 1 / len(differences)
    return [
        TaskScores(benchmark, f"t{i}", 10, {
            name: {"gold_logprob": -1.0 + part, "accuracy": 0.5} for name, part in (("tau-1", gap), ("uniform", 0.0))
        }, whole * within, within)
        for i, gap in enumerate(differences)
    ]  # fmt: skip


def test_parts_add_up_to_the_difference_and_the_largest_comes_first(report_data):
    by_task = [*rows(0.4, -0.1, 0.1, benchmark="bbh", whole=0.5), *rows(0.2, benchmark="mmlu", whole=0.5)]
    data = replace(report_data(4), by_task=by_task)
    found = carriers(data)
    assert [one.name for one in found] == ["mmlu/t0", "bbh/t0", "bbh/t1", "bbh/t2"]
    assert sum(one.part for one in found) == pytest.approx((0.4 / 3 + 0.2) / 2)
    said = sentence(data)
    assert "The difference to uniform (+0.1667) is a sum over 4 tasks; the largest parts are mmlu/t0 +0.1000" in said
    assert said.endswith("and 1 of the tasks makes half of it.")


def test_weights_are_named(report_data):
    assert weighing(report_data(4)) == ""
    said = weighing(report_data(4, score_weights={"bbh": 2.0, "bbh/word_sorting": 0.0}))
    assert said == "Scores are weighted (evaluation.weights; 1 where nothing is named): bbh 2, bbh/word_sorting 0."


def test_one_task_may_carry_all(report_data):
    data = replace(report_data(4), by_task=rows(1.0, 0.01, 0.01, 0.01))
    assert "1 of the tasks makes half of it" in sentence(data)
    even = replace(report_data(4), by_task=rows(*[0.1] * 8))
    assert "4 of the tasks make half of it" in sentence(even)


def test_without_uniform_or_scores_nothing_is_said(report_data):
    assert sentence(replace(report_data(4), by_task=[])) == ""
    only = [replace(row, scores={"tau-1": row.scores["tau-1"]}) for row in rows(0.1, 0.2)]
    assert sentence(replace(report_data(4), by_task=only)) == ""
    assert sentence(replace(report_data(4), by_task=rows(0.0, 0.0))) == ""
