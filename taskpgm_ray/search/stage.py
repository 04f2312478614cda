"""The search stage: run the trials that are missing, and name the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import REGRESSION, StudyConfig
from taskpgm_ray.errors import EvaluationError, InputError
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.finetune.stage import THE_TASKS_FAULT
from taskpgm_ray.runtime.progress import Stage
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.search.candidates import Candidate, Pool, baselines, candidates, distance, same_as
from taskpgm_ray.search.comparator import RegressionFinding, regressed
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.merge_search import MergeFinding, ends, propose, warranted
from taskpgm_ray.search.merges import Merges
from taskpgm_ray.search.optuna_space import PathSpace, points_folder
from taskpgm_ray.search.screen import WARRANTED, ScreenFinding, hopeless, pilots, screened
from taskpgm_ray.search.trials import Planner, TrialPlan
from taskpgm_ray.storage import Unit, fingerprint

if TYPE_CHECKING:
    from taskpgm_ray.search.tuner import TuneRunner


@dataclass(frozen=True)
class Outcome:
    """What became of every trial."""

    plans: list[TrialPlan]
    failed: dict[str, str]
    """Why, by the trial's name."""
    stopped: list[str]
    """Trials that ASHA ended before the full budget."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Baselines that are not tried, and why."""
    screen: ScreenFinding | None = None
    """How well merged adapters rank the trials, and the trials skipped for it; ``None``: not measured."""
    merges: MergeFinding | None = None
    """What merges proposed, and by which right; ``None``: another algorithm."""
    regression: RegressionFinding | None = None
    """How well a regression ranks the trials, and what it expects of its own mixture; ``None``: not asked for."""

    @property
    def finished(self) -> list[TrialPlan]:
        """The trials with scores at the full budget."""
        return [plan for plan in self.plans if plan.done()]

    def best(self, metric: str) -> dict[str, TrialPlan]:
        """The best finished trial of each method on the search split; on equal scores, as in `winner`."""
        methods: dict[str, list[TrialPlan]] = {}
        for plan in self.finished:
            methods.setdefault(plan.candidate.method, []).append(plan)
        return {name: max(plans, key=lambda plan: _rank(plan, metric)) for name, plans in methods.items()}


def search(families: Sequence[Family], jobs: Sequence[Job], planner: Planner, run: Run) -> Outcome:
    """Run the trials that are not finished, on Ray Tune.

    A trial that failed for good or was stopped in a search that came to its end stays so; its runs are made again only
    after its record (``search/outcome-...``) is removed.

    Args:
        families: The paths of mixtures to be searched.
        jobs: The single-task fine-tunes, one a task.
        planner: Makes the trials.
        run: Lanes and engines.

    Raises:
        EvaluationError: No mixture of TaskPGM could be tried; the message has the first reason.
        Exception: A trial failed for a reason that says nothing of its mixture (storage, cluster, model); the others
            are finished, and the next search tries it again.
    """
    config = planner.config.search
    fixed = planner.config.mixture.fixed_tau(len(planner.tasks))
    merges = Merges(jobs, planner, run)
    pool = replace(planner.pool(jobs), affinity=families[0].S)
    if config.algorithm == "optuna" and fixed is None:
        outcome = _optuna(families, pool, planner, run)
    else:
        tried = candidates(families, pool, config, fixed, planner.config.seed)
        plans = [planner.plan(one) for one in tried]
        if config.algorithm == "merge" and fixed is None:
            outcome = _by_merges(plans, families, merges, run)
        else:
            outcome = _screened(plans, merges, run) if config.screen == "skip" else _grid(plans, planner, run)
    outcome = replace(outcome, left_out=baselines(pool, config, planner.config.seed)[1])
    if config.screen == "measure":
        outcome = replace(outcome, screen=screened(merges, outcome.finished))
    if not any(plan.candidate.kind == "balance" for plan in outcome.finished):
        reason = next(iter(outcome.failed.values()), "every one was stopped")
        raise EvaluationError(f"no trial of a TaskPGM mixture came to its end; the first reason: {reason}")
    return _with_regression(outcome, families, planner, run) if REGRESSION in config.baselines else outcome


def winner(outcome: Outcome, metric: str) -> Candidate:
    """The TaskPGM mixture that is best on the search split, on the mean over seeds; baselines compete elsewhere.

    On equal scores the mixture nearest to uniform (total variation) wins: the one that claims least.
    """
    balances = [plan for plan in outcome.finished if plan.candidate.kind == "balance"]
    return max(balances, key=lambda plan: _rank(plan, metric)).candidate


def _rank(plan: TrialPlan, metric: str) -> tuple[float, float]:
    return plan.score(metric), -from_uniform(plan.candidate.weights)


def from_uniform(weights: NDArray[np.float64]) -> float:
    """Total variation between a mixture [n] and uniform, 0 to 1."""
    return float(np.abs(weights - 1 / len(weights)).sum() / 2)


def _grid(plans: list[TrialPlan], planner: Planner, run: Run) -> Outcome:
    runs = [one.unit.path for plan in plans for one in plan.runs]
    record = Unit(planner.storage, f"search/outcome-{fingerprint(runs, *_race(planner.config))}")
    known = record.manifest() if record.done() else {"failed": {}, "stopped": []}
    failed, stopped = known["failed"], known["stopped"]
    todo = [p for p in plans if not p.done() and p.name not in failed and p.name not in stopped]
    with run.progress.stage("search", len(plans), len(plans) - len(todo)) as stage:
        if todo:
            failed |= _lasting(_tune(planner, run, stage).grid(todo))
            stopped += [plan.name for plan in todo if not plan.done() and plan.name not in failed]
    if failed or stopped:
        record.finish({"failed": failed, "stopped": stopped})
    return Outcome(plans, failed, stopped)


