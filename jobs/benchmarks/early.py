"""Affinities of adapters that are not trained to their end (ours) against those of the whole budget.

``TASKPGM_BENCH_CONFIG``: the study (default: the quickstart); what is trained for it lies under
``TASKPGM_BENCH_FOLDER`` (default: runs/early) and is used again. Every adapter is trained once, and kept at `SHARES` of
its budget. A row says how like the divergences are (Spearman, JSD), how far the mixtures are apart (total variation, at
the balances `TAUS`, by the study's bandwidth in the unit of the median divergence), and what the early mixture loses:
its energy above that of the whole budget's mixture under the whole budget's S, as a part of what uniform is above it.
The last rows are ``finetune.early``, which goes on only with tasks that have not settled.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.stats import spearmanr

from jobs.benchmarks._common import row
from taskpgm_ray import Study, load_config
from taskpgm_ray.affinity.halfway import Halfway
from taskpgm_ray.affinity.stage import compute_affinities
from taskpgm_ray.config import EarlySection
from taskpgm_ray.early import finetune_early
from taskpgm_ray.finetune.stage import finetune_pool, second_jobs, single_task_jobs
from taskpgm_ray.mrf import solve
from taskpgm_ray.scoring.stage import score_pool

SHARES = (0.1, 0.125, 0.25, 0.5)
TAUS = (0.0, 0.5, 2.0)
CORRELATION, MOVED, SPENT = 0.95, 0.05, 0.25
"""Targets: least rank correlation, most total variation at tau = 0.5, most of the training steps."""


def run():
    """A row for each share, and one for fine-tunes that end where they have settled."""
    quickstart = Path(__file__).resolve().parents[1] / "quickstart.yaml"
    folder = os.environ.get("TASKPGM_BENCH_FOLDER", "runs/early")
    config = load_config(
        os.environ.get("TASKPGM_BENCH_CONFIG", quickstart), [f"storage={folder}", "affinity.halfway_tasks=0"]
    )
    study = Study(config, Console(quiet=True))
    with study.driving():
        tasks, session = study.prepare(), study.session
        jobs = [replace(job, parts=tuple(map(job.part, SHARES))) for job in single_task_jobs(tasks, session)]
        again = second_jobs(jobs, session)
        finetune_pool([*jobs, *again], session)
        names, seconds = [task.name for task in tasks], {job.tasks[0].name: job.name for job in again}
        full = compute_affinities(score_pool([*jobs, *again], tasks, session), names, session, seconds)

        def affinities(some):
            return compute_affinities(score_pool(some, tasks, session), names, session)

        rows = []
        for share in SHARES:
            rows += compared(f"{share:.1%} of the steps", affinities([job.cut(share) for job in jobs]), full, share)
        ended = finetune_early(jobs, EarlySection(), session)
        spent = float(np.mean([job.until for job in ended]))
        rows += compared(f"finetune.early, {spent:.0%} of the steps", affinities(ended), full, spent)
    return rows


def compared(what, early, full, spent):
    """Rows of one set of adapters against those of the whole budget."""
    n = len(full.tasks)
    pairs = np.triu_indices(n, 1)
    correlation = float(spearmanr(early.divergence[pairs], full.divergence[pairs]).statistic)
    kernel = full.above_noise("jsd")
    both = Halfway(full.tasks, {"jsd": early.divergence}, {"jsd": full.divergence})
    then, end = both.kernels("jsd", kernel.gamma, kernel.taken_off)
    said = [row(f"{what}: rank correlation", correlation, target=CORRELATION, met=correlation >= CORRELATION)]
    for tau in TAUS:
        first, last = solve(then, tau).weights, solve(end, tau)
        moved = float(np.abs(first - last.weights).sum() / 2)
        best, uniform = energy(end, tau, last.weights), energy(end, tau, np.full(n, 1 / n))
        lost = (energy(end, tau, first) - best) / (uniform - best) if uniform > best else 0.0
        text = f"{what}: moved at tau {tau:g} (lost of the gain on uniform: {lost:.0%})"
        target, met = (MOVED, moved <= MOVED) if tau == 0.5 else (None, None)
        said.append(row(text, moved, target=target, met=met))
    said.append(row(f"{what}: part of the steps", spent, target=SPENT, met=spent <= SPENT))
    return said


def energy(S, tau, weights):
    """What the mixture of this balance has least of."""
    return float(weights @ S @ weights / 2 - tau * S.mean(axis=1) @ weights)
