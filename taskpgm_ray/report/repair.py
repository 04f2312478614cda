"""How much of the mixture an indefinite affinity's repair decides, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from taskpgm_ray.mrf import RepairMethod, repaired
from taskpgm_ray.report.text import number, percent

if TYPE_CHECKING:
    from taskpgm_ray.search.families import Family


def repair_sentence(family: Family, tau: float) -> str:
    """What was changed, and how far the mixtures of the other repairs are from this one; nothing without a repair.

    Args:
        family: Of the mixture.
        tau: The mixture's balance.
    """
    change = family.repair
    if change is None or family.indefinite is None:
        return ""
    weights = family.within.solve(family.S, tau, family.utility)
    elsewhere = []
    for method in get_args(RepairMethod):
        mended, other = repaired(family.indefinite, method)
        if other is not None and other.method != change.method:
            moved = np.abs(family.within.solve(mended, tau, family.utility) - weights).sum() / 2
            elsewhere.append(f"{percent(moved)} under affinity.repair={method}")
    return (
        f"This affinity was indefinite: {change.clipped} of {len(family.S)} eigenvalues are negative, on the simplex "
        f"the least is {number(change.lambda_min)}. It was mended ({change.method}), which changed it by "
        f"{percent(change.relative_change)} (Frobenius). Of the mixture at this balance {' and '.join(elsewhere)} "
        "would lie elsewhere: so much is the repair's doing, not the data's."
    )
