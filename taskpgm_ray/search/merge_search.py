"""Merges as optimiser: a surface through hundreds of merged mixtures' scores, and the balances at its top for training.

Whether merges rank mixtures as training does is measured first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import SearchConfig
from taskpgm_ray.search.candidates import Candidate, balance, distance
from taskpgm_ray.search.curve import Curve, fit
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.merges import Agreement, Merges, Mixture, both
from taskpgm_ray.search.screen import WARRANTED
from taskpgm_ray.search.trials import TrialPlan
from taskpgm_ray.storage import Unit, fingerprint

Floats = NDArray[np.float64]
ROUGHNESS = (0.01, 0.05, 0.2)
"""What two merges of nearly one mixture may differ by, in the spread of all scores. No seed is in a merge, and its
items are those of all others: what is left is what rounding and the cut of the rank do."""
KINDS = ("path", "blend", "draw")
"""Mixtures on a path, between it and uniform, and drawn around it."""
SPREAD = 4.0
"""Concentration of a draw around a mixture, a task: a total variation of about 0.2 from it."""
SAME = 1e-3
"""Mixtures nearer than this in total variation are scored once."""
OPEN = 0.1
"""Least share of uniform in a mixture beside a path, so that tasks without weight there get some."""
POINTS = 101
"""Balances at equal arc length along each path among which the best are looked for."""
UPPER = 1.0
"""Standard deviations above what a balance is expected to score: of two with one promise the less known is tried."""


@dataclass(frozen=True)
class MergeFinding:
    """What merges were good for in a search, and what became of it."""

    scored: int
    """Mixtures that were merged and scored."""
    pilots: Agreement
    """Of merges and trainings, on what is trained in any case: by it was decided."""
    trained: Agreement
    """The same on all that was trained in the end."""
    proposed: tuple[str, ...] = ()
    """Trials that merges proposed."""

    @property
    def used(self) -> bool:
        """Whether the agreement warranted it: otherwise the grid was trained."""
        return warranted(self.pilots)

    def as_json(self) -> dict[str, Any]:
        """What ``mixture.json`` says of it."""
        return {
            "scored": self.scored,
            "used": self.used,
            "pilots": asdict(self.pilots),
            "trained": asdict(self.trained),
            "proposed": list(self.proposed),
        }


def warranted(found: Agreement) -> bool:
    """Whether merges may stand in for training: their rank correlation is at least `WARRANTED`, its error allowed."""
    return found.low >= WARRANTED


def ends(plans: Sequence[TrialPlan]) -> tuple[list[TrialPlan], list[TrialPlan]]:
    """(trials that are trained in any case, the others): all baselines, and the first and last balance of each family.

    With a mixture at either end of every path and the baselines between them, no proposal is beyond what was measured.
    """
    of_method: dict[str, list[str]] = {}
    for plan in plans:
        of_method.setdefault(plan.candidate.method, []).append(plan.name)
    outer = {name for names in of_method.values() for name in (names[0], names[-1])}
    anyway = [plan.candidate.kind == "baseline" or plan.name in outer for plan in plans]
    return (
        [plan for plan, first in zip(plans, anyway, strict=True) if first],
        [plan for plan, first in zip(plans, anyway, strict=True) if not first],
    )


def propose(
    families: Sequence[Family], trained: Sequence[TrialPlan], tried: Sequence[Candidate], merges: Merges
) -> tuple[list[Candidate], int]:
    """Score merges around the contenders' paths, and propose what is best by the surface through them.

    What was proposed is recorded: a search that goes on, on another machine too, goes on with the same balances.

    Args:
        families: Those that are searched.
        trained: Trials with merges that are scored already; they are points of the surface too.
        tried: Candidates that are trained in any case.
        merges: Scores mixtures.

    Returns:
        The balances, and how many mixtures beside those of the trials were scored for them.
    """
    config, planner = merges.planner.config.search, merges.planner
    pilots, _ = both(trained, config.metric)
    basis = [
        [family.identity() for family in families if family.contender],
        merges.identity(pilots),
        [config.merges, config.tau, config.balances, config.merge_distance, planner.config.seed],
        [config.metric, dict(planner.config.evaluation.weights)],
    ]
    record = Unit(planner.storage, f"search/proposed-{fingerprint('proposed', *basis)}")
    if not record.done():
        mixtures = around(families, config, planner.config.seed)
        known = [*mixtures, *pilots]
        surface = fit(np.array([one.weights for one in known]), [[one] for one in merges.scores(known)], ROUGHNESS)
        best = best_balances(families, surface, tried, config)
        record.finish({"proposed": [{"family": one.method, "tau": one.tau} for one in best], "scored": len(mixtures)})
    by_name, found = {family.name: family for family in families}, record.manifest()
    return [balance(by_name[one["family"]], one["tau"], families) for one in found["proposed"]], found["scored"]


def around(families: Sequence[Family], config: SearchConfig, seed: int) -> list[Mixture]:
    """``config.merges`` mixtures on and around the contenders' paths, at most; the same for the same seed.

    A third of them lies on the paths, at equal arc length; a third between a path and uniform; a third is drawn around
    mixtures of the path. All keep to the limits of their family.
    """
    contenders = [family for family in families if family.contender]
    rng = np.random.default_rng(seed)
    found: list[Mixture] = []
    for number, family in enumerate(contenders):
        whole = config.merges // len(contenders) + (number < config.merges % len(contenders))
        low, high = config.tau
        on_path = family.path.at(family.path.equal_arc(-(-whole // 3), tau_min=low, tau_max=high))
        n = on_path.shape[1]
        # First those on the path: of mixtures that are nearly one, the first is scored.
        for index in range(whole):
            turn, place = divmod(index, -(-whole // 3))
            kind, weights = KINDS[turn], on_path[place % len(on_path)]
            if kind == "blend":
                weights = family.within.nearest(weights + rng.uniform(OPEN, 1 - OPEN) * (1 / n - weights))
            elif kind == "draw":
                # A Dirichlet draw around it.
                drawn = rng.gamma(SPREAD * n * (weights + OPEN * (1 / n - weights)))
                weights = family.within.nearest(drawn / drawn.sum())
            if all(np.abs(weights - other.weights).sum() / 2 > SAME for other in found):
                found.append(Mixture(f"{family.name}-{kind}-{place:03d}", weights))
    return found


def best_balances(
    families: Sequence[Family], surface: Curve, tried: Sequence[Candidate], config: SearchConfig
) -> list[Candidate]:
    """On each contender's path the balances that are best by the surface, best first.

    Together with those that are tried in any case a family has ``config.balances`` of them, so that no search by merges
    trains more than the grid. A family's lie half as far apart as the grid's would, at least: they cover as much as
    half of the path, and a peak of the surface that training does not have takes no more than its share.
    """
    low, high = config.tau
    made: list[Candidate] = []
    for family in families:
        if not family.contender:
            continue
        taus = family.path.equal_arc(POINTS, tau_min=low, tau_max=high)
        mixtures = np.array([family.path.at(float(tau)) for tau in taus])
        mean, sd = surface.at(mixtures)
        arc = sum(float(np.abs(b - a).sum()) / 2 for a, b in pairwise(mixtures))
        apart = max(arc / (2 * config.balances), config.merge_distance)
        left = config.balances - sum(one.method == family.name for one in tried)
        own: list[Candidate] = []
        for k in np.argsort(-(mean + UPPER * sd), kind="stable"):
            if len(own) >= left:
                break
            one = balance(family, float(taus[k]), families)
            others = [*tried, *made]
            if (
                all(distance(one, other) > config.merge_distance for other in others)
                and all(distance(one, other) >= apart for other in own)
                # Names have four digits of the balance, and a trial has its name alone.
                and one.name not in {other.name for other in (*others, *own)}
            ):
                own.append(one)
        made += own
    return made
