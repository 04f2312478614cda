"""The search itself: Ray Tune over the candidates, with ASHA over budgets and Optuna as another algorithm."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, CheckpointConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from taskpgm_ray.config import SearchConfig
from taskpgm_ray.errors import ConfigError
from taskpgm_ray.finetune.fleet_view import describe
from taskpgm_ray.runtime.cluster import root_cause, share_of_this_node
from taskpgm_ray.runtime.progress import QUIET_SECONDS, News, Stage
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.optuna_space import PathSpace
from taskpgm_ray.search.trainable import MixtureTrial
from taskpgm_ray.search.trials import TrialPlan
from taskpgm_ray.storage import Storage


class TuneRunner:
    """Runs trials on Ray Tune; what a trial finished is kept in its own units, and is not repeated.

    Args:
        config: Concurrency, ASHA's rungs, algorithm, loggers.
        fleet: Where trials train.
        evaluator: Where trials are scored.
        storage: The study's folder; Tune keeps its own state, and TensorBoard's files, in its subfolder ``ray``.
        stage: Shows each finished trial.
    """

    def __init__(self, config: SearchConfig, fleet: Any, evaluator: Any, storage: Storage, stage: Stage) -> None:
        self.config, self.fleet, self.evaluator, self.storage, self.stage = config, fleet, evaluator, storage, stage

    def grid(self, plans: Sequence[TrialPlan]) -> dict[str, BaseException]:
        """Run every plan; returns what went wrong, by the trial's name. A failed trial does not stop the others."""
        if not plans:
            return {}
        by_name = {plan.name: plan for plan in plans}
        return self._fit(by_name.__getitem__, {"trial": tune.grid_search(list(by_name))}, 1, None)

    def optuna(self, space: PathSpace, families: Sequence[Family], samples: int, seed: int) -> dict[str, BaseException]:
        """Let Optuna propose ``samples`` candidates, those of an interrupted search included."""
        from ray.tune.search.optuna import OptunaSearch

        tried = [point for point in space.points() if space.plan(point).done()]
        left = samples - len(tried)
        if left <= 0:
            return {}
        algorithm = OptunaSearch(
            points_to_evaluate=tried,
            evaluated_rewards=[space.plan(point).score(self.config.metric) for point in tried],
            # The sampler's first draws ignore what was tried: with the same seed they would be the same again.
            seed=seed + len(tried),
        )
        names = [family.name for family in families if family.contender]
        parameters = {"family": tune.choice(names), "position": tune.uniform(0.0, 1.0)}
        return self._fit(space.propose, parameters, left, algorithm)

    def _fit(
        self, plan_of: Callable[[Any], TrialPlan], parameters: dict[str, Any], samples: int, algorithm: Any
    ) -> dict[str, BaseException]:
        trainable = tune.with_resources(
            tune.with_parameters(
                MixtureTrial,
                plan_of=_Plans(plan_of, single=algorithm is None),
                fleet=self.fleet,
                evaluator=self.evaluator,
            ),
            # No CPU, which a lane may need, and the driver's node, which the study outlives in no case.
            {"CPU": 0, **share_of_this_node()},
        )
        folder = self.storage / "ray"
        tuner = Tuner(
            trainable,
            param_space=parameters,
            tune_config=TuneConfig(
                metric=self.config.metric,
                mode="max",
                num_samples=samples,
                search_alg=algorithm,
                scheduler=scheduler(self.config),
                max_concurrent_trials=self.config.concurrency,
                reuse_actors=True,
                trial_name_creator=_trial_name,
            ),
            run_config=RunConfig(
                name="search",
                storage_path=folder.uri if "://" in folder.uri else folder.path(),
                verbose=0,
                # A run's unit is its checkpoint: a finished run is found there and not done again.
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_Shown(self.stage, self.fleet), *loggers(self.config, Path(self.storage.uri).name)],
            ),
        )
        with _as_part_of_a_study():
            results = tuner.fit()
        failed: dict[str, BaseException] = {}
        for result in (results[index] for index in range(len(results))):
            if result.error is not None:
                name = _Plans(plan_of, single=algorithm is None)(result.config or {}).name
                failed[name] = root_cause(result.error)
                self.stage.note(f"{name}: FAILED: {type(failed[name]).__name__}: {failed[name]}")
        return failed


