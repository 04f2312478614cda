"""Heat maps over pairs of tasks (or adapters and tasks), in clustered order. Each function makes one figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from taskpgm_ray.report.clustering import Clustering, blocks, labels
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import percent

if TYPE_CHECKING:
    from taskpgm_ray.insight.tasks import ClusterInsight, TaskInsight

MOST_NUMBERS = 14
"""Tasks up to which every cell of a heat map shows its number."""
_TREE = 0.12
"""Share of the height that the clustering tree takes."""


def affinity(data: ReportData, clustering: Clustering) -> go.Figure:
    """S with the clustering tree above it, and what the mixture gives to each cluster of tasks."""
    low = min(0.0, float(data.affinity.min()))
    figure = _heat_map(data.affinity, data, clustering, "affinity", low=low, high=1.0)
    if data.insight is not None and len(figure.data[0].x) == len(clustering.order):
        _draw_clusters(figure, data.insight.tasks, data.insight.clusters, clustering.order)
    return figure


def divergence(data: ReportData, clustering: Clustering) -> go.Figure:
    """Mean JSD in nats with the clustering tree above it."""
    return _heat_map(data.divergence, data, clustering, "JSD (nats)", low=0.0, high=None)


def gains(table: np.ndarray, name: str, data: ReportData, clustering: Clustering) -> go.Figure:
    """PMI or lift [n, n] in nats: rows are adapters, columns are the tasks whose probes they predict."""
    reach = float(np.abs(table).max()) or 1.0
    figure = _heat_map(table, data, clustering, f"{name} (nats)", low=-reach, high=reach)
    figure.update_traces(
        meta="diverging", hovertemplate=f"adapter %{{y}}<br>probes of %{{x}}<br>{name} %{{z:.4f}} nats<extra></extra>"
    )
    return figure


def coverage(data: ReportData, clustering: Clustering) -> go.Figure:
    """Mean probability mass on the support: rows are the base model and the adapters, columns are tasks."""
    assert data.coverage is not None
    columns = clustering.order
    # Adapters follow the order of their tasks where the rows are base + tasks; anything else keeps its own order.
    paired = data.coverage_names[1:] == data.names
    rows = [0, *(i + 1 for i in columns)] if paired else list(range(len(data.coverage)))
    cells, column_labels = _cells(data.coverage[:, columns], data.names, columns, axis=1, reduce=np.min)
    cells, row_labels = _cells(cells[rows], data.coverage_names, rows, axis=0, reduce=np.min)
    trace = go.Heatmap(
        z=cells.astype(np.float32),
        x=column_labels,
        y=row_labels,
        zmin=min(0.9, float(cells.min())),
        zmax=1.0,
        meta="sequential",
        colorbar={"title": {"text": "mass"}, "thickness": 12, "outlinewidth": 0},
        hovertemplate="adapter %{y}<br>probes of %{x}<br>mass on the support %{z:.4f}<extra></extra>",
    )
    return _square(go.Figure(trace), len(column_labels), len(row_labels), tree=False)


def _heat_map(
    matrix: np.ndarray, data: ReportData, clustering: Clustering, quantity: str, *, low: float, high: float | None
) -> go.Figure:
    order = clustering.order
    cells, names = _cells(matrix[np.ix_(order, order)], data.names, order, axis=0)
    cells, _ = _cells(cells, data.names, order, axis=1)
    numbers: dict[str, Any] = {"texttemplate": "%{z:.2f}"} if len(names) <= MOST_NUMBERS else {}
    trace = go.Heatmap(
        z=cells.astype(np.float32),
        x=names,
        y=names,
        zmin=low,
        zmax=high if high is not None else float(cells.max()),
        meta="sequential",
        colorbar={
            "title": {"text": quantity},
            "thickness": 12,
            "outlinewidth": 0,
            "len": 1 - _TREE,
            "y": 0,
            "yanchor": "bottom",
        },
        hovertemplate="%{y}<br>%{x}<br>" + quantity + " %{z:.4f}<extra></extra>",
        **numbers,
    )
    figure = go.Figure(trace)
    if clustering.branches:
        tree = _tree_path(clustering, blocks(len(order))[0].stop)
        figure.add_shape(type="path", path=tree, xref="x", yref="paper", line={"color": "#8a94a6", "width": 1})
    return _square(figure, len(names), len(names), tree=True)


def _draw_clusters(
    figure: go.Figure, tasks: Sequence[TaskInsight], clusters: Sequence[ClusterInsight], order: Sequence[int]
) -> None:
    """Frames around the clusters of more than one task, their shares beside them."""
    start = 0
    for k, run in groupby(order, key=lambda i: tasks[i].cluster):
        stop = start + len(list(run))
        if stop - start > 1:
            ends = {"x0": start - 0.5, "x1": stop - 0.5, "y0": start - 0.5, "y1": stop - 0.5}
            figure.add_shape(type="rect", **ends, line={"color": "#c2410c", "width": 2})
            # Where the tree's order parts a cluster, each part has the whole one's share.
            figure.add_annotation(
                text=percent(clusters[k].weight, 0),
                hovertext=f"share of cluster {k + 1}, {len(clusters[k].tasks)} tasks",
                x=1,
                xref="paper",
                xanchor="left",
                y=(start + stop - 1) / 2,
                showarrow=False,
                font={"color": "#c2410c", "size": 11},
            )
        start = stop
    figure.update_traces(colorbar_x=1.07)


def _tree_path(clustering: Clustering, tasks: int) -> str:
    """The clustering tree as one SVG path; x counts cells of so many tasks, so that it follows a reader's zoom."""
    scale, base = _TREE - 0.01, 1 - _TREE + 0.005
    return "".join(
        "M"
        + "L".join(
            f"{(x + 0.5) / tasks - 0.5:g},{base + scale * h:.5f}" for x, h in zip(positions, heights, strict=True)
        )
        for positions, heights in clustering.branches
    )


def _cells(
    matrix: np.ndarray, names: list[str], order: list[int], *, axis: int, reduce: Callable[..., Any] = np.mean
) -> tuple[np.ndarray, list[str]]:
    """Join neighbouring tasks along one axis where there are too many to draw, and label the cells."""
    runs = blocks(len(order))
    all_labels = labels(names)
    if len(runs) == len(order):
        return matrix, [all_labels[i] for i in order]
    joined = np.stack([reduce(np.take(matrix, range(r.start, r.stop), axis=axis), axis=axis) for r in runs], axis=axis)
    return joined, [f"{all_labels[order[r.start]]} and {r.stop - r.start - 1} more" for r in runs]


def _square(figure: go.Figure, columns: int, rows: int, *, tree: bool) -> go.Figure:
    """Size by the number of tasks, first task at the top left; Plotly thins the labels by itself as room allows."""
    axis = {"type": "category", "showgrid": False, "zeroline": False, "automargin": True, "ticks": ""}
    # Slanted labels below take room of their own, so that few tasks with long names still get square-ish cells.
    below = 8 + 6.2 * max(len(label) for label in figure.data[0].x) if columns > 4 else 30
    cells = min(760, max(150, 36 * rows))
    figure.update_layout(
        height=int(cells / (1 - _TREE if tree else 1) + below + 40),
        margin={"l": 10, "r": 10, "t": 34, "b": 10},
        xaxis={**axis, "tickangle": -60 if columns > 4 else 0},
        yaxis={**axis, "autorange": "reversed", "domain": [0, 1 - _TREE if tree else 1]},
    )
    return figure
