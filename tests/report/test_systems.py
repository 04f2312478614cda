"""What the report says of the base model, of every task before and after, and of what the models write."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from taskpgm_ray.report import render, summary
from taskpgm_ray.report.answers import right
from taskpgm_ray.report.before_after import before_and_after
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.system_scores import over_base, system_scores


def test_means_of_every_system_weigh_benchmarks_and_tasks(judged_data):
    data = judged_data(4)
    found = {row.system: row for row in system_scores(data)}
    assert list(found) == ["tau-0.5", "uniform", "proportional", "base model"]
    base = found["base model"]
    bbh = -1.3 - 0.01 * (0 + 1) / 2
    pool = -1.3 - 0.01 * (2 + 3 + 4 + 5) / 4
    assert [part["gold_logprob"] for part in base.benchmarks] == pytest.approx([bbh, pool])
    assert base.all["gold_logprob"] == pytest.approx((bbh + pool) / 2)
    assert base.all["accuracy"] == pytest.approx(0.2)
    assert system_scores(replace(data, by_task=[])) == []


def test_the_base_model_is_a_row_everywhere(judged_data):
    data = judged_data(4)
    page, text = render(data), study_table(data, "command")
    section = page[page.index('<section id="comparison">') :]
    assert section[: section.index("</section>")].count("<td>base model</td>") == 3
    assert text.count("| base model |") >= 3
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary(data))
    shown = " ".join(console.export_text().split())
    assert "The base model without fine-tuning is 0.0610 nats worse than this mixture" in shown
    assert over_base(data) in shown
    assert over_base(replace(data, over_base=[])) == ""


def test_every_task_before_and_after(judged_data):
    data = judged_data(4)
    rows = before_and_after(data)
    assert [row.task for row in rows] == data.names
    assert [round(row.mixture - row.base, 9) for row in rows] == [0.3] * 4
    assert [round(row.mixture - row.uniform, 9) for row in rows] == [0.1] * 4
    assert "None of 4 is worse than before" in render(data)
    without = [replace(row, scores={k: v for k, v in row.scores.items() if k != "uniform"}) for row in data.by_task]
    assert before_and_after(replace(data, by_task=without))[0].uniform is None
    assert "evaluation.own_tasks=true" in render(replace(data, by_task=[]))
    worse = [
        replace(row, scores=row.scores | {"tau-0.5": {"gold_logprob": -9.0, "accuracy": 0.0}}) for row in data.by_task
    ]
    assert "4 of 4 are worse than before" in render(replace(data, by_task=worse))


@pytest.mark.parametrize(
    ("written", "target", "is_right"),
    [
        (" B\nQ", "B. the ulna", True), ("Because", "B. the ulna", False), ("14", "1", False), ("1.", "1", True),
        ("yes, it is", "Yes", True), ("", "Yes", False), ("(A) is", "(A)", True), ("A", "A. B. C.", True),
    ],
)  # fmt: skip
def test_right_answers_are_told_from_longer_words(written, target, is_right):
    assert right(written, target) is is_right


def test_answers_are_shown_with_their_prompts(judged_data):
    page = render(judged_data(4))
    section = page[page.index('<section id="answers">') :]
    section = section[: section.index("</section>")]
    assert "Do you return?" in section
    assert section.count('class="good lines"') == 2
    assert "(nothing)" in section
    assert "evaluation.samples=3" in render(replace(judged_data(4), samples=[]))
