"""The report's figures one by one, as a notebook shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from taskpgm_ray.errors import InputError
from taskpgm_ray.report import figures, matrices, score_figures
from taskpgm_ray.report.clustering import cluster
from taskpgm_ray.report.data import ReportData

if TYPE_CHECKING:
    import plotly.graph_objects as go

SCALES = {"sequential": "Blues", "diverging": "RdBu"}
"""In the report the page's own script colours heat maps, by light and dark."""


def figure(data: ReportData, name: str) -> go.Figure:
    """One figure of the report.

    Args:
        data: The study's.
        name: ``mixture``, ``path``, ``scores``, ``comparison``, ``affinity``, ``divergence``, ``pmi``, ``lift`` or
            ``coverage``.

    Raises:
        InputError: There is no such figure, or the study has nothing to draw in it.
    """
    known = available(data)
    if name not in known:
        raise InputError(f"this study has no figure {name!r}; it has {', '.join(known)}")
    made = known[name]()
    made.update_layout(template="plotly_white")
    for trace in made.data:
        if trace.meta in SCALES:
            trace.update(colorscale=SCALES[trace.meta])
    return made


def available(data: ReportData) -> dict[str, Callable[[], go.Figure]]:
    """Name of a figure -> what draws it, for all that this study has."""
    clustering = cluster(data.divergence)
    found: dict[str, Callable[[], go.Figure]] = {"mixture": lambda: figures.mixture_bars(data)}
    if data.path_tau is not None:
        found["path"] = lambda: figures.path_bands(data)
    if any(trial.value(data.metric) is not None for trial in data.trials):
        found["scores"] = lambda: score_figures.scores(data)
    if data.comparisons:
        found["comparison"] = lambda: score_figures.comparisons(data)
    if len(data.tasks) > 1:
        found["affinity"] = lambda: matrices.affinity(data, clustering)
        found["divergence"] = lambda: matrices.divergence(data, clustering)
        for name, table in (("pmi", data.pmi), ("lift", data.lift)):
            if table is not None:
                found[name] = lambda name=name, table=table: matrices.gains(table, name, data, clustering)  # type: ignore[misc]
    if data.coverage is not None:
        found["coverage"] = lambda: matrices.coverage(data, clustering)
    return found
