"""What the report split says: every method's best mixture against the baselines, and the questions about budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskpgm_ray.evaluation import Split
from taskpgm_ray.progress import Progress
from taskpgm_ray.search.budgets import budget_finalists, budget_row
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.compare import Comparison, against_uniform, by_seed, by_task, compare
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.plan import Planner
from taskpgm_ray.search.reported import BASE, Finalist, scores_on_report

if TYPE_CHECKING:
    from taskpgm_ray.session import Session


@dataclass(frozen=True)
class Judgement:
    """What the report split says."""

    chosen: str
    """The winner's name."""
    comparisons: list[Comparison]
    """The winner against every baseline."""
    against_uniform: list[Comparison]
    """Every method but uniform against uniform; p-values adjusted for the number of methods."""
    tasks: list[dict[str, Any]]
    """Scores of every system and of the base model on every task, see `by_task`."""
    seeds: list[dict[str, Any]]
    """Scores of the same with every seed, see `by_seed`."""
    budgets: list[dict[str, Any]]
    """The questions about budgets: name, number of tasks, share of the budget, means, difference to uniform."""


def judge(
    chosen: Candidate,
    family: Family,
    methods: Mapping[str, Candidate],
    planner: Planner,
    report: Split,
    session: Session,
    progress: Progress,
) -> Judgement:
    """The winner and every other method's best on the report split, and what was asked about budgets.

    Args:
        chosen: The winner of the search.
        family: The family it comes from.
        methods: Method -> its best candidate on the search split; the winner's own method is passed over.
        planner: Makes the fine-tunes.
        report: The report split.
        session: Lanes and engines.
        progress: Shows what is going on.
    """
    others = [one for method, one in methods.items() if method != chosen.method]
    finalists = [Finalist(one.name, one) for one in (chosen, *others)]
    extra = budget_finalists(chosen, family, planner)
    rows = scores_on_report([*finalists, *extra], planner, report, session, progress)
    config = planner.config
    names = [one.name for one in others if one.kind == "baseline"]
    judged = {name: rows[name] for name in (*(one.name for one in finalists), BASE)}
    return Judgement(
        chosen.name,
        compare(chosen.name, rows, names, config.evaluation.confidence, config.seed) if names else [],
        against_uniform([one.name for one in finalists], rows, config.evaluation.confidence, config.seed),
        by_task(judged),
        by_seed(judged),
        [budget_row(one, rows, config.evaluation.confidence, config.seed) for one in extra],
    )
