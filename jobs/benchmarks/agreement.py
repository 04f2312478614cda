"""The bridge to lm-eval against lm-eval's own Hugging Face model, item by item, in float32.

MMLU: the four choices' log-probabilities and the answer, for the base model and two adapters. BBH: greedy generations
of the base model and of one adapter.
"""

import os

import numpy as np

from jobs.benchmarks._adapters import random_adapters
from jobs.benchmarks._common import row
from jobs.benchmarks._harness import LORA, EngineClient, base_model, engine_spec, samples, scratch, split

QUESTIONS, GENERATIONS = 300, 54


def run():
    """Measure; rows as in jobs/benchmark.py."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from peft import PeftModel

    from taskpgm_ray.evaluation.bridge import EngineLM
    from taskpgm_ray.evaluation.tasks import build_tasks
    from taskpgm_ray.scoring.engine_actor import build_engine
    from taskpgm_ray.storage import Storage

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with scratch() as folder:
        model = base_model("float32")
        tokenizer = model.tokenizer()
        units = random_adapters(model, LORA, Storage(f"{folder}/adapters"), 2)
        mmlu = build_tasks(split(f"{folder}/mmlu", bbh=False, report_items_per_subject=8))
        bbh = build_tasks(split(f"{folder}/bbh", mmlu=False, report_items_per_task=3), bbh_answers="generation")
        engine = build_engine(engine_spec(model))
        rows = []
        for name, adapter in (("base", None), *((f"adapter {i}", unit) for i, unit in enumerate(units))):
            loaded = model.load()
            if adapter is not None:
                loaded = PeftModel.from_pretrained(loaded, str(adapter.storage.local_copy(adapter.path))).eval()
            theirs = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=8, device="cpu", max_length=2047)
            ours = EngineLM(EngineClient(engine, adapter), tokenizer, max_length=2047)
            rows += _said(_choices(name, samples(ours, mmlu), samples(theirs, mmlu)))
            if adapter is None or adapter is units[0]:
                rows += _said(_texts(name, samples(ours, bbh), samples(theirs, bbh)))
        return rows


def _said(rows):
    """Show rows as soon as they are known: on two cores the whole takes a quarter of an hour."""
    for one in rows:
        print(f"{one['what']}: {one['ours']:g}", flush=True)
    return rows


def _choices(name, ours, theirs):
    errors = [
        max(abs(a[0] - b[0]) for a, b in zip(ours[k]["filtered_resps"], theirs[k]["filtered_resps"], strict=True))
        for k in theirs
    ]
    same = sum(ours[k]["acc"] == theirs[k]["acc"] for k in theirs)
    return [
        row(f"MMLU, {name}: questions", len(errors), None, None, QUESTIONS, len(errors) >= QUESTIONS),
        row(f"MMLU, {name}: largest log-probability error", max(errors), None, "lm-eval hf", 1e-4, max(errors) <= 1e-4),
        row(f"MMLU, {name}: equal answers", same, None, "lm-eval hf", len(errors), same == len(errors)),
        row(f"MMLU, {name}: accuracy", float(np.mean([s["acc"] for s in ours.values()]))),
    ]


def _texts(name, ours, theirs):
    different = [k for k in theirs if ours[k]["resps"] != theirs[k]["resps"]]
    for key in different:
        print(key, "ours:", ours[key]["resps"], "lm-eval hf:", theirs[key]["resps"], sep="\n  ")
    same = len(theirs) - len(different)
    return [
        row(f"BBH, {name}: generations", len(theirs), None, None, GENERATIONS - 4, len(theirs) >= GENERATIONS - 4),
        row(f"BBH, {name}: equal generations", same, None, "lm-eval hf", len(theirs), not different),
    ]
