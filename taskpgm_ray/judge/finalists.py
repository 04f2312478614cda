"""Fine-tunes on the report split: trained where they are missing, and scored on items that the search never saw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import ItemScore, Split, summarise
from taskpgm_ray.finetune.fleet_view import describe
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.judge.comparisons import BASE
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run, news_of
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.trials import Planner, asked_base, measured_by, read_items, write_items
from taskpgm_ray.storage import Unit, fingerprint
from taskpgm_ray.workload import report_seeds, search_seeds


@dataclass(frozen=True)
class Finalist:
    """A mixture that the report split judges, on a part of the full budget."""

    name: str
    candidate: Candidate
    share: float = 1.0
    seeds: int | None = None
    """Fine-tunes of it; default: as many as in the first look (see `looks`)."""


def scores_on_report(
    finalists: Sequence[Finalist], planner: Planner, report: Split, run: Run
) -> dict[str, list[ItemScore]]:
    """Fine-tune what is missing and score it on the report split; rows of all seeds by the finalist's name.

    The base model's rows, under `BASE`, are there as well.
    """
    reported = _reported(finalists, planner, report)
    _train([one.job for one in reported if one.job is not None], run)
    _score(reported, report, run)
    rows: dict[str, list[ItemScore]] = {}
    for one in reported:
        rows.setdefault(one.system, []).extend(read_items(one.unit))
    return rows


@dataclass(frozen=True)
class _Reported:
    """One fine-tune (or the base model) on the report split.

    Raises:
        EvaluationError: A trial of the search had its seed, so that the search has chosen by this very fine-tune.
    """

    system: str
    job: Job | None
    unit: Unit
    seed: int
    searched: range
    """The seeds of the search."""

    def __post_init__(self) -> None:
        if self.job is not None and self.seed in self.searched:
            raise EvaluationError(
                f"{self.job.name} would be judged with seed {self.seed}, which its trial had; the report split takes "
                "fine-tunes that the search has not seen"
            )

    @property
    def name(self) -> str:
        return self.job.name if self.job else self.system


def _reported(finalists: Sequence[Finalist], planner: Planner, report: Split) -> list[_Reported]:
    """Every finalist with every seed, and the base model once."""
    config, searched = planner.config, search_seeds(planner.config)
    found = []
    for finalist in finalists:
        for seed in report_seeds(config, finalist.seeds):
            job = planner.job(finalist.candidate, seed, finalist.share)
            identity = fingerprint("reported", job.unit.path, report.path, *measured_by(config))
            unit = planner.kept(Unit(planner.storage, f"reported/{job.name}-{identity}"))
            found.append(_Reported(finalist.name, job, unit, seed, searched))
    identity = fingerprint("reported base", asked_base(planner), report.path, *measured_by(config))
    base = Unit(planner.storage, f"reported/base-{identity}")
    return [*found, _Reported(BASE, None, base, config.seed, searched)]


def _train(jobs: Sequence[Job], run: Run) -> None:
    if all(job.unit.done() for job in jobs):
        return
    with missing(run, "finalists", jobs) as (stage, todo):

        def on_done(job: Job, manifest: dict[str, Any]) -> None:
            tokens, seconds = manifest["tokens"], manifest["seconds"]
            stage.finished(f"{job.name}: {tokens} tokens in {seconds:.0f} s", tokens)

        references = {run.fleet.submit(job): job for job in todo}
        collect(stage, references, on_done, lambda: describe(run.fleet.status()), note=news_of(run, "fleet"))


def _score(reported: Sequence[_Reported], report: Split, run: Run) -> None:
    with missing(run, "report split", reported) as (stage, todo):
        started = time.perf_counter()

        def on_done(one: _Reported, rows: list[ItemScore]) -> None:
            write_items(one.unit, rows)
            summary = summarise(rows)
            one.unit.finish({"summary": summary, "seconds": round(time.perf_counter() - started, 3)})
            stage.finished(
                f"{one.name}: {summary['items']} items, accuracy {summary['accuracy']:.3f}, "
                f"gold log-probability {summary['gold_logprob']:.3f}"
            )

        references = {run.evaluator.evaluate(one.job and one.job.unit, report, one.seed, "report"): one for one in todo}
        collect(stage, references, on_done, lambda: "engines score the report split", note=news_of(run, "pool"))