def _race(config: StudyConfig) -> list[Any]:
    """By what trials are stopped before their full budget; nothing where none is."""
    search = config.search
    if search.rungs == 1:
        return []
    return [search.rungs, search.reduction, search.metric, dict(config.evaluation.weights)]


def _lasting(failed: Mapping[str, BaseException]) -> dict[str, str]:
    """Why trials failed, by name, where that is their mixture's fault; another fault passes, and is raised."""
    for error in failed.values():
        if not isinstance(error, THE_TASKS_FAULT):
            raise error
    return {name: f"{type(error).__name__}: {error}" for name, error in failed.items()}


def _screened(plans: list[TrialPlan], merges: Merges, run: Run) -> Outcome:
    """The grid without the trials that merging, where it proves reliable on the first ones, shows to be hopeless."""
    first, others = pilots(plans)
    piloted = _grid(first, merges.planner, run)
    found = screened(merges, piloted.finished)
    if found.warranted:
        found = replace(found, skipped=hopeless(merges, piloted.finished, others))
    rest = _grid([plan for plan in others if plan.name not in found.skipped], merges.planner, run)
    return Outcome(plans, piloted.failed | rest.failed, [*piloted.stopped, *rest.stopped], screen=found)


def _by_merges(plans: list[TrialPlan], families: Sequence[Family], merges: Merges, run: Run) -> Outcome:
    """What is trained anyway; then what merges propose, where they rank that as training does, else the whole grid."""
    first, others = ends(plans)
    piloted = _grid(first, merges.planner, run)
    found = merges.agreement(piloted.finished)
    proposed, scored = [], 0
    if warranted(found):
        made, scored = propose(families, piloted.finished, [plan.candidate for plan in first], merges)
        proposed = [merges.planner.plan(one) for one in made]
    else:
        run.progress.console.print(
            f"[yellow]merges are not used: over {found.mixtures} trained mixtures their rank correlation with training "
            f"is at least {found.low:.2f}, and {WARRANTED:g} is asked; the grid is trained[/]",
            soft_wrap=True,
            highlight=False,
        )
    rest = proposed if warranted(found) else others
    last = _grid(rest, merges.planner, run)
    outcome = Outcome([*first, *rest], piloted.failed | last.failed, [*piloted.stopped, *last.stopped])
    trained = merges.agreement(outcome.finished)
    names = tuple(plan.name for plan in proposed)
    return replace(outcome, merges=MergeFinding(scored + trained.mixtures, found, trained, names))


def _with_regression(outcome: Outcome, families: Sequence[Family], planner: Planner, run: Run) -> Outcome:
    """The search with one trial more, on the mixture that a regression of all the others proposes."""
    config = planner.config.search
    try:
        candidate, found = regressed(outcome.finished, families, planner)
    except InputError as error:
        return replace(outcome, left_out={**outcome.left_out, REGRESSION: str(error)})
    outcome = replace(outcome, regression=found)
    tried = [plan.candidate for plan in outcome.finished if not plan.candidate.drawn]
    near = min(tried, key=lambda one: distance(one, candidate))
    if distance(near, candidate) <= config.merge_distance:
        return replace(outcome, left_out={**outcome.left_out, REGRESSION: same_as(near.name, config)})
    last = _grid([planner.plan(candidate)], planner, run)
    return replace(
        outcome,
        plans=[*outcome.plans, *last.plans],
        failed=outcome.failed | last.failed,
        stopped=[*outcome.stopped, *last.stopped],
    )


def _optuna(families: Sequence[Family], pool: Pool, planner: Planner, run: Run) -> Outcome:
    config = planner.config.search
    made = [planner.plan(candidate) for candidate in baselines(pool, config, planner.config.seed)[0]]
    # A comparator's family is no place to look for a winner; its balances are a grid.
    comparators = candidates([family for family in families if not family.contender], pool, config)
    made += [planner.plan(one) for one in comparators if one.tau is not None]
    first = _grid(made, planner, run)
    contenders = tuple(family for family in families if family.contender)
    points, samples = points_folder(contenders, planner), config.balances * len(contenders)
    space = PathSpace(contenders, planner, planner.storage / points)
    record = Unit(planner.storage, f"search/outcome-{fingerprint(points, samples, *_race(planner.config))}")
    with run.progress.stage("search with Optuna", samples, samples if record.done() else 0) as stage:
        if not record.done():
            found = _tune(planner, run, stage).optuna(space, contenders, samples, planner.config.seed)
            record.finish({"failed": _lasting(found)})
    # Two proposals may be one mixture.
    plans = {plan.name: plan for plan in map(space.plan, space.points())}
    failed = first.failed | record.manifest()["failed"]
    stopped = [name for name, plan in plans.items() if not plan.done() and name not in failed]
    return Outcome([*first.plans, *plans.values()], failed, [*first.stopped, *stopped])


def _tune(planner: Planner, run: Run, stage: Stage) -> TuneRunner:
    """What runs the trials; imported and connected only when there are some to run."""
    from taskpgm_ray.search.tuner import TuneRunner

    run.connect()
    return TuneRunner(planner.config.search, run.fleet, run.evaluator, planner.storage, stage)
