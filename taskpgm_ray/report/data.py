"""`ReportData`: everything that a report shows, as plain numpy and Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from taskpgm_ray.errors import InputError

if TYPE_CHECKING:
    # Only their types: importing the report shall load neither Ray nor the evaluation.
    from taskpgm_ray.affinity.bandwidth import NoiseKernel
    from taskpgm_ray.affinity.precision import Precision
    from taskpgm_ray.finetune.usable import Usable
    from taskpgm_ray.insight.stability import Stability
    from taskpgm_ray.insight.tasks import Insight
    from taskpgm_ray.judge.comparisons import Comparison
    from taskpgm_ray.judge.rows import BudgetScores, SeedScores, TaskScores
    from taskpgm_ray.judge.samples import Sample
    from taskpgm_ray.report.bandwidths import BandwidthRow
    from taskpgm_ray.runtime.progress import StageCost
    from taskpgm_ray.search.choice import FittedCurve
    from taskpgm_ray.search.comparator import RegressionFinding
    from taskpgm_ray.search.merge_search import MergeFinding
    from taskpgm_ray.search.screen import ScreenFinding


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """One task of the pool, and what its own adapter learned; everything but the name may be missing."""

    name: str
    source: str | None = None
    group: str | None = None
    """The data set that the task is a part of; ``None``: the task alone."""
    train: int | None = None
    """Training examples."""
    probes: int | None = None
    cut: int | None = None
    """Over-long prompts that were cut."""
    withheld: int | None = None
    """Training examples that are not trained: the pool probes them or holds them out, or the evaluation asks them."""
    heldout_loss_before: float | None = None
    """Nats per token on the task's own probes, with the base model."""
    heldout_loss_after: float | None = None
    """The same with the task's own adapter."""
    usable: Usable | None = None
    """What the adapter foretells of an answer from its question; ``None``: not measured."""
    tokens: int | None = None
    """Tokens that the adapter was trained on."""
    seconds: float | None = None
    gpu_seconds: float | None = None

    @property
    def loss_drop(self) -> float | None:
        """How far the adapter lowered that loss, nats per token; ``None`` where a loss is missing."""
        if self.heldout_loss_before is None or self.heldout_loss_after is None:
            return None
        return self.heldout_loss_before - self.heldout_loss_after


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One fine-tune of one mixture, scored on the search split; or a trial without a score, and why it has none."""

    name: str
    kind: str
    """``balance`` or ``baseline``."""
    weights: Sequence[float]
    """The mixture [n]."""
    tau: float | None = None
    """The balance; ``None`` for a baseline."""
    seed: int | None = None
    accuracy: float | None = None
    """Mean over all benchmarks, 0 to 1."""
    gold_logprob: float | None = None
    """Mean over all benchmarks, nats."""
    benchmarks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Benchmark -> metric (``accuracy``, ``gold_logprob``) -> mean over its tasks."""
    items: int | None = None
    tokens: int | None = None
    """Tokens that it was trained on."""
    seconds: float | None = None
    winner: bool = False
    stopped: bool = False
    """Whether ASHA ended it before the full budget."""
    skipped: bool = False
    """Whether the screen spared it."""
    error: str | None = None
    """Why it failed."""

    @property
    def family(self) -> str:
        """The family whose mixture at ``tau`` it is; empty where the search had one alone, and of other baselines."""
        return self.name.rpartition("-tau-")[0]

    def value(self, metric: str) -> float | None:
        """The score in one metric, ``None`` where there is none.

        Args:
            metric: ``accuracy`` or ``gold_logprob``; behind a benchmark's name and a ``_`` that benchmark's alone.
        """
        if metric == "accuracy":
            return self.accuracy
        if metric == "gold_logprob":
            return self.gold_logprob
        for suffix in ("accuracy", "gold_logprob"):
            if metric.endswith(f"_{suffix}"):
                return self.benchmarks.get(metric.removesuffix(f"_{suffix}"), {}).get(suffix)
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """The whole input of the report; n tasks, in one order everywhere.

    Only ``study``, ``tasks``, ``divergence``, ``affinity`` and ``mixture`` are needed. What is left at its default is
    left out of the report with a sentence that says so.

    Raises:
        InputError: A matrix does not have a row and a column for each task, holds NaN, or the mixture names other
            tasks (or another order) than ``tasks``.
    """

    study: str
    """Name of the study."""
    tasks: Sequence[TaskRow]
    """One per task."""
    divergence: np.ndarray
    """Mean Jensen-Shannon divergence in nats, float [n, n]."""
    affinity: np.ndarray
    """S of the mixture's family, float [n, n]."""
    mixture: dict[str, Any]
    """The content of ``mixture.json`` (see `taskpgm_ray.export.MixtureDocument`)."""
    insight: Insight | None = None
    """What the mixture says of each task."""
    verdict: str = ""
    """The outcome in one plain sentence."""
    config_yaml: str = ""
    """The resolved config."""
    divergence_upper: np.ndarray | None = None
    """Upper bounds of the divergence over the whole vocabulary in nats, float [n, n]; ``divergence`` is the lower."""
    divergence_se: np.ndarray | None = None
    """Standard errors of ``divergence`` in nats, float [n, n]."""
    precision: Precision | None = None
    """Those beside what divergences differ by."""
    wanted_precision: float | None = None
    """At which ratio of the two scoring was to end; ``None``: all probes were scored at once."""
    probes_scored: int | None = None
    """Probes of all tasks together that the adapters were compared on."""
    pmi: np.ndarray | None = None
    """Pointwise mutual information in nats, float [n, n]: row model, column task's probes; asymmetric."""
    lift: np.ndarray | None = None
    """Mean log-likelihood ratio to the base model in nats, float [n, n]: the same rows and columns."""
    gamma: float | None = None
    """Bandwidth of that family's kernel, per nat (JSD) or squared nat (PMI); ``None``: it has none."""
    noise: NoiseKernel | None = None
    """How that family's S stands out of the noise floor; ``None``: the floor was not measured."""
    early: str = ""
    """How far the tasks' own fine-tunes went, in words; nothing where all spent their budget."""
    stability: Stability | None = None
    """How much it hangs on the number of steps; ``None``: not measured, or no kernel of the adapters' behaviour."""
    repair: str = ""
    """How S was mended where it was indefinite, and what that decides, in words."""
    bandwidths: Sequence[BandwidthRow] = ()
    """What other bandwidths would see."""
    effective_tasks: float | None = None
    """Magnitude 1'S^-1 1: the effective number of tasks at the kernel's scale."""
    coverage: np.ndarray | None = None
    """Mean probability mass on the support, float [n_adapters, n]: the base model first, then the adapters."""
    coverage_names: list[str] = field(default_factory=list)
    """Names of the rows of ``coverage``; default: base, then the tasks."""
    path_tau: np.ndarray | None = None
    """Balances of the path of mixtures, float [m], ascending."""
    path_weights: np.ndarray | None = None
    """The mixture at each of them, float [m, n]; straight lines in between."""
    baselines: dict[str, np.ndarray] = field(default_factory=dict)
    """Weights [n] of the mixtures that TaskPGM is compared with: uniform, proportional, ..."""
    metric: str = "gold_logprob"
    """The trials' metric that decided the search."""
    trials: Sequence[TrialRow] = ()
    """One per trial and seed; a trial without a score at the full budget has one row that says why."""
    curve: FittedCurve | None = None
    """The score along the path of the mixture's family as fitted through all trials; ``None``: the best trial won."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Baselines that were not tried, and why."""
    screen: ScreenFinding | None = None
    """How well merges rank the trials; ``None``: not measured."""
    merges: MergeFinding | None = None
    """What merges proposed to train, and by which right; ``None``: the search was another one."""
    regression: RegressionFinding | None = None
    """How well a regression ranks them; ``None``: it is no baseline of this study, or had too few trials."""
    comparisons: Sequence[Comparison] = ()
    """Report split: the chosen mixture against every baseline, in every metric and scope."""
    against_uniform: Sequence[Comparison] = ()
    """Report split: the same for every method (``system``) against uniform."""
    over_base: Sequence[Comparison] = ()
    """Report split: the chosen mixture against the base model, in every metric and scope."""
    samples: Sequence[Sample] = ()
    """A few items of the report split, and what the base model, uniform and the chosen mixture write."""
    score_weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of benchmarks and of ``benchmark/task`` in every score; what is not named has 1."""
    by_task: Sequence[TaskScores] = ()
    """Report split, one per benchmark and task; the same systems in each, in one order."""
    by_seed: Sequence[SeedScores] = ()
    """Report split, one per system and seed."""
    budgets: Sequence[BudgetScores] = ()
    """Report split: mixtures of fewer tasks, and parts of the training budget."""
    stages: Sequence[StageCost] = ()
    """One per stage of the study."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Tasks that were left out of the pool because their fine-tune failed for good: name -> reason."""
    versions: dict[str, str] = field(default_factory=dict)
    """Version of each library, and of the base model."""

    def __post_init__(self) -> None:
        n = len(self.tasks)
        if not n:
            raise InputError("a report needs at least one task")
        for name in ("divergence", "affinity", "divergence_upper", "divergence_se", "pmi", "lift"):
            _check_matrix(name, getattr(self, name), (n, n))
        if self.coverage is not None:
            if not self.coverage_names:
                object.__setattr__(self, "coverage_names", ["base", *self.names])
            _check_matrix("coverage", self.coverage, (len(self.coverage_names), n))
        if (self.path_tau is None) != (self.path_weights is None):
            raise InputError("path_tau and path_weights go together: give both or neither")
        if self.path_tau is not None:
            _check_matrix("path_weights", self.path_weights, (len(self.path_tau), n))
        for name, weights in self.baselines.items():
            _check_matrix(f"baseline {name!r}", weights, (n,))
        mixed = [task["name"] for task in self.mixture["tasks"]]
        if mixed != self.names:
            raise InputError(f"the mixture's tasks {mixed[:5]} are not the report's tasks {self.names[:5]}, in order")

    @property
    def names(self) -> list[str]:
        """The task names, in order."""
        return [task.name for task in self.tasks]

    @property
    def weights(self) -> np.ndarray:
        """The mixture's weights, float [n]."""
        return np.array([task["weight"] for task in self.mixture["tasks"]], dtype=float)

    @property
    def probes(self) -> int:
        """Probes that the tasks have, together."""
        return sum(task.probes or 0 for task in self.tasks)

    @property
    def spared(self) -> int:
        """Probes among them that were not scored, because fewer were enough."""
        return 0 if self.probes_scored is None else self.probes - self.probes_scored

    @property
    def tau(self) -> float | None:
        """The mixture's balance; None when a baseline was chosen."""
        return self.mixture.get("tau")

    @property
    def path_tried(self) -> list[float]:
        """The balances, ascending, at which mixtures of the path's own family were tried."""
        own = ("", self.mixture.get("affinity"))
        return sorted({trial.tau for trial in self.trials if trial.tau is not None and trial.family in own})

    def ranked_trials(self) -> list[TrialRow]:
        """The trials, best first by the mean of ``metric`` over each one's seeds; those without a score come last."""
        means: dict[str, float] = {}
        for name in {trial.name for trial in self.trials}:
            values = [t.value(self.metric) for t in self.trials if t.name == name]
            seeds = [value for value in values if value is not None]
            means[name] = float(np.mean(seeds)) if seeds else -np.inf

        def rank(trial: TrialRow) -> tuple[bool, float, str, float]:
            value = trial.value(self.metric)
            return value is None, -means[trial.name], trial.name, -(value or 0.0)

        return sorted(self.trials, key=rank)


def _check_matrix(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if value is None:
        return
    if np.shape(value) != shape:
        raise InputError(f"{name} has shape {np.shape(value)}; the report's tasks need {shape}")
    if not np.isfinite(value).all():
        raise InputError(f"{name} holds NaN or infinity")
