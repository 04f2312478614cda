"""How many of the probes were scored, and how precise the divergences are by them, in words."""

from __future__ import annotations

import math

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import number, percent

MOST_PROBES = 1000
"""Of one task; more of them nobody keeps for a precision."""


def sentence(data: ReportData) -> str:
    """The probes and the precision; nothing where it is not known, or where a single pair has nothing to differ by."""
    found = data.precision
    if found is None or data.probes_scored is None or not found.spread:
        return ""
    some = f"{number(data.probes_scored)} of the" if data.spared else "All"
    scored, wanted = f"{some} {number(data.probes)} probes were scored", ""
    if falls_short(data):
        wanted = f"; scoring.probes_precision asked for {percent(data.wanted_precision)}, for which they are too few"
    elif data.wanted_precision is not None:
        wanted = f", which is enough for the {percent(data.wanted_precision)} of scoring.probes_precision"
    return (
        f"{scored}. The standard error of a divergence is {number(found.error)} nats (root mean square over pairs), "
        f"{percent(found.ratio)} of what divergences differ by (standard deviation {number(found.spread)}){wanted}."
    )


def falls_short(data: ReportData) -> bool:
    """Whether a precision was asked for that even all probes did not reach."""
    found, wanted = data.precision, data.wanted_precision
    return found is not None and wanted is not None and found.spread > 0 and found.ratio > wanted


def needed(data: ReportData, kept: int) -> int | None:
    """Probes of each task that would reach it, as errors fall with the root of their number; ``None``: too many.

    Args:
        data: Of a study that `falls_short`.
        kept: Probes of each task that it has.
    """
    assert data.precision is not None
    assert data.wanted_precision is not None
    probes = math.ceil(kept * (data.precision.ratio / data.wanted_precision) ** 2)
    return None if probes > MOST_PROBES else max(probes, kept + 1)
