"""What weighted merges of the single-task adapters were good for in a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskpgm_ray.report.text import number

if TYPE_CHECKING:
    from taskpgm_ray.report.data import ReportData
    from taskpgm_ray.search.merges import Agreement


def sentences(data: ReportData) -> list[str]:
    """What was measured of them, and what it was used for; empty where no mixture was merged."""
    return [*_screen(data), *_search(data)]


def _screen(data: ReportData) -> list[str]:
    found = data.screen
    if found is None:
        return []
    use = "may stand in for training" if found.warranted else "cannot stand in for training here"
    if found.skipped:
        use += f"; {len(found.skipped)} mixtures that could not have been the best were not trained"
    return [
        f"Weighted merges of the single-task adapters rank the {found.mixtures} mixtures with a correlation of "
        f"{_correlation(found)}: merging {use}."
    ]


def _search(data: ReportData) -> list[str]:
    found = data.merges
    if found is None:
        return []
    ranked = (
        f"Weighted merges of the single-task adapters ranked the {found.pilots.mixtures} mixtures that are trained in "
        f"any case with a correlation of {_correlation(found.pilots)}"
    )
    if not found.used:
        did = ", which is too little to search by them: the whole grid was trained."
    else:
        names = ", ".join(found.proposed) or "none that was not tried already"
        did = f", so that of {found.scored} merged mixtures only those were trained that they proposed: {names}."
    after = f"Over all {found.trained.mixtures} mixtures that were trained it is {_correlation(found.trained)}."
    return [ranked + did, after]


def _correlation(found: Agreement) -> str:
    return f"{number(found.correlation)} to training (Spearman; at least {number(found.low)})"
