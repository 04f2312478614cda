"""How many fine-tunes a study makes, from its config and the number of its tasks: counted here and nowhere else.

The counts are what a study makes where all its mixtures differ. Mixtures that nearly coincide are trained once
(``search.merge_distance``), so that a study may make fewer; how many candidates ASHA promotes depends on their scores,
and with ``report_seeds: auto`` the seeds that a verdict takes do. A search by merges trains the grid at most.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil, log2

from taskpgm_ray.config import FAMILIES, PAIRWISE, StudyConfig

FIRST_LOOK = 3
"""Fewer seeds say next to nothing of their own spread."""
LEAST_HALFWAY = 3
"""Of fewer tasks' distances there is no order that could change."""
LEAST_PILOTS = 6
"""Mixtures, both merged and trained, from which one and the same order can warrant merges."""
OF_ONE_TASK = ("adapters", "noise")
"""Kinds of fine-tunes with the budget of ``finetune``; the others have that of ``search``."""


@dataclass(frozen=True)
class FineTunes:
    """Fine-tunes of one kind and one budget."""

    kind: str
    """``adapters`` (one a task), ``noise`` (a second one of some tasks), ``trials``, ``finalists`` (fresh seeds for the
    report split), ``budgets``, ``final`` (what is handed over)."""
    jobs: int
    share: float = 1.0
    """Part of the full budget: of ``finetune`` for adapters, of ``search`` for all others."""


def fine_tunes(config: StudyConfig, tasks: int) -> list[FineTunes]:
    """Every fine-tune of a study of ``tasks`` tasks, in the order in which they run; no row without jobs."""
    rows = [FineTunes("adapters", tasks), FineTunes("noise", noise_tasks(config, tasks))]
    if config.search.balances:
        rows += _trials(config)
        looks = report_looks(config)
        # The winner and uniform.
        often = 1 + ("uniform" in config.search.baselines)
        few = config.evaluation.other_seeds or looks[0]
        rows.append(FineTunes("finalists", often * looks[-1] + (methods(config) - often) * few))
        rows += _budgets(config, tasks)
        # Of a balance that no trial had; of another it is the trial's.
        rows.append(FineTunes("final", int(config.search.choose == "curve" and _balances(config) > 1)))
    return [row for row in rows if row.jobs]


def jobs_by_kind(config: StudyConfig, tasks: int) -> Counter[str]:
    """Kind of fine-tunes -> how many of all budgets together; 0 of a kind that the study has none of."""
    found: Counter[str] = Counter()
    for row in fine_tunes(config, tasks):
        found[row.kind] += row.jobs
    return found


def noise_tasks(config: StudyConfig, tasks: int) -> int:
    """Tasks with a second fine-tune, by which the noise floor is measured.

    None where no kernel of a search asks for it, and none in a pool of two, whose mixture is uniform by symmetry.
    """
    measured = set(config.search.affinities or (config.affinity.kind,)) - {"text", PAIRWISE}
    if config.affinity.gamma != "noise" or not measured or tasks < 3:
        return 0
    return min(config.affinity.noise_tasks, tasks)


def halfway_tasks(config: StudyConfig, tasks: int) -> int:
    """Tasks whose adapters are kept, scored and compared at half of their budget too; none where they were too few."""
    count = min(config.affinity.halfway_tasks, tasks)
    return count if count >= LEAST_HALFWAY else 0


def scored_adapters(config: StudyConfig, tasks: int) -> int:
    """Adapters that the probe set is scored with, those of tasks half-way and a second time included; at most."""
    early = (config.of_proxy() or config).finetune.early
    # All at half of the first share, at that share, and where none settles at each of its doubles.
    points = 1 + (halfway_tasks(config, tasks) / tasks if early is None else 1 + ceil(log2(1 / early.share)))
    return round(points * tasks) + noise_tasks(config, tasks)


def contenders(config: StudyConfig) -> int:
    """Families of mixtures that may win: every affinity, kernels with each bandwidth, with every utility."""
    search = config.search
    kinds = search.affinities or (config.affinity.kind,)
    variants = sum(1 if kind in ("text", PAIRWISE) else len(search.gammas) for kind in kinds)
    return variants * len(search.utilities)


