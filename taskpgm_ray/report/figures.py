"""The mixture and its path over the balance, and what all figures share. Each function makes one figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from taskpgm_ray.report.clustering import labels
from taskpgm_ray.report.data import ReportData

COLOURS = (
    "#2f7ed8", "#ef8636", "#2ca58d", "#d1495b", "#8e6bbf", "#c9a227",
    "#4bb3d3", "#a3586d", "#7a9e3b", "#5567c9", "#b5714b", "#8b95a5",
)  # fmt: skip
MAIN, BARS, OTHERS = COLOURS[0], "#7fb2e8", "#a8b0bd"
INK = "#11151c"
"""Stands for the colour of text: the page replaces it, also in dark mode."""
BASELINE_COLOURS = ("#e8590c", INK, "#2f9e77", "#9c36b5", "#c9a227", "#8b95a5")
MOST_ROWS = 40
"""Tasks up to which the mixture is drawn as one labelled row per task."""
MOST_BARS = 200
"""Bars of the mixture beyond which only the heaviest tasks are drawn."""
MOST_BANDS = 11
"""Tasks that the path shows by name; the rest is one band."""


def mixture_bars(data: ReportData) -> go.Figure:
    """The mixture as bars, heaviest task first, with a tick for each baseline."""
    order = np.argsort(-data.weights, kind="stable")[:MOST_BARS]
    upright = len(order) > MOST_ROWS
    names = labels(data.names)
    categories = [names[i] for i in order]

    def placed(weights: np.ndarray) -> dict[str, Any]:
        shares = 100 * np.asarray(weights, dtype=float)[order]
        return {"x": categories, "y": shares} if upright else {"x": shares, "y": categories}

    value = "%{y:.2f}" if upright else "%{x:.2f}"
    figure = go.Figure(
        go.Bar(
            **placed(data.weights),
            orientation="v" if upright else "h",
            name="mixture",
            marker={"color": BARS, "line": {"width": 0}},
            hovertemplate=f"mixture {value} %<extra></extra>",
        )
    )
    for (name, weights), colour in zip(data.baselines.items(), BASELINE_COLOURS * len(data.baselines), strict=False):
        figure.add_scatter(
            **placed(weights),
            mode="markers",
            name=labels([name])[0],
            marker={
                "symbol": "line-ew-open" if upright else "line-ns-open",
                "size": 4 if upright else 13,
                "color": colour,
                "line": {"width": 2.5, "color": colour},
            },
            hovertemplate=f"{labels([name])[0]} {value} %<extra></extra>",
        )
    shares = {"title": {"text": "share of the mixture (%)"}, "rangemode": "tozero"}
    tasks = {"type": "category", "automargin": True, "showgrid": False}
    if upright:
        whole = {"range": [-0.5, len(order) - 0.5]}
        figure.update_layout(xaxis={**tasks, **whole, "tickangle": -60}, yaxis=shares, hovermode="x")
    else:
        whole = {"range": [len(order) - 0.5, -0.5]}
        figure.update_layout(xaxis=shares, yaxis={**tasks, **whole}, hovermode="y")
    return finish(figure, 440 if upright else 130 + 26 * len(order))


def path_bands(data: ReportData) -> go.Figure:
    """The mixture over the balance as stacked bands, with the chosen balance and the trials' balances marked."""
    assert data.path_tau is not None
    assert data.path_weights is not None
    tau, weights = _visible_path(data)
    # The tasks that matter somewhere in the visible range, the widest band at the bottom.
    order = np.argsort(-weights.mean(axis=0), kind="stable")
    shown, rest = (order, order[:0]) if len(order) <= MOST_BANDS + 1 else (order[:MOST_BANDS], order[MOST_BANDS:])
    names = labels(data.names)
    bands = [(names[i], weights[:, i], COLOURS[k % len(COLOURS)]) for k, i in enumerate(shown)]
    if len(rest):
        bands.append((f"{len(rest)} other tasks", weights[:, rest].sum(axis=1), OTHERS))
    figure = go.Figure()
    for name, shares, colour in bands:
        figure.add_scatter(
            x=tau,
            y=100 * shares,
            name=name,
            stackgroup="mixture",
            mode="lines",
            line={"width": 0.5, "color": colour},
            fillcolor=colour,
            hovertemplate="%{y:.1f} %",
        )
    candidates = data.path_tried
    if candidates:
        figure.add_scatter(
            x=candidates,
            y=[101.5] * len(candidates),
            mode="markers",
            name="trials",
            marker={"symbol": "triangle-down", "size": 9, "color": INK},
            cliponaxis=False,
            hovertemplate="trial at tau %{x:.3g}<extra></extra>",
        )
    if data.tau is not None:
        figure.add_vline(
            x=data.tau,
            line={"width": 2, "color": INK},
            annotation={"text": f"chosen: tau = {data.tau:.3g}", "yref": "paper", "y": 1.0, "yanchor": "bottom"},
        )
    figure.update_layout(
        hovermode="x unified",
        xaxis={"title": {"text": "balance tau = n·beta/lambda"}, "range": [float(tau[0]), float(tau[-1])]},
        yaxis={"title": {"text": "share of the mixture (%)"}, "range": [0, 103], "showgrid": False},
        legend={"orientation": "v", "x": 1.02, "y": 1, "traceorder": "reversed"},
    )
    return finish(figure, 460, top=34)


def _visible_path(data: ReportData) -> tuple[np.ndarray, np.ndarray]:
    """The path up to a little beyond the chosen balance and the trials; the far end is one task and says nothing."""
    assert data.path_tau is not None
    assert data.path_weights is not None
    last = 1.15 * max([2.0, data.tau or 0.0, *data.path_tried])
    tau, weights = np.asarray(data.path_tau, dtype=float), np.asarray(data.path_weights, dtype=float)
    if tau[-1] <= last:
        return tau, weights
    kept = tau < last
    end = np.array([np.interp(last, tau, column) for column in weights.T])
    return np.append(tau[kept], last), np.vstack([weights[kept], end])


def finish(figure: go.Figure, height: int, top: int = 40) -> go.Figure:
    """What all figures share. Colours of text and grid come from the page, which knows light and dark."""
    figure.update_layout(
        height=height,
        margin={"l": 10, "r": 10, "t": top, "b": 10},
        bargap=0.35,
    )
    if figure.layout.legend.orientation is None:
        figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "top", "yref": "container"})
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
