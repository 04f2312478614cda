"""Shares, intervals and influence of tasks in the report, in Markdown, in the terminal and on the command line."""

import dataclasses
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from taskpgm_ray.cli import main
from taskpgm_ray.insight.tasks import explain
from taskpgm_ray.mrf import solve
from taskpgm_ray.report.clustering import Clustering
from taskpgm_ray.report.html import render
from taskpgm_ray.report.insight import positions
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.matrices import affinity
from taskpgm_ray.report.terminal import summary
from taskpgm_ray.report.text import percent


@pytest.fixture
def explained(report_data):
    def make(n):
        data = report_data(n)
        names = [task["name"] for task in data.mixture["tasks"]]
        insight = explain(names, data.affinity, solve(data.affinity, 0.8), None, data.lift)
        return replace(data, insight=replace(insight, certainty="The data do not distinguish this mixture."))

    return make


@pytest.mark.parametrize("n", [2, 8, 120])
def test_every_task_is_in_the_report(explained, n):
    data = explained(n)
    page = render(data)
    section = page[page.index('<section id="insight">') :]
    assert "The data do not distinguish this mixture." in section
    for row in sorted(data.insight.tasks, key=lambda row: -row.weight)[:60]:
        assert row.sentence.replace("'", "&#x27;") in section
    assert ("`taskpgm explain` has the other 60." in section) == (n == 120)
    assert ('"figure-map"' in page) == (n > 2)


def test_clusters_are_framed_on_the_heat_map_with_their_shares(explained):
    data = explained(8)
    cluster = [row.cluster for row in data.insight.tasks]
    order = sorted(range(8), key=lambda i: cluster[i])
    figure = affinity(data, Clustering(order, []))
    framed = [c for c in data.insight.clusters if len(c.tasks) > 1]
    assert framed
    assert len(figure.layout.shapes) == len(figure.layout.annotations) == len(framed)
    for shape, note, one in zip(figure.layout.shapes, figure.layout.annotations, framed, strict=True):
        names = [data.names[order[k]] for k in range(int(shape.x0 + 0.5), int(shape.x1 + 0.5))]
        assert sorted(names) == sorted(one.tasks)
        assert note.text == percent(one.weight, 0)


def test_what_adapters_gain_on_the_search_split_is_a_column_where_it_was_measured(explained):
    data, title = explained(8), "gain on the search split"
    assert title not in render(data)
    tasks = tuple(replace(row, search_lift=0.123, search_lift_error=0.0456) for row in data.insight.tasks)
    page = render(replace(data, insight=replace(data.insight, tasks=tasks)))
    assert page.count(title) == 1
    assert page.count(">0.123 ± 0.0456<") == 8
    assert page.count('data-sort="0.123" data-csv="0.123 ± 0.0456"') == 8


def test_downloads_hold_both_ends_of_intervals(explained):
    """A download had the number that a column sorts by in place of its text: the lower end alone."""
    data = explained(8)
    tasks = tuple(replace(row, low=0.01234, high=0.25678) for row in data.insight.tasks)
    page = render(replace(data, insight=replace(data.insight, tasks=tasks)))
    assert page.count('data-sort="0.01234" data-csv="0.01234 to 0.25678">1.2\u00a0% to 25.7\u00a0%<') == 8


def test_markdown_and_the_terminal(explained):
    data = explained(8)
    text = study_table(data, "command")
    assert "## What each task contributes" in text
    assert f"- {data.insight.tasks[0].sentence}" in text
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(summary(data))
    assert "The data do not distinguish this mixture." in console.export_text()


def test_without_it_the_report_says_why(report_data):
    assert "Not worked out: constraints tie groups of tasks together." in render(report_data(8))


def test_the_map_keeps_the_distances_of_points_in_a_plane():
    points = np.random.default_rng(0).normal(size=(12, 2))
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    found = positions(squared)
    np.testing.assert_allclose(((found[:, None] - found[None]) ** 2).sum(-1), squared, atol=1e-10)


def test_one_task_alone_has_no_novelty(explained, tmp_path, capsys, monkeypatch):
    """It was printed as infinity, and ``--json`` was no JSON; what earlier versions wrote is read as well."""
    monkeypatch.setenv("COLUMNS", "200")
    data = explained(8)
    insight = explain(data.names, data.affinity, solve(data.affinity, 200.0), None)
    only = max(insight.tasks, key=lambda row: row.weight)
    assert (only.weight, only.novelty) == (1, None)
    page = render(replace(data, insight=insight))
    section = page[page.index('<section id="insight">') : page.index('<section id="affinity">')]
    assert "inf<" not in section
    for text in (
        json.dumps(insight.as_json()),
        json.dumps(insight.as_json()).replace('"novelty": null', '"novelty": Infinity'),
    ):
        (tmp_path / "insight.json").write_text(text)
        assert main(["explain", str(tmp_path), only.name, "--json"]) == 0
        out = capsys.readouterr().out
        assert json.loads(out, parse_constant=pytest.fail)[0]["novelty"] is None
    (tmp_path / "insight.json").write_text(json.dumps(insight.as_json()))
    assert main(["explain", str(tmp_path), only.name]) == 0
    assert "what no others have" not in capsys.readouterr().out


def test_explain_prints_a_sentence_and_every_number(explained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    data = explained(8)
    (tmp_path / "insight.json").write_text(json.dumps(data.insight.as_json()))
    first = data.insight.tasks[0]
    assert main(["explain", str(tmp_path), first.name]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(first.sentence)
    shown = dataclasses.asdict(first)
    assert f"{first.representativeness:+.3g} by utility" in out
    for name, alike, share in shown["covered_by"]:
        assert f"{name}: affinity {alike:.2g}, share {100 * share:.1f}\u00a0%" in out
    for name, more in shown["gainers"]:
        assert f"{name}: {100 * more:+.1f} points" in out
    assert "The data do not distinguish this mixture." in err
    assert main(["explain", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert main(["explain", str(tmp_path), "task_00*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"].startswith("task_00")
    assert main(["explain", str(tmp_path), "stranger"]) == 4
    assert "none of the study's tasks is called stranger; there are:" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "nowhere")]) == 4
    assert "is not the folder of a finished study" in capsys.readouterr().err
