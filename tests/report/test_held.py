"""What the report says of constraints that bind and of examples that would be repeated."""

import io
from dataclasses import replace

from rich.console import Console

from taskpgm_ray.report.held import sentences
from taskpgm_ray.report.html import render
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.terminal import summary


def changed(data, **of_task):
    """The data with other entries of its tasks: field -> {position: value}."""
    tasks = [dict(task) for task in data.mixture["tasks"]]
    for field, values in of_task.items():
        for position, value in values.items():
            tasks[position][field] = value
    return replace(data, mixture=data.mixture | {"tasks": tasks})


def test_what_binds_and_what_is_repeated_is_said_everywhere(report_data):
    data = report_data(8)
    names = [task["name"] for task in data.mixture["tasks"]]
    data = changed(
        data,
        held_by={0: ["floor 0.25"], 2: ["floor 0.25"], 3: ["tasks.*.max 0.3", "tasks.*.max 0.3"]},
        epochs=dict.fromkeys(range(8), 4.0) | {1: 250.0},
    )
    first, second, third = sentences(data)
    assert first.startswith(f"The constraint floor 0.25 holds {names[0]} (")
    assert f", {names[2]} (" in first
    assert second.startswith(f"The constraint tasks.*.max 0.3 holds {names[3]} (")
    assert second.count(names[3]) == 1
    assert third.startswith(f"Each example would be used {names[1]} 250 times: repeats beyond 4 epochs")
    console = Console(width=2000, record=True, file=io.StringIO())
    console.print(summary(data))
    for text in (render(data), study_table(data, "command"), console.export_text()):
        for sentence in (first, second, third):
            assert sentence in text


def test_many_tasks_are_counted(report_data):
    data = report_data(30)
    data = changed(data, held_by={i: ["floor 0.5"] for i in range(30)}, epochs={})
    assert sentences(data)[0].endswith(" and 24 more.")


def test_nothing_binds(report_data):
    data = report_data(8)
    assert sentences(changed(data, epochs=dict.fromkeys(range(8), 1.0))) == []
