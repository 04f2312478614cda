"""Fine-tunes on the report split: trained where they are missing, and scored on items that the search never saw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskpgm_ray.evaluation import ItemScore, Split, summarise
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.finetune.stage import describe
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.plan import Planner, measured_by, read_items, write_items
from taskpgm_ray.storage import Unit, fingerprint

if TYPE_CHECKING:
    from taskpgm_ray.session import Session

BASE = "base model"
"""The system that was not fine-tuned, which is shown beside the others and compared with none."""


@dataclass(frozen=True)
class Finalist:
    """A mixture that the report split judges, on a part of the full budget."""

    name: str
    candidate: Candidate
    share: float = 1.0


def scores_on_report(
    finalists: Sequence[Finalist], planner: Planner, report: Split, session: Session, progress: Progress
) -> dict[str, list[ItemScore]]:
    """Fine-tune what is missing and score it on the report split; rows of all seeds by the finalist's name.

    The base model's rows, under `BASE`, are there as well.
    """
    runs = _runs(finalists, planner, report)
    _train([run.job for run in runs if run.job is not None], session, progress)
    _score(runs, report, session, progress)
    rows: dict[str, list[ItemScore]] = {}
    for run in runs:
        rows.setdefault(run.system, []).extend(read_items(run.unit))
    return rows


@dataclass(frozen=True)
class _Reported:
    """One fine-tune (or the base model) on the report split."""

    system: str
    job: Job | None
    unit: Unit
    seed: int

    @property
    def name(self) -> str:
        return self.job.name if self.job else self.system


def _runs(finalists: Sequence[Finalist], planner: Planner, report: Split) -> list[_Reported]:
    """Every finalist with every seed, and the base model once."""
    config = planner.config
    count = max(config.evaluation.report_seeds, config.search.seeds)
    runs = []
    for finalist in finalists:
        for seed in range(config.seed, config.seed + count):
            job = planner.job(finalist.candidate, seed, finalist.share)
            identity = fingerprint("reported", job.unit.path, report.path, *measured_by(config))
            runs.append(_Reported(finalist.name, job, Unit(planner.storage, f"reported/{job.name}-{identity}"), seed))
    identity = fingerprint("reported base", planner.model.fingerprint, report.path, *measured_by(config))
    return [*runs, _Reported(BASE, None, Unit(planner.storage, f"reported/base-{identity}"), config.seed)]


def _train(jobs: Sequence[Job], session: Session, progress: Progress) -> None:
    todo = [job for job in jobs if not job.unit.done()]
    if not todo:
        return
    with progress.stage("finalists", len(jobs), len(jobs) - len(todo)) as stage:
        session.connect()

        def on_done(name: str, manifest: dict[str, Any]) -> None:
            stage.finished(f"{name}: {manifest['tokens']} tokens in {manifest['seconds']:.0f} s", manifest["tokens"])

        references = {session.fleet.submit(job): job.name for job in todo}
        collect(references, on_done, lambda: describe(session.fleet.status()), stage)


def _score(runs: Sequence[_Reported], report: Split, session: Session, progress: Progress) -> None:
    # Two finalists may be one fine-tune.
    todo = {run.unit.path: run for run in runs if not run.unit.done()}
    with progress.stage("report split", len(runs), len(runs) - len(todo)) as stage:
        if not todo:
            return
        started = time.perf_counter()

        def on_done(path: str, rows: list[ItemScore]) -> None:
            run = todo[path]
            write_items(run.unit, rows)
            facts = summarise(rows)
            run.unit.finish({"summary": facts, "seconds": round(time.perf_counter() - started, 3)})
            stage.finished(
                f"{run.name}: {facts['items']} items, accuracy {facts['accuracy']:.3f}, "
                f"gold log-probability {facts['gold_logprob']:.3f}"
            )

        session.connect()
        references = {
            session.evaluator.evaluate.remote(run.job and run.job.unit, report, run.seed, "report"): path
            for path, run in todo.items()
        }
        collect(references, on_done, lambda: "engines score the report split", stage)
