"""The live parts of a run: Ray, the fleet, the engine pool and the evaluator, each started on first need."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from taskpgm_ray.cluster import ensure_ray
from taskpgm_ray.config import StudyConfig
from taskpgm_ray.models import BaseModelRef, prepare
from taskpgm_ray.storage import Storage
from taskpgm_ray.validate import preflight


class Session:
    """Owns what a run started, and ends it. A finished study starts nothing."""

    def __init__(self, config: StudyConfig, model: BaseModelRef, storage: Storage) -> None:
        self.config, self.model, self.storage = config, model, storage
        self._connected = self._owns_ray = False
        self.scorer: str = config.scoring.scorer
        """Kind of the engines; the scoring stage puts its choice in the place of ``auto``."""

    def connect(self) -> None:
        """Connect to Ray, and make sure that the base model's files are there; once."""
        if not self._connected:
            preflight(self.config)
            self._owns_ray = ensure_ray(self.config.cluster)
            prepare(self.model)
            self._connected = True

    @cached_property
    def fleet(self) -> Any:
        """The training lanes (`taskpgm_ray.finetune.fleet.Fleet`)."""
        from taskpgm_ray.finetune.fleet import Fleet
        from taskpgm_ray.finetune.lane import LaneSpec

        self.connect()
        return Fleet(LaneSpec(self.model, self.config.finetune.lora, self.config.finetune.lanes, self.storage / "ray"))

    @cached_property
    def pool(self) -> Any:
        """The scoring engines (`taskpgm_ray.scoring.pool.EnginePool`)."""
        return self.pool_of(self.scorer)

    def pool_of(self, kind: Any) -> Any:
        """A pool of ``vllm`` or ``hf`` engines; whoever asks for it closes it."""
        from taskpgm_ray.scoring.engine import EngineSpec
        from taskpgm_ray.scoring.pool import EnginePool

        self.connect()
        return EnginePool(EngineSpec(kind, self.model, self.config.finetune.lora, self.config.scoring.engines))

    @cached_property
    def evaluator(self) -> Any:
        """lm-eval over the engine pool (`taskpgm_ray.search.evaluator`)."""
        from taskpgm_ray.search.evaluator import start_evaluator

        return start_evaluator(self.model, self.pool, self.config)

    def close(self) -> None:
        """End lanes, engines, and the local Ray if this session started it."""
        # The evaluator needs no end of its own: it dies with the last handle on it.
        self.__dict__.pop("evaluator", None)
        for name in ("fleet", "pool"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()
        if self._owns_ray:
            import ray

            ray.shutdown()
        self._connected = self._owns_ray = False
