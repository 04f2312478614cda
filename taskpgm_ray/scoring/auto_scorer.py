"""``scorer: auto``: both kinds of engine score a sample of the first segment, and the faster one scores the study.

The choice is a unit of the study, made once: scores of one study are never from both, because the kind of scorer is
part of every score's fingerprint.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import ScoringError
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.scoring.engine import Query
from taskpgm_ray.scoring.segments import SegmentPlan, frequent_answers, positions
from taskpgm_ray.storage import Storage, Unit, fingerprint

Kind = Literal["vllm", "hf"]

SAMPLE = 128
"""Positions of the sample, at least; whole probes."""
AGREEMENT = {"float32": 1e-4, "bfloat16": 0.05}
"""Largest total variation distance between the two engines' predictions, by the model's precision."""


@dataclass(frozen=True)
class _Choice:
    unit: Unit


def choose_scorer(plans: Sequence[SegmentPlan], jobs: Sequence[Job], run: Run) -> Kind:
    """The kind of engine that scores this study; measured when the config says ``auto`` and it was not yet.

    Raises:
        ScoringError: The two engines do not predict the same.
    """
    if run.config.scoring.scorer == "auto":
        with missing(run, "scorer", [_Choice(_unit(run.config, run.model, run.storage))]) as (stage, todo):
            for choice in todo:
                if importlib.util.find_spec("vllm") is None:
                    manifest: dict[str, Any] = {"scorer": "hf", "why": "vLLM is not installed"}
                else:
                    manifest = _measured(sample_of(plans[0], jobs, run.config), run)
                choice.unit.finish(manifest)
                stage.finished(f"{manifest['scorer']}: {manifest['why']}")
    return scorer_of(run.config, run.model, run.storage)


def scorer_of(config: StudyConfig, model: BaseModelRef, storage: Storage) -> Kind:
    """The kind of engine that scores this study: the configured one, or the one that was chosen.

    Raises:
        ScoringError: The config says ``auto``, and nothing was chosen yet.
    """
    if config.scoring.scorer != "auto":
        return config.scoring.scorer
    unit = _unit(config, model, storage)
    if not unit.done():
        raise ScoringError("scoring.scorer is auto, and which engine is faster is measured when adapters are scored")
    return cast(Kind, unit.manifest()["scorer"])


def sample_of(plan: SegmentPlan, jobs: Sequence[Job], config: StudyConfig) -> list[Query]:
    """Whole probes of the first tasks of a segment, under as many adapters as share a batch."""
    scoring = config.scoring
    adapters = [job.unit for job in jobs[: scoring.engines.max_loras]]
    queries: list[Query] = []
    for block in plan.blocks:
        answers = frequent_answers(block.task, scoring.answer_tokens)
        rows = positions(block, scoring)
        for row in rows:
            if len(queries) >= SAMPLE and row["step"] == 0:
                break
            queries.append(Query(row["prompt"], list(dict.fromkeys([row["gold"], *answers]))))
    return [Query(query.prompt, query.tokens, adapter) for adapter in adapters for query in queries]


def _unit(config: StudyConfig, model: BaseModelRef, storage: Storage) -> Unit:
    # Without the engines: on another machine, or with more of them, a study goes on with what its scores are made by.
    identity = fingerprint("scorer", model.fingerprint, config.finetune.lora)
    return Unit(storage, f"scorers/{identity}")


def _measured(queries: list[Query], run: Run) -> dict[str, Any]:
    import ray

    kinds: tuple[Kind, ...] = ("hf", "vllm")
    speed, logprobs = {}, {}
    for kind in kinds:
        pool = run.pool_of(kind)
        try:
            logprobs[kind], seconds = ray.get(pool.measure(queries))
        finally:
            pool.close()
        speed[kind] = len(queries) / seconds
    apart = max(
        float(np.abs(np.exp(a) - np.exp(b)).sum() / 2) for a, b in zip(logprobs["hf"], logprobs["vllm"], strict=True)
    )
    if not apart <= AGREEMENT[run.config.model.dtype]:
        raise ScoringError(
            f"vLLM and Hugging Face predict differently (total variation distance {apart:.3g} at a position): one of "
            "them does not serve this model or its adapters right; set scoring.scorer to the one that you trust"
        )
    ranking = sorted(speed, key=lambda kind: -speed[kind])
    return {
        "scorer": ranking[0],
        "why": " against ".join(f"{speed[kind]:.0f} positions/s ({kind})" for kind in ranking),
        "positions_per_second": speed,
        "largest_distance": apart,
    }
