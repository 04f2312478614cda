"""What each single-task adapter gains on the search split over the base model: the targeted utility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run, news_of
from taskpgm_ray.search.gain import Gain
from taskpgm_ray.search.trials import Planner, asked_base, measured_by, read_items, write_items
from taskpgm_ray.storage import Unit, fingerprint

BASE = "base"


@dataclass(frozen=True)
class _Lift:
    """One model (the base or an adapter) on the search split."""

    name: str
    adapter: Unit | None
    unit: Unit


def measure_lift(jobs: Sequence[Job], planner: Planner, run: Run) -> Gain:
    """Search score of each task's adapter minus that of the base model.

    The search split only: the report split may not choose anything.
    """
    planner.search_split.require("search")
    lifts = [_lift(BASE, None, planner), *(_lift(job.name, job.unit, planner) for job in jobs)]
    with missing(run, "lift", lifts) as (stage, todo):

        def on_done(one: _Lift, rows: list[ItemScore]) -> None:
            write_items(one.unit, rows)
            summary = summarise(rows)
            one.unit.finish({"summary": summary})
            stage.finished(
                f"{one.name}: gold log-probability {summary['gold_logprob']:.3f} on {summary['items']} items"
            )

        references = {
            run.evaluator.evaluate(one.adapter, planner.search_split, planner.config.seed, "search"): one
            for one in todo
        }
        collect(stage, references, on_done, lambda: "engines score the single-task adapters", note=news_of(run, "pool"))
    base, *scores = [read_items(one.unit) for one in lifts]
    return Gain.of([(rows, base) for rows in scores], planner.config)


def _lift(name: str, adapter: Unit | None, planner: Planner) -> _Lift:
    identity = fingerprint(
        "lift",
        adapter.path if adapter else asked_base(planner),
        planner.search_split.path,
        *measured_by(planner.config),
    )
    folder = adapter.path.rpartition("/")[2] if adapter else BASE
    return _Lift(name, adapter, Unit(planner.storage, f"lifts/{folder}-{identity}"))
