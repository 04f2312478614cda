"""A study from its config to its report: the stages in order, and the one file that knows them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from taskpgm_ray import __version__, models
from taskpgm_ray.affinity.stage import Affinity, compute_affinity
from taskpgm_ray.config import AffinityConfig, StudyConfig
from taskpgm_ray.errors import DamagedScoresError
from taskpgm_ray.evaluation import prepare as prepare_evaluation
from taskpgm_ray.export import mixture_document
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.finetune.stage import finetune_pool, single_task_jobs, skipped
from taskpgm_ray.lease import sole_driver
from taskpgm_ray.mixture import counts, proportional, uniform
from taskpgm_ray.mrf import MixturePath, solve
from taskpgm_ray.progress import Progress
from taskpgm_ray.report import ReportData, render, summary
from taskpgm_ray.report.assemble import assemble, sentence
from taskpgm_ray.scoring.stage import ScoredSegment, discard, score_pool
from taskpgm_ray.search.families import Family, families
from taskpgm_ray.search.final import hand_over
from taskpgm_ray.search.judge import Judgement, judge
from taskpgm_ray.search.lift import measure_lift
from taskpgm_ray.search.plan import Planner
from taskpgm_ray.search.stage import Outcome, search, winner
from taskpgm_ray.session import Session
from taskpgm_ray.storage import Storage, fingerprint
from taskpgm_ray.tasks.contamination import NOTHING, EvaluationTexts
from taskpgm_ray.tasks.prepare import Task, prepare_tasks

CONFIG, MIXTURE, REPORT, STATE = "config.yaml", "mixture.json", "report.html", "finished.json"


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What a finished study knows; the same is in its folder."""

    mixture: dict[str, Any]
    """The content of ``mixture.json``."""
    affinity: Affinity
    path: MixturePath
    report: ReportData
    storage: Storage
    """The study's folder."""


