"""A job's data, in training order; the next job's are loaded while this one trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from taskpgm_ray.finetune.batching import batches, tokens_of
from taskpgm_ray.finetune.job import Job, Recipe
from taskpgm_ray.finetune.stream import stream
from taskpgm_ray.tasks.padding import Pair


@dataclass(frozen=True)
class JobData:
    """The examples of a job's tasks as token ids."""

    pools: Sequence[Sequence[Pair]]
    """Training examples of each task."""
    heldout: Sequence[Pair]
    """Probes of a single-task job; empty for a mixture."""
    orders: Sequence[int] | None = None
    """The job's."""

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(tokens_of(pair) for pool in (*self.pools, self.heldout) for pair in pool)

    def batches(self, weights: Sequence[float], recipe: Recipe) -> Iterator[list[Pair]]:
        """Endless batches in the order that the recipe's seed decides."""
        order = stream(weights, [len(pool) for pool in self.pools], recipe.seed, self.orders)
        examples = (self.pools[task][example] for task, example in order)
        return batches(examples, tokens_of, recipe.batch_size, recipe.sort_window, recipe.steps, recipe.seed)


def load(job: Job) -> JobData:
    """Read a job's examples from its tasks' units.

    Raises:
        StorageError: They are missing or damaged.
    """
    heldout = job.tasks[0].examples("probe") if len(job.tasks) == 1 else []
    return JobData([task.examples("train") for task in job.tasks], heldout, job.orders)


class Loader:
    """Loads jobs' data, one job ahead of the training."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="job-data")
        self.ahead: tuple[str, Future[JobData]] | None = None

    def prefetch(self, job: Job | None) -> None:
        """Begin to load what is likely to be asked for next."""
        if job is not None:
            self.ahead = (job.unit.path, self.thread.submit(load, job))

    def get(self, job: Job) -> JobData:
        """The job's data, perhaps loaded already.

        Raises:
            StorageError: They are missing or damaged.
        """
        ahead, self.ahead = self.ahead, None
        return ahead[1].result() if ahead is not None and ahead[0] == job.unit.path else load(job)
