"""Simulated studies: synthetic scores through the product's own search, comparison and verdict.

What is simulated is only what fine-tuning and scoring would give. A fine-tune's score on an item is the item's own
difficulty, the mixture's effect, the fine-tune's luck (one draw per mixture and seed, the same on both splits: in the
real study search and report scores of one adapter correlate by 0.94) and a residual.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from taskpgm_ray import load_config
from taskpgm_ray.affinity import kernel
from taskpgm_ray.evaluation import ItemScore, summarise
from taskpgm_ray.evaluation.statistics import BETTER, WORSE, PairedDifference
from taskpgm_ray.judge.comparisons import decisive
from taskpgm_ray.judge.looks import look_until_settled
from taskpgm_ray.judge.verdict import CHOSEN, UNIFORM, recommended
from taskpgm_ray.search.candidates import Candidate, Pool, candidates
from taskpgm_ray.search.choice import choose
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.stage import Outcome
from taskpgm_ray.workload import report_seeds, search_seeds

SPREAD = 0.056
"""Nats: standard deviation of the macro score over fine-tunes that differ in their seed alone, in the real study."""
RESIDUAL = 0.12
"""Nats, per item and fine-tune: search and report scores of one fine-tune then correlate by about 0.94."""
TASKS, ITEMS = 20, 3
TASKS_IN_POOL = 12


@dataclass(frozen=True)
class Setting:
    """One kind of study."""

    report_seeds: int | Literal["auto"]
    search_seeds: int = 1
    effect: float = 0.0
    """Nats that every mixture of TaskPGM is better than the baselines."""
    shared: float = 0.0
    """Share of the luck's variance that all mixtures have in common with the same seed."""
    spread: float = SPREAD
    smallest_effect: float | None = None
    """Nats, with ``report_seeds: auto``."""

    def config(self) -> Any:
        """The study's config, of which only the seeds and the confidence matter here."""
        return load_config(
            {
                "study": "simulated",
                "model": {"path": "none"},
                "pool": {"tasks": ["reasoning_gym:gcd", "reasoning_gym:lcm"]},
                "finetune": {"steps": 1},
                "search": {"seeds": self.search_seeds},
                "evaluation": {"report_seeds": self.report_seeds, "smallest_effect": self.smallest_effect},
            }
        )


@dataclass(frozen=True)
class Tally:
    """What came out of many studies of one setting."""

    better: float
    """Share of studies that call the mixture better than a baseline; the next likewise."""
    worse: float
    recommended: float
    """Share that recommends the mixture."""
    coverage: float
    """Share of intervals of the difference to uniform that hold the true one."""
    mean: float
    """Of the difference to uniform less the true one [nats]."""
    error: float
    """Standard error of that mean."""
    seeds: float
    """Mean number of fine-tunes of the mixture and of uniform."""


@dataclass
class World:
    """One study's truth: difficulties of the items, and the luck of every fine-tune."""

    setting: Setting
    rng: np.random.Generator
    luck: dict[tuple[str, int], float] = field(default_factory=dict)
    common: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.difficulty = {split: self.rng.normal(-1.5, 1.0, (TASKS, ITEMS)) for split in ("search", "report")}

    def rows(self, mixture: str, effect: float, seed: int, split: str) -> list[ItemScore]:
        """The item scores of one fine-tune."""
        setting = self.setting
        if (mixture, seed) not in self.luck:
            common = self.common.setdefault(seed, self.rng.normal())
            own = self.rng.normal()
            self.luck[mixture, seed] = np.sqrt(setting.shared) * common + np.sqrt(1 - setting.shared) * own
        level = effect + setting.spread * self.luck[mixture, seed]
        values = self.difficulty[split] + level + self.rng.normal(0, RESIDUAL, (TASKS, ITEMS))
        return [
            ItemScore("mmlu", f"t{task}", f"{split}-{task}-{item}", float(value > -1.4), float(value), seed)
            for task, of_task in enumerate(values)
            for item, value in enumerate(of_task)
        ]