def candidates(config: StudyConfig) -> int:
    """Mixtures that a search tries: the balances of every family, and the baselines that are no family."""
    return (contenders(config) + _comparators(config)) * _balances(config) + _plain_baselines(config)


def merges(config: StudyConfig) -> int:
    """Weighted merges of the single-task adapters that are scored on the search split, at most."""
    search = config.search
    if not search.balances or not (search.screen or searches_by_merges(config)):
        return 0
    return candidates(config) + _further_draws(config) + (search.merges if searches_by_merges(config) else 0)


def searches_by_merges(config: StudyConfig) -> bool:
    """Whether balances are looked for by merging: not where the user has set one."""
    return config.search.algorithm == "merge" and config.search.balances > 0 and config.mixture.fixed_tau(1) is None


def merge_pilots(config: StudyConfig) -> int:
    """Mixtures on which a search by merges measures, at most, whether they rank as training does.

    The baselines, every balance of a family that cannot win, and the two ends of every other path.
    """
    comparators = _comparators(config) * _balances(config)
    return _plain_baselines(config) + _further_draws(config) + comparators + 2 * contenders(config)


def methods(config: StudyConfig) -> int:
    """What the report split judges by its best mixture: every family, and every baseline that is none."""
    return contenders(config) + _comparators(config) + _plain_baselines(config)


def search_seeds(config: StudyConfig) -> range:
    """The seeds of every trial's fine-tunes."""
    return range(config.seed, config.seed + config.search.seeds)


def report_looks(config: StudyConfig) -> tuple[int, ...]:
    """Fine-tunes of the winner and of uniform at each look of the report split: one look unless they are ``auto``.

    Everything else that is judged has ``evaluation.other_seeds``, or as many as in the first look.
    """
    evaluation = config.evaluation
    if evaluation.report_seeds != "auto":
        return (evaluation.report_seeds,)
    looks = [FIRST_LOOK]
    while looks[-1] < evaluation.most_report_seeds:
        looks.append(min(-(-3 * looks[-1] // 2), evaluation.most_report_seeds))
    return tuple(looks)


def report_seeds(config: StudyConfig, count: int | None = None) -> range:
    """The seeds of the fine-tunes that the report split judges: none that a trial had.

    A mixture that won by the luck of its trials would be judged by that very luck.

    Args:
        config: Of the study.
        count: How many; by default those of the first look.
    """
    first = search_seeds(config).stop
    return range(first, first + (report_looks(config)[0] if count is None else count))


def _trials(config: StudyConfig) -> list[FineTunes]:
    search = config.search
    balances = contenders(config) * _balances(config)
    # Comparators and baselines have the full budget only.
    others = _comparators(config) * _balances(config) + _plain_baselines(config)
    rows = []
    for rung in range(search.rungs):
        promoted = -(-balances // search.reduction**rung)
        last = rung == search.rungs - 1
        share = 1 / search.reduction ** (search.rungs - 1 - rung)
        rows.append(FineTunes("trials", (promoted + others * last) * search.seeds, share))
    return rows


def _budgets(config: StudyConfig, tasks: int) -> list[FineTunes]:
    """Greedy, heaviest and random tasks for each number of them; the winner and uniform on each part of the budget."""
    search, seeds = config.search, len(report_seeds(config))
    fewer = sum(k < tasks for k in search.task_counts)
    parts = [FineTunes("budgets", 2 * seeds, share) for share in sorted(search.budget_fractions)]
    return [FineTunes("budgets", 3 * fewer * seeds), *parts]


def _balances(config: StudyConfig) -> int:
    """Candidates of a family: one where the user set the balance."""
    return config.search.balances if config.mixture.fixed_tau(1) is None else 1


def _comparators(config: StudyConfig) -> int:
    """Families that may not win: the text affinity as a baseline, and what the paper does with its own."""
    search = config.search
    return sum(name in FAMILIES and name not in search.affinities for name in set(search.baselines))


def _further_draws(config: StudyConfig) -> int:
    """Mixtures that ``random`` has beside its first: one for every seed."""
    return (config.search.seeds - 1) * ("random" in config.search.baselines)


def _plain_baselines(config: StudyConfig) -> int:
    return sum(name not in FAMILIES for name in config.search.baselines)
