"""Single-task fine-tunes that end early: trained on only where it still changes what a task is near to.

Every adapter is trained to a share of its budget and compared there with what it was at half of it. A task whose
divergences from all others have kept their order has its adapter; the others are trained on to twice the share and
compared again, until all have settled or have spent their budget. Nothing is trained twice: a fine-tune that goes on
does so from where it was cut, and is in the end what it would have been at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from taskpgm_ray.affinity.rounds import compare_in_rounds
from taskpgm_ray.affinity.stage import with_sound_scores
from taskpgm_ray.config import EarlySection
from taskpgm_ray.errors import InputError
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.finetune.stage import HALF, finetune_pool
from taskpgm_ray.numerics.types import FloatArray
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.scoring.stage import score_pool
from taskpgm_ray.tasks.prepare import Task

ROUNDING = 1e-9
"""Of a rank correlation: an order that was kept in full may come out a little below one."""


def finetune_early(jobs: Sequence[Job], early: EarlySection, run: Run) -> list[Job]:
    """Train each of these fine-tunes as far as its task's divergences need it.

    Args:
        jobs: The whole fine-tunes, one a task.
        early: The first share, and the rank correlation from which on a task has settled.
        run: Lanes, engines and progress.

    Returns:
        The fine-tunes as far as they went (`Job.until`), without those that failed for good.

    Raises:
        InputError: An earlier run had another share, and kept other points of the fine-tunes.
        TaskPGMError: As of `finetune_pool` and `compare_in_rounds`.
    """
    share = early.share
    kept = finetune_pool([_first(job, share) for job in jobs], run)
    early_on = [job if job.until >= 1 else job.cut(share * HALF) for job in kept]
    if lost := [job.name for job in early_on if not job.unit.done()]:
        raise InputError(
            f"the fine-tunes of {', '.join(lost[:5])} went farther in an earlier run than finetune.early.share, and "
            f"what they were at half of {share:g} was not kept: set the share of that run, or leave finetune.early out"
        )
    before = _divergences(early_on, run)
    while True:
        now = _divergences(kept, run)
        moving = {job.name for job in kept if job.until == share} - set(settled(before, now, kept, early.until))
        run.progress.console.print(
            f"  at {share:.0%} of their budget {len(moving)} of {len(kept)} tasks still change what they are near to",
            highlight=False,
        )
        if share >= 1 or not moving:
            return kept
        trained = {job.name: job.unit.manifest()["tokens"] for job in kept}
        share = min(2 * share, 1.0)
        further = finetune_pool([_to(job, share) if job.name in moving else job for job in kept], run, trained)
        # A fine-tune that fails on its way leaves the pool, and its row of the comparison.
        rows = [i for i, job in enumerate(kept) if job.name in {one.name for one in further}]
        kept, before = further, now[np.ix_(rows, rows)]


def settled(before: FloatArray, now: FloatArray, jobs: Sequence[Job], until: float) -> list[str]:
    """The tasks whose divergences from all others have kept their order.

    Args:
        before: Divergences [n, n] at half of the share.
        now: The same at the share.
        jobs: [n] whose they are.
        until: Least rank correlation (Spearman) of a task's n - 1 divergences.
    """
    n = len(jobs)
    found = []
    for i, job in enumerate(jobs):
        others = np.arange(n) != i
        first, then = before[i, others], now[i, others]
        # Divergences that are all one have no order that could have been kept.
        ordered = np.ptp(first) > 0 and np.ptp(then) > 0
        if ordered and spearmanr(first, then).statistic >= until - ROUNDING:
            found.append(job.name)
    return found


def _first(job: Job, share: float) -> Job:
    """What a fine-tune is first compared as: cut at the share, or whole where an earlier run went on without a cut.

    One that an earlier run cut and then went on with is compared as it was cut, or its finished run would not be found.
    """
    cut = _to(job, share)
    unkept = not all(unit.done() for unit in (cut.unit, *(part.unit for part in cut.parts)))
    return job if unkept and job.unit.done() else cut


def _to(job: Job, share: float) -> Job:
    """The fine-tune up to a share, with the adapter at half of that kept."""
    return replace(job.cut(share), parts=(job.part(share * HALF),))


def _divergences(jobs: Sequence[Job], run: Run) -> FloatArray:
    """Of the adapters as far as they are trained [n, n]."""
    tasks: list[Task] = [job.tasks[0] for job in jobs]

    def compare() -> FloatArray:
        return compare_in_rounds(lambda probes: score_pool(jobs, tasks, run, probes), tasks, run)[1].divergence

    return with_sound_scores(compare, run)