@dataclass
class Study:
    """One study. ``run`` does whatever is not done yet, and nothing twice."""

    config: StudyConfig
    console: Console = field(default_factory=Console)
    skipped: dict[str, str] = field(default_factory=dict, init=False)
    """Tasks that were left out because their job failed for good, and why."""

    def run(self) -> StudyResult:
        """All stages: prepare, fine-tune, score, affinity, search, report.

        Raises:
            TaskPGMError: What was wrong, where, and what to do. Finished work is kept; the same call goes on from it.
        """
        with self.driving():
            jobs, tasks = self.finetune(self.prepare())
            affinity = self.affinity(jobs, tasks)
            return self.conclude(jobs, tasks, affinity)

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Around the stages: this process alone drives the study, and what it started ends with the body.

        Raises:
            StorageError: The study's folder cannot be written.
            StudyBusyError: Another driver works on this study.
        """
        self.storage.check_writable()
        with sole_driver(self.storage):
            try:
                self.storage.write_bytes(CONFIG, self.config.to_yaml().encode())
                yield
            finally:
                self.session.close()

    @cached_property
    def storage(self) -> Storage:
        """The study's folder."""
        return Storage(self.config.storage) / self.config.study

    @cached_property
    def model(self) -> models.BaseModelRef:
        """The base model."""
        return models.resolve(self.config.model, Storage(self.config.storage))

    @cached_property
    def session(self) -> Session:
        """The live parts of this run."""
        return Session(self.config, self.model, self.storage)

    @cached_property
    def progress(self) -> Progress:
        """What this run shows, and what its stages cost."""
        return Progress(self.storage, self.console)

    def prepare(self) -> list[Task]:
        """Read, tokenise and split every task; where a search will follow, write its split and the report split."""
        evaluation, evaluated = self.config.evaluation, NOTHING
        only_own = evaluation.own_tasks and not (evaluation.mmlu or evaluation.bbh or evaluation.lm_eval)
        if self.config.search.balances and not only_own:
            # Early, although it is used late: unusable evaluation data shall not cost a fine-tune.
            sets = prepare_evaluation(evaluation, self.config.seed, self.storage)
            evaluated = EvaluationTexts.of(i.question for split in (sets.search, sets.report) for i in split.items())
        return prepare_tasks(self.config, self.model, self.storage, self.session, self.progress, evaluated)

    def finetune(self, tasks: Sequence[Task]) -> tuple[list[Job], list[Task]]:
        """One adapter for each task; tasks whose job failed for good are left out if the config says so."""
        jobs = single_task_jobs(self.config, tasks, self.model, self.storage)
        kept = finetune_pool(jobs, self.config, self.session, self.progress)
        self.skipped = skipped(jobs, kept)
        return kept, [job.tasks[0] for job in kept]

    def score(self, jobs: Sequence[Job], tasks: Sequence[Task]) -> list[ScoredSegment]:
        """Every adapter's distributions on the common probe set."""
        return score_pool(jobs, tasks, self.config, self.model, self.storage, self.session, self.progress)

    def affinity(self, jobs: Sequence[Job], tasks: Sequence[Task], kind: Any = None) -> Affinity:
        """How alike the tasks' adapters behave: by the study's kind of affinity, or another.

        Scores that turn out to be damaged are made again, once.
        """
        config = self.config.affinity if kind is None else AffinityConfig(kind=kind)

        def compute() -> Affinity:
            segments = self.score(jobs, tasks)
            names = [task.name for task in tasks]
            return compute_affinity(segments, names, config, self.storage, self.session, self.progress)

        try:
            return compute()
        except DamagedScoresError as error:
            self.console.print(f"[yellow]damaged scores are made again:[/] {escape(str(error))}", soft_wrap=True)
            discard(error.units, self.storage)
            return compute()

    def conclude(self, jobs: Sequence[Job], tasks: Sequence[Task], affinity: Affinity) -> StudyResult:
        """The paths of mixtures, the search over them, the mixture, and the report."""
        family = Family(affinity.kind, affinity.kind, affinity.S, affinity.gamma, None, contender=True)
        tau = self.config.mixture.fixed_tau(len(tasks))
        outcome: Outcome | None = None
        judgement: Judgement | None = None
        if self.config.search.balances:
            family, tau, outcome, judgement = self._search(jobs, tasks, affinity)
        assert tau is not None, "the config guarantees a balance or a search"
        sizes = [task.facts["train"] for task in tasks]
        document = self._mixture(tasks, affinity, family, tau, sizes)
        data = assemble(
            self.config,
            self.model,
            tasks,
            jobs,
            affinity,
            family,
            document,
            {"uniform": uniform(len(tasks)), "proportional": proportional(sizes)},
            outcome,
            judgement,
            self.progress.stages(),
            self.skipped,
        )
        self._publish(document, data)
        return StudyResult(document, affinity, family.path, data, self.storage)

    def _search(
        self, jobs: Sequence[Job], tasks: Sequence[Task], affinity: Affinity
    ) -> tuple[Family, float, Outcome, Judgement]:
        """The winning family and balance, what was tried, and what the report split says."""
        config = self.config.search
        sets = prepare_evaluation(self.config.evaluation, self.config.seed, self.storage, tasks)
        planner = Planner(tuple(tasks), sets.search, self.config, self.model, self.storage)
        made = families(
            affinity,
            lambda kind: self.affinity(jobs, tasks, kind),
            tasks,
            config,
            lambda: measure_lift(jobs, planner, self.session, self.progress),
        )
        sizes = [task.facts["train"] for task in tasks]
        outcome = search(made, sizes, jobs, planner, self.session, self.progress)
        chosen = winner(outcome, config.metric)
        family = next(one for one in made if one.name == chosen.method)
        methods = {method: plan.candidate for method, plan in outcome.best(config.metric).items()}
        judgement = judge(chosen, family, methods, planner, sets.report, self.session, self.progress)
        names = [task.name for task in tasks]
        hand_over(chosen, sentence(judgement, self.config), planner, self.session, self.progress, names)
        assert chosen.tau is not None, "only balances win"
        return family, chosen.tau, outcome, judgement

    def _mixture(
        self, tasks: Sequence[Task], affinity: Affinity, family: Family, tau: float, sizes: Sequence[int]
    ) -> dict[str, Any]:
        mixture = solve(family.S, tau, utility=family.utility)
        return mixture_document(
            study=self.config.study,
            fingerprint=affinity.fingerprint,
            names=[task.name for task in tasks],
            weights=mixture.weights.tolist(),
            counts=np.asarray(counts(mixture.weights, self.config.mixture.examples)).tolist(),
            available=list(sizes),
            sources=[task.facts["source"] for task in tasks],
            tau=tau,
            energy=float(mixture.energy),
            gap=float(mixture.gap),
            affinity=family.name,
            gamma=family.gamma,
            beta=self.config.mixture.beta,
            lambda_=self.config.mixture.lambda_,
        )

    def _publish(self, document: dict[str, Any], data: ReportData) -> None:
        """Write the mixture and the report, and show the outcome; an unchanged report is not rendered again."""
        state = fingerprint(__version__, document, data.config_yaml, data.verdict, data.stages, data.versions)
        written = self.storage.exists(STATE) and self.storage.read_json(STATE) == state
        if not (written and self.storage.exists(REPORT) and self.storage.exists(MIXTURE)):
            self.storage.write_json(MIXTURE, document)
            self.storage.write_bytes(REPORT, render(data).encode())
            self.storage.write_json(STATE, state)
        files = {"mixture": MIXTURE, "report": REPORT, "config": CONFIG}
        self.console.print(summary(data, {name: self.storage.path(file) for name, file in files.items()}))
