"""The contract between a run and its stages: what a stage may ask for, and nothing of how it came to be.

`taskpgm_ray.session.Session` implements it and stands above all stages; tests hand stages something smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.storage import Storage


class Run(Protocol):
    """One run of a study. Asking for lanes, engines or the evaluator starts them; a finished study asks for none."""

    config: StudyConfig
    model: BaseModelRef
    storage: Storage
    """The study's folder."""
    progress: Progress

    def connect(self) -> None:
        """Connect to Ray, and make sure that the base model's files are there; once."""

    @property
    def fleet(self) -> Fleet:
        """The training lanes."""

    @property
    def pool(self) -> EnginePool:
        """The scoring engines, of the kind that scores this study."""

    def pool_of(self, kind: Literal["vllm", "hf"]) -> EnginePool:
        """Engines of this kind; whoever asks for them closes them."""

    @property
    def evaluator(self) -> Evaluator:
        """lm-eval over the engine pool."""


class Fleet(Protocol):
    """See `taskpgm_ray.finetune.fleet.Fleet`."""

    def submit(self, job: Any) -> Any:
        """Queue a `taskpgm_ray.finetune.job.Job`; the object reference becomes its manifest, or raises its error."""

    def status(self) -> Any:
        """What runs, and what waits: a `taskpgm_ray.finetune.fleet_view.FleetStatus`."""

    def note(self) -> str:
        """What holds the fleet up, if something does."""


class EnginePool(Protocol):
    """See `taskpgm_ray.scoring.pool.EnginePool`; every method but ``close`` returns an object reference."""

    def build_segment(self, work: Any, tokens: int) -> Any:
        """Fix the supports of a segment of the probe set."""

    def score(self, works: Sequence[Any], tokens: int) -> Any:
        """Score units of different adapters in one batch."""

    def measure(self, queries: list[Any]) -> Any:
        """Score queries twice, and time the second time."""

    def note(self) -> str:
        """What holds the engines up, if something does."""

    def close(self) -> None:
        """End all engines and the pool."""


class Evaluator(Protocol):
    """See `taskpgm_ray.evaluation.evaluator.Evaluator`."""

    def evaluate(self, adapter: Any, split: Any, seed: int, side: Literal["search", "report"]) -> Any:
        """Score an adapter (``None``: the base model) on a split; becomes one row per item."""

    def answers(self, adapter: Any, split: Any, items: Sequence[str], most_tokens: int) -> Any:
        """What it writes when it is asked these items of the report split; becomes (question, answer) of each."""


def news_of(run: Run, who: Literal["fleet", "pool"]) -> Callable[[], str]:
    """Asks the lanes or the engines what holds them up, when it is called; a finished stage starts neither."""

    def ask() -> str:
        workers: Fleet | EnginePool = getattr(run, who)
        return workers.note()

    return ask
