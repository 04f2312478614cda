"""What a trial is before and after it runs: its fine-tunes, their units, and the item scores in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import ItemScore, Split, summarise
from taskpgm_ray.evaluation.scores import Weights, reweighted
from taskpgm_ray.finetune.job import Job, Recipe, make_job
from taskpgm_ray.mixture import example_shares
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.search.candidates import Candidate, Pool
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.prepare import Task
from taskpgm_ray.workload import search_seeds

SCORES = "items.json"


@dataclass(frozen=True)
class TrialRun:
    """One fine-tune of a candidate, and the unit that holds its scores."""

    seed: int
    job: Job
    unit: Unit


@dataclass(frozen=True)
class TrialPlan:
    """Everything about one trial that is known before it runs.

    Raises:
        EvaluationError: It would be scored on another split than the search split.
    """

    candidate: Candidate
    rungs: tuple[tuple[TrialRun, ...], ...]
    """The runs (one a seed) at each budget, from the smallest to the full one; baselines have the full one only."""
    budgets: tuple[int, ...]
    """The budget of each rung, as a multiple of the smallest rung's."""
    split: Split
    weights: Weights
    """Of benchmarks and tasks in a score."""

    def __post_init__(self) -> None:
        if self.split.name != "search":
            raise EvaluationError(
                f"the trial of {self.candidate.name} would read the {self.split.name} split; trials choose the "
                "mixture and read the search split only"
            )

    @property
    def name(self) -> str:
        """Unique among the trials of a search."""
        return self.candidate.name

    @property
    def runs(self) -> tuple[TrialRun, ...]:
        """The runs at the full budget."""
        return self.rungs[-1]

    def done(self) -> bool:
        """Whether every run at the full budget is finished."""
        return all(run.unit.done() for run in self.runs)

    def score(self, metric: str) -> float:
        """The trial's score at the full budget: the mean over its seeds."""
        return fmean(self.scores(metric))

    def scores(self, metric: str) -> list[float]:
        """The same of each seed."""
        return [self.summary(run)[metric] for run in self.runs]

    def summary(self, run: TrialRun) -> dict[str, Any]:
        """Of a finished run of this trial, with the study's weights."""
        return reweighted(run.unit.manifest()["summary"], self.weights)

    def points(self, metric: str) -> list[tuple[NDArray[np.float64], list[float]]]:
        """(mixture [n], its scores): one point, or where each seed has a mixture of its own one for each."""
        scores = self.scores(metric)
        if self.candidate.drawn:
            return [(self.candidate.at_seed(run.seed), [one]) for run, one in zip(self.runs, scores, strict=True)]
        return [(self.candidate.weights, scores)]