@contextmanager
def _as_part_of_a_study() -> Iterator[None]:
    """Let Ctrl-C end the search as it ends every other stage, and let it be told like every other stage.

    Tune's own handler makes an interrupted search look like a finished one, whose winner would be reported, and stays
    installed afterwards, where it swallows the next interrupt. And whatever its verbosity, its newer output begins with
    a box of settings and the hint to look at a temporary folder with TensorBoard. It also warns of callbacks that take
    long, as those here do on a busy laptop: they ask the fleet how far it is.
    """
    slowness = logging.getLogger("ray.tune.utils.util")
    level = slowness.level
    slowness.setLevel(logging.ERROR)
    wanted = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        slowness.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Plans:
    """From the parameters that Tune chose to a plan."""

    def __init__(self, plan_of: Callable[[Any], TrialPlan], single: bool) -> None:
        self.plan_of, self.single = plan_of, single

    def __call__(self, parameters: dict[str, Any]) -> TrialPlan:
        return self.plan_of(parameters["trial"] if self.single else parameters)


def _trial_name(trial: Any) -> str:
    """What TensorBoard and other trackers call a trial: its candidate, or the point that Optuna proposed."""
    parameters = trial.config
    return str(parameters.get("trial") or f"{parameters['family']}-at-{parameters['position']:.4f}")


def scheduler(config: SearchConfig) -> TrialScheduler:
    """ASHA over the rungs (Li et al. 2020), or none where every candidate gets the full budget."""
    if config.rungs == 1:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="budget",
        grace_period=1,
        reduction_factor=config.reduction,
        # One above the last rung: at it a trial ends by itself, and ASHA never calls that a stop.
        max_t=config.reduction ** (config.rungs - 1) + 1,
    )


def loggers(config: SearchConfig, study: str) -> list[Callback]:
    """W&B's and MLflow's callbacks, where they were asked for; Tune adds TensorBoard, CSV and JSON by itself.

    Raises:
        ConfigError: Its package is not installed.
    """
    made: list[Callback] = []
    for name in config.loggers:
        try:
            if name == "wandb":
                import wandb  # noqa: F401  # Ray's callback imports it only in mid-run
                from ray.air.integrations.wandb import WandbLoggerCallback

                made.append(WandbLoggerCallback(project=f"taskpgm-{study}"))
            else:
                import mlflow  # noqa: F401  # as above
                from ray.air.integrations.mlflow import MLflowLoggerCallback

                made.append(MLflowLoggerCallback(experiment_name=f"taskpgm-{study}"))
        except ImportError as error:
            raise ConfigError(f"search.loggers names {name}, which is not installed: pip install {name}") from error
    return made


class _Shown(Callback):
    """Prints a line for every finished trial, and now and then what is going on."""

    def __init__(self, stage: Stage, fleet: Any) -> None:
        self.stage, self.fleet = stage, fleet
        self.spoken = time.monotonic()
        self.news = News(stage, fleet.note)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks with its own state; a terminal cannot be pickled, and is not part of that state.
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in its loop, in the driver's process."""
        self.news.tell()
        if time.monotonic() - self.spoken > QUIET_SECONDS:
            self.stage.note(describe(self.fleet.status()))
            self.spoken = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver's process."""
        result = trial.last_result
        if not result:
            return  # it failed, which the search reports at its end
        stopped = f", stopped with {result['rungs_left']} budgets to go" if result["rungs_left"] else ""
        self.stage.finished(
            f"{result['name']}: accuracy {result['accuracy']:.3f}, gold log-probability {result['gold_logprob']:.3f} "
            f"on {result['items']} items, {result['trained_tokens']} tokens trained{stopped}",
            result["trained_tokens"],
        )
