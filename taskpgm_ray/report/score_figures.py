"""The scores of the trials and the comparison with the baselines. Each function makes one figure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from taskpgm_ray.report.clustering import labels
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.figures import BASELINE_COLOURS, COLOURS, finish
from taskpgm_ray.report.text import METRICS, is_accuracy, metric_name

if TYPE_CHECKING:
    from taskpgm_ray.judge.comparisons import Comparison
    from taskpgm_ray.search.choice import FittedCurve


VERDICTS = {"better": "#2ca58d", "worse": "#d1495b"}
"""Verdict -> its colour; others are grey."""


def scores(data: ReportData) -> go.Figure:
    """Score of each trial against its balance, a panel for each metric; the baselines are horizontal lines."""
    metrics = [m for m in dict.fromkeys((data.metric, "gold_logprob", "accuracy")) if _scored(data, m)]
    figure = make_subplots(cols=len(metrics), rows=1, subplot_titles=[metric_name(m) for m in metrics])
    for column, metric in enumerate(metrics, start=1):
        scale = 100 if is_accuracy(metric) else 1
        lines, baselines = _by_family(data, metric), _by_baseline(data, metric)
        first, where = column == 1, {"row": 1, "col": column}
        hover = "tau %{x:.3g}<br>%{y:.4g}"
        for (family, mixtures), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
            _line(figure, family, mixtures, colour, scale, first, where)
        tried = [tau for mixtures in lines.values() for tau, _ in mixtures]
        if data.curve is not None and metric == data.metric:
            _band(figure, data.curve, scale, first, where)
        left, right = min(tried, default=0.0), max(tried, default=1.0)
        chosen_baselines = {t.name for t in data.trials if t.winner and t.kind == "baseline"}
        for (name, values), colour in zip(baselines.items(), BASELINE_COLOURS * len(baselines), strict=False):
            mean = scale * float(np.mean(values))
            figure.add_scatter(
                x=[left, right if right > left else left + 1],
                y=[mean, mean],
                mode="lines",
                name=labels([name])[0] + (" (chosen)" if name in chosen_baselines else ""),
                line={"color": colour, "width": 4 if name in chosen_baselines else 2, "dash": "dash"},
                legendgroup=name,
                showlegend=first,
                hovertemplate=f"{labels([name])[0]} %{{y:.4g}}<extra></extra>",
                **where,
            )
        best = [(t.tau, t.value(metric)) for t in data.trials if t.winner and t.kind == "balance"]
        values = [value for _, value in best if value is not None]
        if values:
            figure.add_scatter(
                x=[best[0][0]],
                y=[scale * float(np.mean(values))],
                mode="markers",
                name="chosen",
                marker={"symbol": "star", "size": 17, "color": "#e0a100", "line": {"width": 1, "color": "#fff"}},
                legendgroup="chosen",
                showlegend=first,
                hovertemplate=hover + "<extra>chosen</extra>",
                **where,
            )
        figure.update_xaxes(title={"text": "balance tau"}, **where)
        figure.update_yaxes(title={"text": "per cent" if is_accuracy(metric) else "nats"}, **where)
    return finish(figure, 420, top=76)


def _line(
    figure: go.Figure,
    family: str,
    mixtures: list[tuple[float, list[float]]],
    colour: str,
    scale: float,
    first: bool,
    where: dict[str, int],
) -> None:
    """One family's mixtures over the balance: the means over seeds, and the seeds where there are several."""
    said = f"{labels([family])[0]}, " if family else ""
    hover = "tau %{x:.3g}<br>%{y:.4g}"
    figure.add_scatter(
        x=[tau for tau, _ in mixtures],
        y=[scale * float(np.mean(values)) for _, values in mixtures],
        mode="lines+markers",
        name=f"{said}mean over seeds" if family else "balances (mean over seeds)",
        line={"color": colour, "width": 2},
        marker={"size": 8},
        legendgroup=f"balances {family}",
        showlegend=first,
        hovertemplate=f"{hover}<extra>{said}mean</extra>",
        **where,
    )
    points = [(tau, scale * value) for tau, values in mixtures for value in sorted(values)]
    if len(points) > len(mixtures):
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            mode="markers",
            name=f"{said}one seed",
            marker={"size": 6, "color": colour, "opacity": 0.4},
            legendgroup=f"seeds {family}",
            showlegend=first,
            hovertemplate=f"{hover}<extra>{said}one seed</extra>",
            **where,
        )


