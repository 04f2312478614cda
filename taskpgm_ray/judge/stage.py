"""The judging stage: every method's best mixture against the baselines on the report split, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from taskpgm_ray.evaluation import Split
from taskpgm_ray.judge.budgets import budget_finalists, budget_scores
from taskpgm_ray.judge.comparisons import Comparison, against_uniform, by_seed, by_task, over_base
from taskpgm_ray.judge.finalists import BASE, Finalist, scores_on_report
from taskpgm_ray.judge.looks import Rows, confidence_of_a_look, look_until_settled
from taskpgm_ray.judge.rows import BudgetScores, SeedScores, TaskScores
from taskpgm_ray.judge.verdict import UNIFORM
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.trials import Planner


@dataclass(frozen=True)
class Judgement:
    """What the report split says."""

    chosen: str
    """The winner's name."""
    comparisons: list[Comparison]
    """The winner against every baseline."""
    over_base: list[Comparison]
    """The winner against the base model."""
    against_uniform: list[Comparison]
    """Every method but uniform against uniform; p-values adjusted for the number of methods."""
    tasks: list[TaskScores]
    """Scores of every system and of the base model on every task."""
    seeds: list[SeedScores]
    """Scores of the same with every seed."""
    budgets: list[BudgetScores]
    """The questions about budgets."""

    @property
    def judged_by(self) -> list[int]:
        """The seeds of the winner's fine-tunes that the report split judged."""
        return sorted(row.seed for row in self.seeds if row.system == self.chosen)


def judge(
    chosen: Candidate, family: Family, methods: Mapping[str, Candidate], planner: Planner, report: Split, run: Run
) -> Judgement:
    """The winner and every other method's best on the report split, and what was asked about budgets.

    Args:
        chosen: The winner of the search.
        family: The family it comes from.
        methods: Method -> its best candidate on the search split; the winner's own method is passed over.
        planner: Makes the fine-tunes.
        report: The report split.
        run: Lanes and engines.
    """
    others = [one for method, one in methods.items() if method != chosen.method]
    few = planner.config.evaluation.other_seeds
    finalists = [Finalist(chosen.name, chosen), *(Finalist(one.name, one, seeds=few) for one in others)]
    extra = budget_finalists(chosen, family, planner)
    config = planner.config
    seed, weights, confidence = config.seed, config.evaluation.weights, confidence_of_a_look(config)
    names = [one.name for one in others if one.kind == "baseline"]

    def score(seeds: int) -> Rows:
        more = (chosen.name, UNIFORM)
        asked = [replace(one, seeds=seeds) if one.name in more else one for one in (*finalists, *extra)]
        return scores_on_report(asked, planner, report, run)

    rows, comparisons = look_until_settled(chosen.name, names, score, config)
    judged = {name: rows[name] for name in (*(one.name for one in finalists), BASE)}
    return Judgement(
        chosen.name,
        comparisons,
        over_base(chosen.name, rows, confidence, seed, weights),
        against_uniform([one.name for one in finalists], rows, confidence, seed, weights),
        by_task(judged, weights),
        by_seed(judged, weights),
        [budget_scores(one, rows, confidence, seed, weights) for one in extra],
    )
