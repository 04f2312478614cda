"""The live parts of a run: Ray, the fleet, the engine pool and the evaluator, each started on first need."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeVar

from rich.console import Console
from rich.markup import escape

from taskpgm_ray.config import EngineConfig, LaneConfig, StudyConfig
from taskpgm_ray.errors import InputError
from taskpgm_ray.models import BaseModelRef, prepare
from taskpgm_ray.runtime.capacity import LANE_BYTES, check_capacity, most_lanes, side_by_side
from taskpgm_ray.runtime.cluster import end_ray, ensure_ray, stop_listening, where
from taskpgm_ray.runtime.preflight import preflight
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.scoring.vllm_registry import check_served
from taskpgm_ray.storage import Storage

if TYPE_CHECKING:
    from taskpgm_ray.evaluation.evaluator import Evaluator
    from taskpgm_ray.finetune.fleet import Fleet
    from taskpgm_ray.scoring.pool import EnginePool

Workers = TypeVar("Workers", LaneConfig, EngineConfig)
IDLE_LANE_SECONDS, IDLE_ENGINE_SECONDS = 5.0, 30.0
"""Where somebody else may wait for the resources. A lane of one node starts in less time than an engine."""


class Session:
    """The `taskpgm_ray.runtime.run.Run` that stages work with: owns what it started, and ends it."""

    def __init__(
        self, config: StudyConfig, model: BaseModelRef, storage: Storage, console: Console, offline: bool = False
    ) -> None:
        self.config, self.model, self.storage, self.offline = config, model, storage, offline
        self.progress = Progress(storage, console)
        self._connected = self._owns_ray = False
        self._room = False
        """Whether lanes and engines need not make room for each other."""

    def connect(self) -> None:
        """Connect to Ray, and make sure that the base model's files are there; once.

        Raises:
            InputError: The session is offline, where everything has to be finished.
        """
        if self.offline:
            raise InputError(
                f"something of {self.storage.uri} is not finished, or was made by another version: "
                "taskpgm run --config ... goes on with it"
            )
        if not self._connected:
            preflight(self.config)
            self.progress.console.print(f"  [dim]Ray: {escape(where(self.config.cluster))}[/]", soft_wrap=True)
            self._owns_ray = ensure_ray(self.config.cluster)
            self._room = self._owns_ray and side_by_side(self.config)
            for line in check_capacity(self.config):
                self.progress.console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
            prepare(self.model)
            self.model.config()
            check_served(self.config, self.model)
            self._connected = True

    @cached_property
    def fleet(self) -> Fleet:
        """The training lanes."""
        from taskpgm_ray.finetune.fleet import Fleet
        from taskpgm_ray.finetune.lane import LaneSpec

        self.connect()
        lanes = self._that_fit(self._that_end(self.config.finetune.lanes, IDLE_LANE_SECONDS))
        return Fleet(LaneSpec(self.model, self.config.finetune.adapter, lanes, self.storage / "ray"))

    @cached_property
    def pool(self) -> EnginePool:
        """The scoring engines, of the kind that scores this study."""
        from taskpgm_ray.scoring.auto_scorer import scorer_of

        return self.pool_of(scorer_of(self.config, self.model, self.storage))

    def pool_of(self, kind: Literal["vllm", "hf"]) -> EnginePool:
        """A pool of engines of this kind; whoever asks for it closes it."""
        from taskpgm_ray.scoring.engine import EngineSpec
        from taskpgm_ray.scoring.pool import EnginePool

        self.connect()
        engines = self._that_end(self.config.scoring.engines, IDLE_ENGINE_SECONDS)
        return EnginePool(EngineSpec(kind, self.model, self.config.finetune.adapter, engines))

    @cached_property
    def evaluator(self) -> Evaluator:
        """lm-eval over the engine pool."""
        from taskpgm_ray.evaluation.evaluator import Evaluator

        return Evaluator(self.model, self.pool, self.config)

    def _that_end(self, workers: Workers, seconds: float) -> Workers:
        """The lanes or engines with the time after which they give their resources back, if they ever have to."""
        if workers.idle_seconds is not None or self._room:
            return workers
        return workers.model_copy(update={"idle_seconds": seconds})

    def _that_fit(self, lanes: LaneConfig) -> LaneConfig:
        """No more lanes than the cluster's nodes have memory to steer."""
        most = most_lanes()
        if lanes.max <= most:
            return lanes
        self.progress.console.print(
            f"[yellow]finetune.lanes.max is {lanes.max}, and {most} are used: steering a lane takes "
            f"{LANE_BYTES / 1e9:g} GB of some node, wherever the lane trains; take a head with more memory[/]",
            soft_wrap=True,
        )
        return lanes.model_copy(update={"max": most, "min": min(lanes.min, most)})

    def release(self) -> None:
        """End lanes and engines, so that others have their resources; Ray stays."""
        # The evaluator needs no end of its own: it dies with the last handle on it.
        self.__dict__.pop("evaluator", None)
        for name in ("fleet", "pool"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    def close(self) -> None:
        """End lanes, engines, and the local Ray if this session started it."""
        if self._owns_ray:
            stop_listening()
        self.release()
        if self._owns_ray:
            end_ray()
        self._connected = self._owns_ray = False