def _band(figure: go.Figure, curve: FittedCurve, scale: float, first: bool, where: dict[str, int]) -> None:
    """The fitted curve with two standard deviations of what is not known of it, and its maximum."""
    tau, mean, sd = curve.tau, scale * curve.mean, scale * curve.sd
    figure.add_scatter(
        x=[*tau, *tau[::-1]],
        y=[*(mean + 2 * sd), *(mean - 2 * sd)[::-1]],
        fill="toself",
        fillcolor="rgba(224,161,0,0.15)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **where,
    )
    figure.add_scatter(
        x=tau,
        y=mean,
        mode="lines",
        name=f"fitted, {curve.family} (± 2 sd)",
        line={"color": "#e0a100", "width": 2},
        showlegend=first,
        hovertemplate="tau %{x:.3g}<br>%{y:.4g}<extra>fitted</extra>",
        **where,
    )
    figure.add_scatter(
        x=[curve.chosen],
        y=[scale * curve.maximum[0]],
        mode="markers",
        name="chosen on the curve",
        marker={"symbol": "star", "size": 17, "color": "#e0a100", "line": {"width": 1, "color": "#fff"}},
        showlegend=first,
        hovertemplate="tau %{x:.3g}<br>%{y:.4g}<extra>chosen</extra>",
        **where,
    )


def comparisons(data: ReportData) -> go.Figure:
    """Difference of the mixture to each baseline on the report split, with its interval; a panel for each metric."""
    by_metric: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in (*data.comparisons, *data.over_base):
        # The parts are in the table; the figure shows what decides.
        if comparison.scope == "all":
            by_metric[comparison.result.metric].append(comparison)
    known = list(METRICS)
    metrics = sorted(by_metric, key=lambda m: known.index(m) if m in known else len(known))
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    most = max(len(found) for found in by_metric.values())
    height = 60 + rows * (90 + 34 * most)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[metric_name(m) for m in metrics],
        horizontal_spacing=0.16,
        vertical_spacing=90 / height if rows > 1 else None,
    )
    for k, metric in enumerate(metrics):
        where = {"row": k // columns + 1, "col": k % columns + 1}
        scale, found = 100 if is_accuracy(metric) else 1, by_metric[metric]
        results = [comparison.result for comparison in found]
        middle = np.array([scale * result.difference for result in results])
        # With one seed there is no interval: nothing is drawn around the point.
        low, high = (
            np.array([scale * end if np.isfinite(end) else scale * result.difference for end, result in ends])
            for ends in ([(r.low, r) for r in results], [(r.high, r) for r in results])
        )
        sure = [VERDICTS.get(comparison.verdict, "#8b95a5") for comparison in found]
        figure.add_scatter(
            x=middle,
            y=labels([c.baseline for c in found]),
            mode="markers",
            marker={"size": 10, "color": sure},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": high - middle,
                "arrayminus": middle - low,
                "color": "#8b95a5",
                "thickness": 2,
                "width": 5,
            },
            showlegend=False,
            customdata=np.column_stack([low, high]),
            hovertemplate="%{y}<br>%{x:.4g} (%{customdata[0]:.4g} to %{customdata[1]:.4g})<extra></extra>",
            **where,
        )
        figure.add_vline(x=0, line={"color": "#8b95a5", "width": 1, "dash": "dot"}, **where)
        unit = "points" if is_accuracy(metric) else "nats"
        figure.update_xaxes(title={"text": f"mixture minus baseline ({unit})"}, **where)
        figure.update_yaxes(type="category", range=[len(found) - 0.5, -0.5], showgrid=False, **where)
    return finish(figure, height, top=58)


def _by_family(data: ReportData, metric: str) -> dict[str, list[tuple[float, list[float]]]]:
    """Family -> its mixtures, each with its balance and its values over seeds; trials without a score are left out."""
    values: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for trial in data.trials:
        value = trial.value(metric)
        if trial.kind == "balance" and trial.tau is not None and value is not None:
            # By name: families have mixtures at the same balances.
            values[trial.family, trial.tau, trial.name].append(value)
    found: dict[str, list[tuple[float, list[float]]]] = defaultdict(list)
    for family, tau, name in sorted(values):
        found[family].append((tau, values[family, tau, name]))
    return dict(found)


def _by_baseline(data: ReportData, metric: str) -> dict[str, list[float]]:
    """The values of every baseline over its seeds; trials without a score are left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for trial in data.trials:
        value = trial.value(metric)
        if trial.kind == "baseline" and value is not None:
            values[trial.name].append(value)
    return dict(values)


def _scored(data: ReportData, metric: str) -> bool:
    return any(trial.value(metric) is not None for trial in data.trials)