@dataclass(frozen=True)
class Trial:
    """A finished trial as the search's choice sees it."""

    candidate: Candidate
    values: list[float]

    def done(self) -> bool:
        """It is."""
        return True

    def score(self, metric: str) -> float:
        """Its mean over seeds."""
        return float(np.mean(self.values))

    def points(self, metric: str) -> list[tuple[Any, list[float]]]:
        """Its mixture and scores."""
        return [(self.candidate.weights, self.values)]


def tally(setting: Setting, studies: int, seed: int = 0) -> Tally:
    """Simulate ``studies`` studies on all cores."""
    workers = os.cpu_count() or 1
    parts = [range(start, studies, workers) for start in range(workers)]
    with ProcessPoolExecutor(workers) as pool:
        found = [one for part in pool.map(_studies, [setting] * workers, parts, [seed] * workers) for one in part]
    errors = np.array([one.uniform.difference - setting.effect for one in found])
    return Tally(
        better=float(np.mean([BETTER in one.verdicts for one in found])),
        worse=float(np.mean([WORSE in one.verdicts for one in found])),
        recommended=float(np.mean([one.advice == CHOSEN for one in found])),
        coverage=float(np.mean([one.uniform.low <= setting.effect <= one.uniform.high for one in found])),
        mean=float(errors.mean()),
        error=float(errors.std(ddof=1) / np.sqrt(len(errors))),
        seeds=float(np.mean([one.uniform.seeds for one in found])),
    )


@dataclass(frozen=True)
class Study:
    """What one simulated study says."""

    verdicts: set[str]
    """On the mixture against each baseline."""
    advice: str
    uniform: PairedDifference
    """The mixture against uniform."""


def _studies(setting: Setting, numbers: Sequence[int], seed: int) -> list[Study]:
    config = setting.config()
    return [study(World(setting, np.random.default_rng([seed, number])), config) for number in numbers]


def study(world: World, config: Any) -> Study:
    """Search, winner, fresh fine-tunes until the verdict is settled, advice."""
    metric, n = config.search.metric, TASKS_IN_POOL
    points = world.rng.normal(size=(n, 3))
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    family = Family("jsd", "jsd", kernel(distances), 1.0, None, contender=True)
    tried = candidates([family], Pool([1] * n), config.search)
    baselines = [Candidate(name, "baseline", None, np.full(n, 1 / n), name) for name in config.search.baselines]
    mixtures = [one for one in tried if one.kind == "balance"]
    trials = []
    for one in (*mixtures, *baselines):
        effect = world.setting.effect if one.kind == "balance" else 0.0
        runs = [world.rows(one.name, effect, seed, "search") for seed in search_seeds(config)]
        trials.append(Trial(one, [summarise(rows)[metric] for rows in runs]))
    chosen = choose(Outcome(trials, {}, []), [family], config).candidate  # type: ignore[arg-type]
    effects = {chosen.name: world.setting.effect} | {one.name: 0.0 for one in baselines}
    scored: dict[tuple[str, int], list[ItemScore]] = {}

    def score(seeds: int) -> dict[str, list[ItemScore]]:
        rows: dict[str, list[ItemScore]] = {}
        for one in (chosen, *baselines):
            count = seeds if one.name in (chosen.name, UNIFORM) else None
            for s in report_seeds(config, count):
                if (one.name, s) not in scored:
                    scored[one.name, s] = world.rows(one.name, effects[one.name], s, "report")
                rows.setdefault(one.name, []).extend(scored[one.name, s])
        return rows

    _, found = look_until_settled(chosen.name, [one.name for one in baselines], score, config)
    deciding = decisive(found, metric)
    (uniform,) = (c.result for c in deciding if c.baseline == UNIFORM)
    return Study({c.verdict for c in deciding}, recommended(found, metric), uniform)
