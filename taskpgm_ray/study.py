"""A study from its config to its report: the stages in order, and the one file that knows them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rich.console import Console
from rich.markup import escape

from taskpgm_ray import models
from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.affinity.rounds import compare_in_rounds
from taskpgm_ray.affinity.stage import affinity_unit, compare_halves, completed, with_sound_scores
from taskpgm_ray.affinity.stored import divergence_groups
from taskpgm_ray.conclusion import Conclusion
from taskpgm_ray.config import PROXY, StudyConfig
from taskpgm_ray.early import finetune_early
from taskpgm_ray.evaluation import prepare as prepare_evaluation
from taskpgm_ray.evaluation.items import POOL
from taskpgm_ray.evaluation.scores import check_weights
from taskpgm_ray.export.examples import FINISHED, of_finished, study_config
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.finetune.stage import finetune_pool, half_jobs, second_jobs, single_task_jobs, skipped
from taskpgm_ray.insight.certainty import certainty, solved_within
from taskpgm_ray.insight.tasks import Insight, explain
from taskpgm_ray.judge.hand_over import hand_over
from taskpgm_ray.judge.samples import sample_answers
from taskpgm_ray.judge.stage import judge
from taskpgm_ray.judge.verdict import recommended, sentence
from taskpgm_ray.matrix_file import STUDY as AFFINITY
from taskpgm_ray.matrix_file import affinity_table
from taskpgm_ray.mixture import Constraints, constraints_of, proportional, uniform
from taskpgm_ray.mrf import Limits
from taskpgm_ray.paths import without_options
from taskpgm_ray.report import ReportData, render, summary
from taskpgm_ray.report.assemble import StudyOutputs, assemble
from taskpgm_ray.result import StudyResult
from taskpgm_ray.runtime.lease import sole_driver
from taskpgm_ray.runtime.progress import StageCost
from taskpgm_ray.scoring.stage import ScoredSegment, score_pool
from taskpgm_ray.search.choice import choose
from taskpgm_ray.search.families import Family, families, own_family
from taskpgm_ray.search.gain import Gain
from taskpgm_ray.search.lift import measure_lift
from taskpgm_ray.search.stage import search
from taskpgm_ray.search.trials import Planner
from taskpgm_ray.session import Session
from taskpgm_ray.storage import Storage, fingerprint
from taskpgm_ray.tasks.contamination import NOTHING, EvaluationTexts
from taskpgm_ray.tasks.prepare import Task, prepare_tasks
from taskpgm_ray.tasks.separation import separate
from taskpgm_ray.version import __version__
from taskpgm_ray.workload import LEAST_HALFWAY

CONFIG, MIXTURE, REPORT, STATE = "config.yaml", "mixture.json", "report.html", "finished.json"
INSIGHT = "insight.json"


@dataclass
class Study:
    """One study. ``run`` does whatever is not done yet, and nothing twice."""

    config: StudyConfig
    console: Console = field(default_factory=Console)
    offline: bool = False
    """Take what is finished, refuse to compute anything, and write the results once more."""
    part: str = ""
    """A folder inside the study's, for what another model does; the study itself has none."""
    skipped: dict[str, str] = field(default_factory=dict, init=False)
    """Tasks that were left out because their job failed for good, and why."""

    def run(self) -> StudyResult:
        """All stages: prepare, fine-tune, score, affinities, search, report.

        Raises:
            TaskPGMError: What was wrong, where, and what to do. Finished work is kept; the same call goes on from it.
        """
        with self.driving():
            jobs, tasks = self.finetune(self.prepare())
            return self.conclude(jobs, tasks, self.affinities(jobs, tasks))

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Around the stages: this process alone drives the study, and what it started ends with the body.

        Raises:
            StorageError: The study's folder cannot be written.
            StudyBusyError: Another driver works on this study.
        """
        for study in filter(None, (self, self.proxy)):
            study.storage.forget()
        self.storage.check_writable()
        with sole_driver(self.storage, lambda text: self.console.print(escape(text), style="yellow", soft_wrap=True)):
            try:
                self.storage.write_bytes(CONFIG, self.config.to_yaml().encode())
                yield
            finally:
                self._close()
                if self.proxy is not None:
                    self.proxy._close()

    def _close(self) -> None:
        """End what this run has started; a session that could not even begin has nothing to end."""
        if "session" in self.__dict__:
            self.session.close()

    @cached_property
    def storage(self) -> Storage:
        """The study's folder."""
        whole = Storage(self.config.storage) / self.config.study
        return whole / self.part if self.part else whole

    @cached_property
    def proxy(self) -> Study | None:
        """Who makes the affinities, where that is another model; its units lie inside this study's folder."""
        config = self.config.of_proxy()
        return None if config is None else Study(config, self.console, self.offline, part=PROXY)

    @cached_property
    def session(self) -> Session:
        """The live parts of this run, which every stage is given."""
        model = models.resolve(self.config.model, Storage(self.config.storage))
        return Session(self.config, model, self.storage, self.console, self.offline)

    def prepare(self) -> list[Task]:
        """Read, tokenise and split every task; where a search will follow, write its split and the report split."""
        evaluation, evaluated = self.config.evaluation, NOTHING
        only_own = evaluation.own_tasks and not (evaluation.mmlu or evaluation.bbh or evaluation.lm_eval)
        if self.config.search.balances and not only_own:
            # Early, although it is used late: unusable evaluation data shall not cost a fine-tune.
            sets = prepare_evaluation(evaluation, self.config.seed, self.storage, lift=self.config.search.measures_lift)
            items = (item for split in (sets.search, sets.report) for item in split.items())
            evaluated = EvaluationTexts.of((item.question, item.right_answer) for item in items)
        tasks = separate(self.session, prepare_tasks(self.session, evaluated), evaluated)
        # Constraints that clash shall not cost a fine-tune either.
        self._constraints(tasks)
        if evaluation.own_tasks:
            own = {name: weight for name, weight in evaluation.weights.items() if name.partition("/")[0] == POOL}
            # What else is evaluated was looked at above; it counts beside the pool.
            others = [] if only_own else [("others", "")]
            check_weights(own, [*((POOL, task.facts.group) for task in tasks), *others])
        return tasks

    def finetune(self, tasks: Sequence[Task]) -> tuple[list[Job], list[Task]]:
        """One adapter for each task; tasks whose job failed for good are left out if the config says so.

        Some tasks are fine-tuned a second time, with another seed, where the noise floor is asked for. With a proxy the
        adapters are the proxy's, and the tasks are still those that mixtures of ``model`` train on.
        """
        if self.proxy is not None:
            jobs, learned = self.proxy.finetune(self.proxy.prepare())
            self.skipped = self.proxy.skipped
            names = {task.name for task in learned}
            return jobs, [task for task in tasks if task.name in names]
        jobs = single_task_jobs(tasks, self.session)
        early = self.config.finetune.early
        if early is not None:
            kept = finetune_early(jobs, early, self.session)
        else:
            done = finetune_pool([*jobs, *second_jobs(jobs, self.session)], self.session)
            kept = [job for job in jobs if job in done]
        self.skipped = skipped(jobs, kept)
        return kept, [job.tasks[0] for job in kept]

    def _constraints(self, tasks: Sequence[Task]) -> Constraints:
        """What the mixtures of these tasks have to keep to."""
        return constraints_of(
            self.config.mixture,
            [task.name for task in tasks],
            [task.facts.available for task in tasks],
            [task.facts.tokens_per_example for task in tasks],
        )

    def score(self, jobs: Sequence[Job], tasks: Sequence[Task]) -> list[ScoredSegment]:
        """The distributions of every adapter, second ones included, on the common probe set.

        With ``scoring.probes: adaptive`` adapters are compared after each round, which says whether it was the last.
        """
        if self.proxy is not None:
            return self.proxy.score(jobs, [job.tasks[0] for job in jobs])
        scored = [*jobs, *self._seconds(jobs), *half_jobs(jobs)]
        if self.config.scoring.probes == "all":
            return score_pool(scored, tasks, self.session)
        return self._in_rounds(scored, tasks)[0]

    def _in_rounds(self, scored: Sequence[Job], tasks: Sequence[Task]) -> tuple[list[ScoredSegment], Affinities]:
        """As many probes as the config asks for, under all of these adapters, and what they come to."""
        return compare_in_rounds(lambda probes: score_pool(scored, tasks, self.session, probes), tasks, self.session)

    @classmethod
    def finished(cls, folder: str, console: Console | None = None) -> StudyResult:
        """A finished study by its folder, wherever that lies by now; its report and tables are written once more.

        Args:
            folder: The study's folder, or its URI.
            console: What the summary is printed on; by default nothing.

        Raises:
            InputError: It is not finished, or something of it was made by another version.
        """
        storage = Storage(folder.rstrip("/"))
        of_finished(storage, MIXTURE)
        # Options of the filesystem belong to the storage, not to the study's name.
        base, options = without_options(storage.uri)
        root, _, name = base.rstrip("/").rpartition("/")
        where = {"storage": f"{root}{options}", "study": name}
        config = study_config(storage).model_copy(update=where)
        return cls(config, console or Console(quiet=True), offline=True).run()

    def affinities(self, jobs: Sequence[Job] | None = None, tasks: Sequence[Task] | None = None) -> Affinities:
        """How alike the tasks' adapters behave. Scores that turn out to be damaged are made again, once.

        Args:
            jobs: The finished fine-tunes of `finetune`; by default all is done that comes before.
            tasks: Theirs.
        """
        if jobs is None or tasks is None:
            with self.driving():
                return self.affinities(*self.finetune(self.prepare()))
        if self.proxy is not None:
            found = self.proxy.affinities(jobs, [job.tasks[0] for job in jobs])
            self.proxy.session.release()
            return found
        return with_sound_scores(lambda: self._compare(jobs, tasks), self.session)

    def _compare(self, jobs: Sequence[Job], tasks: Sequence[Task]) -> Affinities:
        """The pool's affinities, what the luck of a seed is worth in them, and what they were at half of the budget."""
        again, early = self._seconds(jobs), half_jobs(jobs)
        segments, compared = self._in_rounds([*jobs, *again, *early], tasks)
        seconds, halves = ({job.tasks[0].name: job.name for job in some} for some in (again, early))
        found = completed(compared, segments, self.session, seconds)
        if len(halves) < LEAST_HALFWAY:
            return found
        return replace(found, halfway=compare_halves(segments, halves, self.session))

    def _seconds(self, jobs: Sequence[Job]) -> list[Job]:
        """The second fine-tunes beside these, which may be of other tasks than before some were left out."""
        again = second_jobs(jobs, self.session)
        if all(job.unit.done() for job in again):
            return again
        return finetune_pool(again, self.session)

    def conclude(self, jobs: Sequence[Job], tasks: Sequence[Task], affinities: Affinities) -> StudyResult:
        """The paths of mixtures, the search over them, the mixture, and the report."""
        constraints = self._constraints(tasks)
        if constraints.note:
            self.console.print(f"[yellow]{escape(constraints.note)}[/]", soft_wrap=True, highlight=False)
        if self.config.search.balances:
            reached = self._search(jobs, tasks, affinities, constraints.limits)
        else:
            reached = self._at_the_given_balance(affinities, constraints.limits)
        sizes = [task.facts.available for task in tasks]
        insight = reached.insight
        document = reached.document(self.config, tasks, affinities, constraints).as_json()
        data = assemble(
            StudyOutputs(
                config=self.config,
                model=self.session.model,
                tasks=tasks,
                jobs=jobs,
                affinities=affinities,
                family=reached.family,
                mixture=document,
                baselines={"uniform": uniform(len(tasks)), "proportional": proportional(sizes)},
                outcome=reached.outcome,
                curve=reached.curve,
                judgement=reached.judgement,
                stages=self._costs(),
                skipped=self.skipped,
                verdict=reached.verdict,
                insight=insight,
                samples=reached.samples,
            )
        )
        self._publish(document, data, affinity_table([task.name for task in tasks], reached.family.S), insight)
        return StudyResult(document, affinities, reached.family, data, self.storage)

    def _costs(self) -> list[StageCost]:
        """Of every stage, a proxy's first."""
        own = self.session.progress.stages()
        if self.proxy is None:
            return own
        return [*(replace(cost, stage=f"{PROXY}: {cost.stage}") for cost in self.proxy.session.progress.stages()), *own]

    def _at_the_given_balance(self, affinities: Affinities, limits: Limits) -> Conclusion:
        family = own_family(affinities, self.config, limits)
        tau = self.config.mixture.fixed_tau(len(affinities.tasks))
        assert tau is not None, "the config guarantees a balance or a search"
        insight = self._insight(affinities, family, tau, limits)
        return Conclusion(family, tau, limits.solve(family.S, tau), insight=insight)

    def _search(self, jobs: Sequence[Job], tasks: Sequence[Task], affinities: Affinities, limits: Limits) -> Conclusion:
        """The winner of the search, and what the report split says of it."""
        run, metric = self.session, self.config.search.metric
        lifted = self.config.search.measures_lift
        sets = prepare_evaluation(self.config.evaluation, self.config.seed, self.storage, tasks, lifted)
        planner = Planner(tuple(tasks), sets.search, self.config, run.model, self.storage)
        lift = measure_lift(jobs, planner, run) if lifted else None
        made = families(affinities, tasks, self.config, limits, lift)
        outcome = search(made, jobs, planner, run)
        choice = choose(outcome, made, self.config)
        chosen = choice.candidate
        assert chosen.tau is not None, "only balances win"
        family = next(one for one in made if one.name == chosen.method)
        methods = {method: plan.candidate for method, plan in outcome.best(metric).items()}
        judgement = judge(chosen, family, methods, planner, sets.report, run)
        verdict = sentence(judgement.comparisons, self.config)
        insight = self._insight(affinities, family, chosen.tau, limits, lift)
        hand_over(chosen, verdict, judgement.judged_by, planner, run, insight)
        better = recommended(judgement.comparisons, metric)
        weights = {"uniform": uniform(len(tasks))} | {one.name: one.weights for one in methods.values()}
        return Conclusion(
            family=family,
            tau=chosen.tau,
            weights=chosen.weights,
            verdict=verdict,
            recommended=better,
            recommended_weights=weights.get(better),
            outcome=outcome,
            curve=choice.curve,
            judgement=judgement,
            insight=insight,
            samples=sample_answers(chosen, methods, planner, sets.report, run, only_finished=self.offline),
        )

    def _insight(
        self,
        affinities: Affinities,
        family: Family,
        tau: float,
        limits: Limits,
        search_lift: Gain | None = None,
    ) -> Insight | None:
        """What the mixture says of each task; not known where groups of tasks are tied together."""
        if limits.groups:
            return None
        mixture = solved_within(family.S, tau, limits, family.utility)
        known = None
        if family.affinity == "jsd" and family.gamma is not None and family.utility is None:
            scored = self.storage if self.proxy is None else self.proxy.storage
            sums = divergence_groups(affinity_unit(scored, affinities.fingerprint))
            floor = family.noise.taken_off if family.noise else 0.0
            known = certainty(sums, mixture, family.gamma, floor, affinities.noise, self.config.seed)
        return explain(affinities.tasks, family.S, mixture, known, affinities.lift, search_lift)

    def _publish(self, document: dict[str, Any], data: ReportData, affinity: str, insight: Insight | None) -> None:
        """Write the mixture and the report, and show the outcome; an unchanged report is not rendered again."""
        state = fingerprint(
            __version__, document, data.config_yaml, data.verdict, [vars(cost) for cost in data.stages], data.versions
        )
        written = not self.offline and self.storage.exists(STATE) and self.storage.read_json(STATE) == state
        files = (REPORT, MIXTURE, AFFINITY, INSIGHT, FINISHED)
        if not (written and all(self.storage.exists(file) for file in files)):
            # Whatever is written from here on, the files are up to date only when all of them are there.
            self.storage.delete_file(STATE)
            self.storage.write_bytes(FINISHED, data.config_yaml.encode())
            self.storage.write_json(MIXTURE, document)
            self.storage.write_bytes(AFFINITY, affinity.encode())
            self.storage.write_json(INSIGHT, insight.as_json() if insight else None)
            self.storage.write_bytes(REPORT, render(data).encode())
            self.storage.write_json(STATE, state)
        shown = {"mixture": MIXTURE, "report": REPORT, "config": CONFIG}
        self.console.print(summary(data, {name: self.storage.path(file) for name, file in shown.items()}))
