"""The final adapter: the winner's, trained on the full budget, with a model card beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskpgm_ray.progress import Progress, collect
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.plan import Planner
from taskpgm_ray.storage import MANIFEST

if TYPE_CHECKING:
    from taskpgm_ray.session import Session

FOLDER = "adapter"


def hand_over(
    chosen: Candidate, verdict: str, planner: Planner, session: Session, progress: Progress, names: Sequence[str]
) -> None:
    """Write the winner's adapter (first seed) and its card into the study's folder ``adapter``.

    A trial at the full budget is this very fine-tune, so it is trained again only when its unit was lost.
    """
    job = planner.job(chosen, planner.config.seed)
    if not job.unit.done():
        with progress.stage("final adapter", 1, 0) as stage:
            session.connect()
            references = {session.fleet.submit(job): job.name}
            collect(references, lambda name, _: stage.finished(name), lambda: "a lane trains it", stage)
    files = planner.storage / FOLDER
    for name in job.unit.files.names():
        if name != MANIFEST and not (files.exists(name) and files.read_bytes(name) == job.unit.files.read_bytes(name)):
            files.write_bytes(name, job.unit.files.read_bytes(name))
    card = model_card(chosen, verdict, planner, job.unit.manifest(), names).encode()
    if not (files.exists("README.md") and files.read_bytes("README.md") == card):
        files.write_bytes("README.md", card)


def model_card(chosen: Candidate, verdict: str, planner: Planner, trained: dict[str, Any], names: Sequence[str]) -> str:
    """The model card in the hub's format: what it is, what it was trained on, how it did."""
    model, lora, finetune = planner.config.model, planner.config.finetune.lora, planner.config.finetune
    shares = sorted(zip(chosen.weights.tolist(), names, strict=True), reverse=True)
    table = "\n".join(f"| {name} | {weight:.4f} |" for weight, name in shares)
    return f"""---
base_model: {model.path}
library_name: peft
tags: [lora, taskpgm]
---

# {planner.config.study}

A LoRA adapter of `{model.path}` (fingerprint `{planner.model.fingerprint}`), fine-tuned on a mixture of \
{len(names)} tasks
that TaskPGM ([arXiv 2507.12612](https://arxiv.org/abs/2507.12612)) found: {chosen.method}, tau = {chosen.tau:.4g}.

{verdict}

| task | weight |
|---|---|
{table}

Rank {lora.r}, alpha {lora.alpha}, on {lora.target_modules}; {trained["steps"]} steps of {finetune.batch_size} \
examples, {trained["tokens"]} tokens,
peak learning rate {finetune.learning_rate:g}, seed {planner.config.seed}; prompts in the {model.prompt_format} format.
"""
