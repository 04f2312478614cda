"""What each single-task adapter gains on the search split over the base model: the targeted utility."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.search.plan import Planner, measured_by, write_items
from taskpgm_ray.storage import Unit, fingerprint

if TYPE_CHECKING:
    from taskpgm_ray.session import Session


def measure_lift(jobs: Sequence[Job], planner: Planner, session: Session, progress: Progress) -> NDArray[np.float64]:
    """Search score of each task's adapter minus that of the base model, in the search's metric [n].

    The search split only: the report split may not choose anything.
    """
    planner.search.require("search")
    adapters: dict[str, Unit | None] = {"base": None} | {job.name: job.unit for job in jobs}
    units = {name: _unit(adapter, planner) for name, adapter in adapters.items()}
    todo = [name for name, unit in units.items() if not unit.done()]
    with progress.stage("lift", len(units), len(units) - len(todo)) as stage:
        if todo:

            def on_done(name: str, rows: list[ItemScore]) -> None:
                write_items(units[name], rows)
                facts = summarise(rows)
                units[name].finish({"summary": facts})
                stage.finished(f"{name}: gold log-probability {facts['gold_logprob']:.3f} on {facts['items']} items")

            session.connect()
            references: dict[Any, str] = {
                session.evaluator.evaluate.remote(adapters[name], planner.search, planner.config.seed, "search"): name
                for name in todo
            }
            collect(references, on_done, lambda: "engines score the single-task adapters", stage)
    scores = {name: unit.manifest()["summary"][planner.config.search.metric] for name, unit in units.items()}
    return np.array([scores[job.name] - scores["base"] for job in jobs])


def _unit(adapter: Unit | None, planner: Planner) -> Unit:
    identity = fingerprint(
        "lift",
        adapter.path if adapter else planner.model.fingerprint,
        planner.search.path,
        *measured_by(planner.config),
    )
    name = adapter.path.rpartition("/")[2] if adapter else "base"
    return Unit(planner.storage, f"lifts/{name}-{identity}")
