import io

import pytest
from rich.console import Console

from taskpgm_ray.report import summary
from taskpgm_ray.report.text import percent


def printed(data, files=None, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary(data, files))
    return console.export_text()


def test_the_end_of_a_run_names_mixture_verdict_and_files(report_data):
    data = report_data(6)
    path = "s3://bucket/[with_brackets]/" + "long/" * 30 + "report.html"
    text = printed(data, {"report": path})
    for task in data.mixture["tasks"]:
        assert task["name"] in text
        assert f"{task['count']:,}" in text
    assert "tau = 0.5" in text
    assert data.verdict in text
    assert path in "".join(text.split())  # folded at the terminal's edge, never cut, brackets kept


def test_heaviest_task_has_the_longest_bar(report_data):
    data = report_data(6)
    # The table comes first; the advice names tasks too.
    rows = {name: line for line in reversed(printed(data).splitlines()) for name in data.names if name in line}
    bars = {name: row.count("█") for name, row in rows.items()}
    heaviest = data.names[int(data.weights.argmax())]
    assert bars[heaviest] == 8
    assert min(bars.values()) < 8


def test_long_lists_are_cut_and_say_so(report_data):
    text = printed(report_data(60))
    assert "35 other tasks" in text
    assert "3 more in the report" in text


def test_without_a_search_only_the_mixture_is_shown(report_data):
    text = printed(report_data(6, trials=[], stages=[], verdict=""))
    assert "Trials" not in text
    assert "Mixture of demo" in text


def test_markup_in_names_is_shown_as_it_is(report_data):
    assert "[bold]x[/bold]" in printed(report_data(3, names=["[bold]x[/bold]", "b", "c"]))


@pytest.mark.parametrize("width", [40, 80, 160])
def test_no_figure_is_cut_at_any_width(report_data, width):
    data = report_data(6)
    text = printed(data, width=width)
    assert "…" not in text
    for task in data.mixture["tasks"]:
        assert percent(task["weight"]) in text
        assert f"{task['count']:,}" in text
    for trial in data.ranked_trials()[:12]:
        assert trial.gold_logprob is None or f"{trial.gold_logprob:.4f}" in text
    assert ("no room for: uniform, proportional" in text) == (width == 40)
