"""What the affinity would see with other bandwidths: how many distinct tasks, how many get nothing, what copies get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskpgm_ray.affinity.affinities import Affinities, Kind
from taskpgm_ray.affinity.kernels import effective_number
from taskpgm_ray.mrf import solve
from taskpgm_ray.numerics.types import FloatArray
from taskpgm_ray.report.text import number, percent
from taskpgm_ray.runtime.fitted_table import FittedTable

TAUS = (0.0, 0.5, 1.0, 2.0)
FACTORS = (1.0, 2.0, 4.0, 8.0)
"""Of the median rule's gamma."""
MOST_TASKS = 300
"""In larger pools the table would take longer than the rest of the report."""
NOTHING = 1e-9
"""A weight below it is none."""


@dataclass(frozen=True)
class BandwidthRow:
    """One bandwidth of one kind of affinity."""

    kind: Kind
    rule: str
    gamma: float | None
    """Per nat (JSD) or squared nat (PMI); ``None``: nothing stands out of the noise floor."""
    effective: float
    """Number of distinct tasks that the affinity sees."""
    empty: tuple[int, ...]
    """Tasks without weight at each of `TAUS`."""
    parts: dict[str, tuple[float, ...]]
    """Data set that the pool holds in several parts -> weight of all of them at each of `TAUS`."""


def bandwidth_rows(affinities: Affinities, groups: Sequence[str]) -> list[BandwidthRow]:
    """JSD and PMI with the median rule's bandwidth, multiples of it, and the noise rule's where its floor is known.

    Args:
        affinities: Of n tasks.
        groups: [n] data set of each task.

    Returns:
        Nothing for fewer than three tasks or more than `MOST_TASKS`.
    """
    if not 2 < len(groups) <= MOST_TASKS:
        return []
    rows = []
    kinds: tuple[Kind, ...] = ("jsd", "pmi")
    for kind in kinds:
        if affinities.noise is not None:
            found = affinities.above_noise(kind)
            rows.append(_row(kind, "noise", found.gamma, found.S, groups))
        if np.median(affinities.distances(kind)[np.triu_indices(len(groups), 1)]) <= 0:
            # Most pairs are one task: the median rule has no bandwidth for them.
            continue
        median = affinities.median_gamma(kind)
        for factor in FACTORS:
            rule = "median" if factor == 1 else f"{factor:g} x median"
            rows.append(_row(kind, rule, factor * median, affinities.view(kind, factor * median), groups))
    return rows


def header(rows: Sequence[BandwidthRow]) -> list[str]:
    """Of the table of these rows."""
    at = "tau " + ", ".join(f"{tau:g}" for tau in TAUS)
    parts = [f"{group} at {at}" for group in _parts(rows)]
    return ["affinity", "rule", "gamma", "effective tasks", f"without weight at {at}", *parts]


def cells(rows: Sequence[BandwidthRow]) -> list[list[str]]:
    """The table of these rows as texts."""
    return [
        [
            row.kind.upper(),
            row.rule,
            number(row.gamma),
            number(row.effective),
            ", ".join(map(str, row.empty)),
            *(", ".join(percent(share) for share in row.parts[group]) for group in _parts(rows)),
        ]
        for row in rows
    ]


def rich_table(rows: Sequence[BandwidthRow]) -> FittedTable:
    """The same for a terminal."""
    shown = FittedTable("What other bandwidths see")
    titles = header(rows)
    for k, title in enumerate(titles):
        shown.column(title, len(titles) - k, text=True)
    for line in cells(rows):
        shown.row(*line)
    return shown


def _row(kind: Kind, rule: str, gamma: float | None, S: FloatArray, groups: Sequence[str]) -> BandwidthRow:
    members = {group: [i for i, one in enumerate(groups) if one == group] for group in dict.fromkeys(groups)}
    mixtures = [np.asarray(solve(S, tau).weights) for tau in TAUS]
    return BandwidthRow(
        kind,
        rule,
        gamma,
        effective_number(S),
        tuple(int((weights < NOTHING).sum()) for weights in mixtures),
        {
            group: tuple(float(weights[of].sum()) for weights in mixtures)
            for group, of in members.items()
            if len(of) > 1
        },
    )


def _parts(rows: Sequence[BandwidthRow]) -> list[str]:
    return list(rows[0].parts) if rows else []
