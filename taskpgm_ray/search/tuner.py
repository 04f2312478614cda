"""The search itself: Ray Tune over the candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskpgm_ray.cluster import root_cause
from taskpgm_ray.config import SearchConfig
from taskpgm_ray.errors import EvaluationError, TaskPGMError
from taskpgm_ray.search.trial import MixtureTrial, TrialPlan
from taskpgm_ray.storage import Storage


def run_search(
    plans: Sequence[TrialPlan], config: SearchConfig, fleet: Any, evaluator: Any, storage: Storage, callback: Any
) -> None:
    """Run every trial that is not finished; finished ones are found by their units and not repeated.

    Args:
        plans: All trials of the search.
        config: Concurrency.
        fleet: Where trials train.
        evaluator: Handle of the evaluator actor.
        storage: The study's folder; Tune keeps its own state in its subfolder ``ray``.
        callback: A ``tune.Callback`` that shows progress.

    Raises:
        TaskPGMError: Trials failed; the message names them and the first reason.
    """
    from ray import tune
    from ray.tune import RunConfig, TuneConfig, Tuner

    todo = {plan.name: plan for plan in plans if not plan.unit.done()}
    if not todo:
        return
    trainable = tune.with_resources(
        tune.with_parameters(MixtureTrial, plans=todo, fleet=fleet, evaluator=evaluator), {"CPU": 0.01}
    )
    results = Tuner(
        trainable,
        param_space={"trial": tune.grid_search(list(todo))},
        tune_config=TuneConfig(max_concurrent_trials=config.concurrency, reuse_actors=True),
        run_config=RunConfig(
            name="search",
            storage_path=(storage / "ray").uri if "://" in storage.uri else (storage / "ray").path(),
            verbose=0,
            callbacks=[callback],
        ),
    ).fit()
    failed = [plan.name for plan in todo.values() if not plan.unit.done()]
    if failed:
        error = next((root_cause(e) for e in results.errors), None)
        kind = type(error) if isinstance(error, TaskPGMError) else EvaluationError
        raise kind(f"{len(failed)} of {len(todo)} trials failed ({', '.join(failed)}); the first reason: {error}")