@dataclass(frozen=True)
class Planner:
    """Makes plans; cheap to pickle, so that a trial whose candidate is found while the search runs can make its own."""

    tasks: tuple[Task, ...]
    search_split: Split
    config: StudyConfig
    model: BaseModelRef
    storage: Storage

    def pool(self, jobs: Sequence[Job]) -> Pool:
        """What baselines know of the tasks; ``jobs`` are their own fine-tunes, finished."""
        losses = [job.unit.manifest() for job in jobs]
        return Pool(
            [task.facts.available for task in self.tasks],
            [task.name for task in self.tasks],
            [found["heldout_loss_before"] - found["heldout_loss_after"] for found in losses],
        )

    def plan(self, candidate: Candidate) -> TrialPlan:
        """The trial of a candidate; the unit of a run depends on its adapter and on the search split."""
        search = self.config.search
        # Baselines are needed at the full budget, whatever they score at a smaller one.
        first = 0 if candidate.kind == "balance" else search.rungs - 1
        seeds = search_seeds(self.config)
        rungs = tuple(
            tuple(self._run(candidate, seed, search.reduction ** (search.rungs - 1 - rung)) for seed in seeds)
            for rung in range(first, search.rungs)
        )
        budgets = tuple(search.reduction**rung for rung in range(first, search.rungs))
        return TrialPlan(candidate, rungs, budgets, self.search_split, self.config.evaluation.weights)

    def job(self, candidate: Candidate, seed: int, share: float = 1.0) -> Job:
        """The fine-tune of a candidate on ``share`` of a trial's full budget, by the name that it was finished with."""
        job = self.new_job(candidate, seed, share)
        return replace(job, unit=self.kept(job.unit))

    def new_job(self, candidate: Candidate, seed: int, share: float = 1.0) -> Job:
        """The same, whatever is finished."""
        steps, tokens = self.config.search.steps, self.config.search.tokens
        if steps is None and tokens is None:
            steps, tokens = self.config.finetune.steps, self.config.finetune.tokens
        steps, tokens = (None if whole is None else max(1, round(whole * share)) for whole in (steps, tokens))
        recipe = Recipe.of(self.config.finetune, seed=seed, init_seed=self.config.seed, steps=steps, tokens=tokens)
        shares = candidate.at_seed(seed)
        if self.config.mixture.share == "tokens":
            shares = example_shares(shares, [task.facts.tokens_per_example for task in self.tasks])
        mixture = dict(zip((task.name for task in self.tasks), shares.tolist(), strict=True))
        return make_job(
            f"{candidate.name}-seed{seed}", "mixtures", mixture, self.tasks, recipe, self.model, self.storage
        )

    def kept(self, unit: Unit) -> Unit:
        """This unit of a candidate and a seed, or a finished one of the same under another name.

        A candidate is called by its family only where there are several: with one more, all of them have new names.
        """
        kind, _, name = unit.path.rpartition("/")
        names = self._named[kind].get(_unnamed(name), [])
        others = [] if name in names else [Unit(unit.storage, f"{kind}/{other}") for other in names]
        return next((other for other in others if other.done()), unit)

    @cached_property
    def _named(self) -> dict[str, dict[str, list[str]]]:
        """By kind of unit: what candidates' units are called, by seed and fingerprint; before this run made any."""
        found: dict[str, dict[str, list[str]]] = {kind: {} for kind in ("mixtures", "trials", "reported")}
        for kind, names in found.items():
            for name in self.storage.names(kind):
                names.setdefault(_unnamed(name), []).append(name)
        return found

    def _run(self, candidate: Candidate, seed: int, divisor: int) -> TrialRun:
        # Each rung is trained anew: its learning rate decays over its own budget, so that scores at one rung are
        # those of complete fine-tunes, and an adapter depends on nothing but its own recipe.
        job = self.job(candidate, seed, 1 / divisor)
        identity = fingerprint("trial", job.unit.path, self.search_split.path, *measured_by(self.config))
        return TrialRun(seed, job, self.kept(Unit(self.storage, f"trials/{job.name}-{identity}")))


def _unnamed(unit: str) -> str:
    """What follows the candidate's name in that of a unit: seed and fingerprint."""
    return unit[unit.rfind("-seed") :]


def asked_base(planner: Planner) -> Any:
    """What a score of the base model depends on in the place of an adapter, which knows in what format it is asked."""
    chat = planner.config.model.prompt_format == "chat"
    return [planner.model.fingerprint, "chat"] if chat else planner.model.fingerprint


def measured_by(config: StudyConfig) -> list[Any]:
    """What a score depends on beside the adapter and the items."""
    evaluation = config.evaluation
    measured = [evaluation.num_fewshot, evaluation.bbh_answers, list(evaluation.lm_eval), config.scoring.scorer]
    # Earlier, closed answers were not renormalised, and an open one was right whatever followed it.
    return [*measured, "closed and bounded"] if evaluation.bbh and evaluation.bbh_answers == "likelihood" else measured


def finish_run(
    plan: TrialPlan, run: TrialRun, rows: Sequence[ItemScore], trained: dict[str, Any], seconds: float
) -> None:
    """Store a run's item scores and its summary."""
    write_items(run.unit, rows)
    run.unit.finish(
        {
            "name": plan.name,
            "kind": plan.candidate.kind,
            "method": plan.candidate.method,
            "tau": plan.candidate.tau,
            "seed": run.seed,
            "weights": plan.candidate.at_seed(run.seed).tolist(),
            "summary": summarise(rows),
            "trained_tokens": trained["tokens"],
            "seconds": round(seconds, 3),
        }
    )


def write_items(unit: Unit, rows: Sequence[ItemScore]) -> None:
    """Store item scores in a unit."""
    unit.files.write_json(SCORES, [asdict(row) for row in rows])


def read_items(unit: Unit) -> list[ItemScore]:
    """The item scores of a finished trial or report evaluation."""
    return [ItemScore(**row) for row in unit.files.read_json(SCORES)]
