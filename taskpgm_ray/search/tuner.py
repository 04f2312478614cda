"""The search itself: Ray Tune over the candidates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune import Callback, CheckpointConfig, RunConfig, TuneConfig, Tuner

from taskpgm_ray.cluster import root_cause
from taskpgm_ray.config import SearchConfig
from taskpgm_ray.errors import EvaluationError, TaskPGMError
from taskpgm_ray.finetune.view import describe
from taskpgm_ray.progress import QUIET_SECONDS, Stage
from taskpgm_ray.search.plan import TrialPlan
from taskpgm_ray.search.trial import MixtureTrial
from taskpgm_ray.storage import Storage


def run_search(
    plans: Sequence[TrialPlan], config: SearchConfig, fleet: Any, evaluator: Any, storage: Storage, stage: Stage
) -> None:
    """Run every trial that is not finished; finished ones are found by their units and not repeated.

    Args:
        plans: All trials of the search.
        config: Concurrency.
        fleet: Where trials train.
        evaluator: Handle of the evaluator actor.
        storage: The study's folder; Tune keeps its own state in its subfolder ``ray``.
        stage: Shows each finished trial.

    Raises:
        TaskPGMError: Trials failed; the message names them and the first reason.
    """
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
            # A trial's unit is its checkpoint: a finished trial is found there and not run again.
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[_Shown(stage, fleet)],
        ),
    ).fit()
    failed = [plan.name for plan in todo.values() if not plan.unit.done()]
    if failed:
        error = next((root_cause(e) for e in results.errors), None)
        kind = type(error) if isinstance(error, TaskPGMError) else EvaluationError
        raise kind(f"{len(failed)} of {len(todo)} trials failed ({', '.join(failed)}); the first reason: {error}")


class _Shown(Callback):
    """Prints a line for every finished trial, and now and then what is going on."""

    def __init__(self, stage: Stage, fleet: Any) -> None:
        self.stage, self.fleet = stage, fleet
        self.spoken = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks with its own state; a terminal cannot be pickled, and is not part of that state.
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in its loop, in the driver's process."""
        if time.monotonic() - self.spoken > QUIET_SECONDS:
            self.stage.note(describe(self.fleet.status()))
            self.spoken = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver's process."""
        result = trial.last_result
        self.stage.finished(
            f"{result['name']}: accuracy {result['accuracy']:.3f}, gold log-probability {result['gold_logprob']:.3f} "
            f"on {result['items']} items, {result['trained_tokens']} tokens trained",
            result["trained_tokens"],
        )
