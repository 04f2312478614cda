"""What is trained: a mixture of prepared tasks, with a recipe, into one unit of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taskpgm_ray.config import FinetuneConfig, LoraSection
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.prepare import Task


@dataclass(frozen=True)
class Recipe:
    """Everything about a fine-tune but its data and the base model."""

    lora: LoraSection | None
    """The adapter's shape; ``None``: all weights of the base model are trained."""
    steps: int | None
    tokens: int | None
    batch_size: int
    sort_window: int
    learning_rate: float
    warmup_fraction: float
    weight_decay: float
    max_grad_norm: float
    seed: int
    """Decides the data order. The LoRA initialisation has a seed of its own, see ``init_seed``."""
    init_seed: int
    """All adapters of a study start from the same initialisation, so that they differ by their data alone."""

    @property
    def full(self) -> bool:
        """Whether all weights are trained, and stored: a model rather than an adapter."""
        return self.lora is None

    @staticmethod
    def of(config: FinetuneConfig, *, seed: int, init_seed: int, steps: int | None, tokens: int | None) -> Recipe:
        """The configured recipe with a budget and seeds of its own."""
        return Recipe(
            lora=config.adapter,
            steps=steps,
            tokens=tokens,
            batch_size=config.batch_size,
            sort_window=config.sort_window,
            learning_rate=config.learning_rate,
            warmup_fraction=config.warmup_fraction,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            seed=seed,
            init_seed=init_seed,
        )


@dataclass(frozen=True)
class Part:
    """What a fine-tune has made by a share of its budget, kept as an adapter of its own."""

    share: float
    unit: Unit


@dataclass(frozen=True)
class Job:
    """Train this mixture with this recipe and store the adapter, or the model, in this unit."""

    name: str
    tasks: tuple[Task, ...]
    """Only the tasks with a positive weight."""
    weights: tuple[float, ...]
    recipe: Recipe
    unit: Unit
    orders: tuple[int, ...] | None = None
    """Number of each task's order of examples (see `stream`), where it is not its place among ``tasks``."""
    parts: tuple[Part, ...] = ()
    """What is kept of it on the way, as far as it is trained from now on."""
    until: float = 1.0
    """Share of the budget at which it ends; all else of the recipe is that of the whole budget."""
    whole: Unit | None = None
    """Of a job that ends earlier: the unit of the whole fine-tune, which can go on from where this one ended."""

    @property
    def examples(self) -> int:
        """Examples the job will see if its budget is in steps; used to order jobs, longest first."""
        return (self.recipe.steps or 0) * self.recipe.batch_size or (self.recipe.tokens or 0)

    @property
    def home(self) -> Unit:
        """Where the fine-tune's checkpoint and metrics lie, however far it is to go."""
        return self.whole or self.unit

    def part(self, share: float) -> Part:
        """Where the adapter of a share of the budget lies."""
        folder = self.home.path.rpartition("/")[2]
        return Part(share, Unit(self.home.storage, f"parts/{folder}-at-{share:g}"))

    def cut(self, share: float) -> Job:
        """The same fine-tune, as far as a share of its budget; from 1 on the whole one."""
        if share >= 1:
            return replace(self, unit=self.home, until=1.0, whole=None)
        return replace(self, unit=self.part(share).unit, until=share, whole=self.home)


def make_job(
    name: str,
    kind: str,
    mixture: Mapping[str, float],
    tasks: Sequence[Task],
    recipe: Recipe,
    model: BaseModelRef,
    storage: Storage,
) -> Job:
    """The job that trains ``mixture`` (task name -> weight), in the unit ``<kind>/<name>-<fingerprint>``.

    The fingerprint holds the contents of the training examples, not their origin: the same data from another path,
    or a report or balance changed elsewhere, keeps the adapter.
    """
    used = [task for task in tasks if mixture.get(task.name, 0.0) > 0.0]
    # Paired by design: with one seed every mixture of the pool has the same order inside a task, so that what luck an
    # order brings is in all of them. A fine-tune on one task has no other to be paired with.
    places = tuple(i for i, task in enumerate(tasks) if mixture.get(task.name, 0.0) > 0.0)
    orders = places if len(used) > 1 and places != tuple(range(len(used))) else None
    weights = tuple(float(mixture[task.name]) for task in used)
    lora = recipe.lora.model_dump(mode="json") if recipe.lora else None
    identity = [
        [(task.facts.train_content, round(weight, 12)) for task, weight in zip(used, weights, strict=True)],
        {**recipe.__dict__, "lora": lora},
        model.fingerprint,
    ]
    # Held-out losses are measured on the probes, so a single-task job depends on them as well.
    identity.append([task.facts.probe_content for task in used])
    if orders is not None:
        identity.append(["orders", orders])
    unit = Unit(storage, f"{kind}/{name}-{fingerprint('adapter', *identity)}")
    return Job(name, tuple(used), weights, recipe, unit, orders)


def adapter_manifest(job: Job, outcome: dict[str, Any]) -> dict[str, Any]:
    """What is recorded beside a finished adapter."""
    return {
        "name": job.name,
        "weights": {task.name: weight for task, weight in zip(job.tasks, job.weights, strict=True)},
        "seed": job.recipe.seed,
        **outcome,
    }
