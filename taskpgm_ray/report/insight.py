"""What the report says of each task: share and interval, influence, partners, and a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from taskpgm_ray.report.clustering import labels
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.figures import COLOURS
from taskpgm_ray.report.page import Page, Section, note, paragraph
from taskpgm_ray.report.tables import Cell, table
from taskpgm_ray.report.text import MISSING, listed, number, percent

if TYPE_CHECKING:
    from taskpgm_ray.insight.tasks import TaskInsight

SENTENCES = 25
"""Tasks that have a sentence in Markdown."""
MOST_NAMES = 40
"""Tasks up to which the map has names."""
MOST_WORDS = 60
"""Tasks that have a sentence in the report."""
MOST_NAMED = 12
"""Tasks of a cluster that are named."""


def section(data: ReportData, page: Page) -> Section:
    """The table of tasks, the clusters, the map, and the sentences."""
    title = "What each task contributes"
    insight = data.insight
    if insight is None:
        return Section("insight", title, note("Not worked out: constraints tie groups of tasks together."))
    ordered = sorted(insight.tasks, key=lambda row: -row.weight)
    measured = any(row.search_lift is not None for row in ordered)
    panels = {
        "Tasks": table(_SHARES, [_shares(row) for row in ordered], "Share of each task, and how sure it is"),
        "Influence": table(
            [*_INFLUENCE, *[GAIN] * measured, HANGS],
            [[*_influence(row), *[_lift(row)] * measured, _hangs_on(row)] for row in ordered],
            "What each task contributes, and to what",
        ),
        "In words": "".join(paragraph(row.sentence) for row in ordered[:MOST_WORDS])
        + (note(f"`taskpgm explain` has the other {len(ordered) - MOST_WORDS}.") if len(ordered) > MOST_WORDS else ""),
        "Clusters": table(
            ["cluster", "share", "interval", "tasks"],
            [
                [str(k + 1), Cell(percent(c.weight), c.weight), _interval(c.low, c.high), listed(c.tasks, MOST_NAMED)]
                for k, c in enumerate(insight.clusters)
            ],
            "Tasks that behave alike, and their share together, which is better known than its split",
        ),
    }
    if len(data.tasks) > 2:
        panels["Map"] = page.figure(
            "map",
            _map(data),
            "Tasks as points: near each other where their adapters behave alike (the two directions that keep most "
            "of the distances, classical scaling of the square root of JSD), as large as their share, coloured by "
            "cluster.",
        )
    said = paragraph(insight.certainty) if insight.certainty else ""
    return Section("insight", title, said + page.tabs("insight", panels))


def markdown(data: ReportData) -> list[str]:
    """The same for the Markdown report."""
    if data.insight is None:
        return []
    ordered = sorted(data.insight.tasks, key=lambda row: -row.weight)[:SENTENCES]
    said = [data.insight.certainty] if data.insight.certainty else []
    return ["## What each task contributes", *said, "\n".join(f"- {row.sentence}" for row in ordered)]


_SHARES = ["task", "share", "interval", "in the mixture", "enters at tau", "leaves at tau", "most like it"]
_INFLUENCE = [
    *("task", "cost of dropping", "redundancy", "representativeness", "utility to enter", "novelty", "lift of others"),
]
GAIN = "gain on the search split"
HANGS = "hangs on its likeness to"


def _shares(row: TaskInsight) -> list[Cell | str]:
    return [
        row.name,
        Cell(percent(row.weight), row.weight),
        Cell(_interval(row.low, row.high), row.low, None if row.low is None else f"{row.low} to {row.high}"),
        Cell(MISSING if row.inclusion is None else percent(row.inclusion, 0), row.inclusion),
        _cell(row.enters),
        _cell(row.leaves),
        ", ".join(f"{name} ({affinity:.2f})" for name, affinity, _ in row.covered_by[:1]),
    ]


def _influence(row: TaskInsight) -> list[Cell | str]:
    return [
        row.name,
        _cell(row.drop_cost),
        _cell(row.redundancy),
        _cell(row.representativeness),
        _cell(row.break_even),
        _cell(row.novelty),
        _cell(row.helps_others),
    ]


def _hangs_on(row: TaskInsight) -> str:
    """The affinity that moves its weight most, and by how much where it is 0.01 higher."""
    if not row.hangs_on:
        return MISSING
    one, other, change = row.hangs_on[0]
    pair = (other if one == row.name else one) if row.name in (one, other) else f"{one} ~ {other}"
    return f"{pair} ({100 * change:+.2f}\u00a0%)"


def _cell(value: float | None) -> Cell:
    return Cell(number(value), value)


def _lift(row: TaskInsight) -> Cell:
    """With its standard error."""
    value, error = row.search_lift, row.search_lift_error
    return Cell(f"{number(value)} ± {number(error)}", value, None if error is None else f"{value} ± {error}")


def _interval(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"{percent(low)} to {percent(high)}"


def _map(data: ReportData) -> go.Figure:
    insight = data.insight
    assert insight is not None
    x, y = positions(np.asarray(data.divergence, dtype=float)).T
    weights = np.array([row.weight for row in insight.tasks])
    few = len(weights) <= MOST_NAMES
    figure = go.Figure(
        go.Scatter(
            x=x,
            y=y,
            mode="markers+text" if few else "markers",
            text=labels(data.names),
            textposition="top center",
            hovertext=labels([row.sentence for row in insight.tasks], width=400),
            hoverinfo="text",
            marker={
                "size": 8 + 32 * np.sqrt(weights / max(float(weights.max()), 1e-12)),
                "color": [COLOURS[row.cluster % len(COLOURS)] for row in insight.tasks],
                "opacity": 0.8,
            },
        )
    )
    figure.update_layout(
        height=520,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        showlegend=False,
        xaxis={"showticklabels": False, "zeroline": False},
        yaxis={"showticklabels": False, "zeroline": False, "scaleanchor": "x"},
    )
    return figure


def positions(divergence: np.ndarray) -> np.ndarray:
    """Classical scaling of the distances sqrt(JSD) to the plane [n, 2]."""
    squared = (divergence + divergence.T) / 2
    centred = squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    return np.asarray(vectors[:, -2:][:, ::-1] * np.sqrt(np.maximum(values[-2:][::-1], 0)))
