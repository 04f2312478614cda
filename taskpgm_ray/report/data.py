"""`ReportData`: everything that a report shows, as plain numpy and Python values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from taskpgm_ray.errors import InputError


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
    tasks: list[dict[str, Any]]
    """One per task: name, source, train, probes, cut (over-long prompts that were cut), heldout_loss_before and
    heldout_loss_after (nats per token on the task's own probes: base model, its own adapter), tokens, seconds,
    gpu_seconds. Every value but the name may be missing or None."""
    divergence: np.ndarray
    """Mean Jensen-Shannon divergence in nats, float [n, n]."""
    affinity: np.ndarray
    """S, float [n, n]."""
    mixture: dict[str, Any]
    """The content of ``mixture.json`` (see `taskpgm_ray.export.mixture_document`)."""
    verdict: str = ""
    """The outcome in one plain sentence."""
    config_yaml: str = ""
    """The resolved config."""
    divergence_upper: np.ndarray | None = None
    """Upper bounds of the divergence over the whole vocabulary in nats, float [n, n]; ``divergence`` is the lower."""
    divergence_se: np.ndarray | None = None
    """Standard errors of ``divergence`` in nats, float [n, n]."""
    pmi: np.ndarray | None = None
    """Pointwise mutual information in nats, float [n, n]: row model, column task's probes; asymmetric."""
    gamma: float | None = None
    """Bandwidth of the kernel per nat."""
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
    trials: list[dict[str, Any]] = field(default_factory=list)
    """One per trial: name, kind ("balance" or "baseline"), tau or None, seed, weights, accuracy, gold_logprob,
    mmlu_accuracy, bbh_accuracy, mmlu_gold_logprob, bbh_gold_logprob, items, tokens, seconds, winner (bool). A trial
    that failed has metrics None and an ``error``; one that ASHA stopped has none and ``stopped``, one that the screen
    spared ``skipped``."""
    screen: dict[str, Any] | None = None
    """How well merges rank the trials: correlation (Spearman), low (end of its interval), mixtures, warranted, and
    the trials skipped."""
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    """Report split, one per baseline, metric and scope (``all``, or a benchmark's name): baseline, metric, scope,
    difference (mixture minus baseline), low, high, p_value, verdict, minimum_detectable, item_error and seed_error
    (standard errors), items, seeds."""
    against_uniform: list[dict[str, Any]] = field(default_factory=list)
    """The same for every method (``system``) against uniform."""
    by_task: list[dict[str, Any]] = field(default_factory=list)
    """Report split, one per benchmark and task: benchmark, task, items, scores {system: {metric: mean}}; the mixture
    is the first system, the base model the last."""
    by_seed: list[dict[str, Any]] = field(default_factory=list)
    """Report split, one per system and seed: system, seed, gold_logprob, accuracy (means over all benchmarks)."""
    budgets: list[dict[str, Any]] = field(default_factory=list)
    """Report split: mixtures of fewer tasks and parts of the training budget: name, tasks, share, gold_logprob,
    accuracy, and the difference in gold_logprob to uniform at the full budget with its interval (low, high)."""
    stages: list[dict[str, Any]] = field(default_factory=list)
    """One per stage: stage, seconds, tokens, done, reused (units of work)."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Tasks that were left out of the pool because their fine-tune failed for good: name -> reason."""
    versions: dict[str, str] = field(default_factory=dict)
    """Version of each library, and of the base model."""

    def __post_init__(self) -> None:
        n = len(self.tasks)
        if not n:
            raise InputError("a report needs at least one task")
        for name in ("divergence", "affinity", "divergence_upper", "divergence_se", "pmi"):
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
        return [task["name"] for task in self.tasks]

    @property
    def weights(self) -> np.ndarray:
        """The mixture's weights, float [n]."""
        return np.array([task["weight"] for task in self.mixture["tasks"]], dtype=float)

    @property
    def tau(self) -> float | None:
        """The mixture's balance; None when a baseline was chosen."""
        return self.mixture.get("tau")

    def ranked_trials(self) -> list[dict[str, Any]]:
        """The trials, best first by the mean of ``metric`` over each one's seeds; those that failed come last."""
        means: dict[str, float] = {}
        for name in {trial["name"] for trial in self.trials}:
            seeds = [t[self.metric] for t in self.trials if t["name"] == name and t.get(self.metric) is not None]
            means[name] = float(np.mean(seeds)) if seeds else -np.inf
        return sorted(
            self.trials,
            key=lambda t: (t.get(self.metric) is None, -means[t["name"]], t["name"], -(t.get(self.metric) or 0.0)),
        )


def _check_matrix(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if value is None:
        return
    if np.shape(value) != shape:
        raise InputError(f"{name} has shape {np.shape(value)}; the report's tasks need {shape}")
    if not np.isfinite(value).all():
        raise InputError(f"{name} holds NaN or infinity")
