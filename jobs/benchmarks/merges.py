"""Merging in the place of training, on a finished study: how alike they rank its trials, and what either costs.

``TASKPGM_BENCH_STUDY`` names the study's folder, which is only read. Its single-task adapters are merged with the
weights of every trial, and each merge is asked the trial's own items by the evaluator's code over the Hugging Face
engine. The peer of a merge is PEFT's ``add_weighted_adapter`` with ``svd``, with the base model and all adapters in
memory. Times are CPU seconds of one thread, so that other work on the machine does not count; those of fine-tunes are
what the study recorded. ``TASKPGM_BENCH_TRIALS`` asks so many of the trials, evenly chosen by their names.
"""

import gc
import os
import tempfile
import time
from itertools import pairwise
from statistics import fmean

import numpy as np

from jobs.benchmarks._common import row
from jobs.benchmarks._harness import EngineClient
from taskpgm_ray.config import load_config
from taskpgm_ray.evaluation import Split, summarise
from taskpgm_ray.evaluation.run import evaluate
from taskpgm_ray.evaluation.scores import reweighted
from taskpgm_ray.models import resolve
from taskpgm_ray.scoring.engine import EngineSpec
from taskpgm_ray.search.merge import Merge, merge_adapters
from taskpgm_ray.search.merges import TOGETHER
from taskpgm_ray.search.ranks import rank_correlation
from taskpgm_ray.storage import Storage, Unit, finished


def run():
    """Measure; rows as in jobs/benchmark.py."""
    import torch

    torch.set_num_threads(1)
    place = os.environ.get("TASKPGM_BENCH_STUDY")
    if not place:
        raise SystemExit("TASKPGM_BENCH_STUDY names no folder of a finished study")
    study = Storage(place)
    config = load_config(f"{place}/config.yaml")
    model = resolve(config.model, Storage(place.rstrip("/").rpartition("/")[0]))
    adapters, trials = _adapters(study, config.seed), _trials(study, config.seed)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Storage(folder)
        merges = [Merge(trial["weights"], Unit(scratch, name)) for name, trial in trials.items()]
        seconds = _merge(adapters, merges, config.finetune.lora)
        theirs, difference = _peft(model, adapters, merges[0], config.finetune.lora.r)
        gc.collect()
        scored, asking = _score(study, config, model, merges, next(iter(trials.values()))["items"])
    metric, weights = config.search.metric, config.evaluation.weights
    trained = [reweighted(trial["summary"], weights)[metric] for trial in trials.values()]
    merged = [reweighted(summary, weights)[metric] for summary in scored]
    rho, low = rank_correlation(merged, trained)
    anyway = _anyway(list(trials.values()))
    own, own_low = rank_correlation(np.array(merged)[anyway], np.array(trained)[anyway])
    tuning = fmean(trial["wall_seconds"] for trial in trials.values())
    what = f"CPU seconds for a merge of {len(adapters)} adapters, {TOGETHER} at a time"
    for name, a, b in zip(trials, merged, trained, strict=True):
        print(f"  {name}: merged {a:.4f}, trained {b:.4f}")
    return [
        row(what, seconds, theirs, "PEFT's svd, all loaded", 10),
        row("largest relative difference of an update", difference, None, "PEFT's svd", 1e-4, difference < 1e-4),
        row("CPU seconds for a score on the search split", asking, tuning, "a fine-tune, as the study recorded it"),
        row(f"rank correlation of {len(trials)} merges and trainings ({metric})", rho),
        row("its lower end (95 %)", low, None, "asked by a search", 0.6, low >= 0.6),
        row(f"the same of the {anyway.sum()} that a search by merges trains in any case", own),
        row("its lower end (95 %)", own_low, None, "asked by a search", 0.6, own_low >= 0.6),
    ]


def _adapters(study, seed):
    """Each task's own adapter, in the order of the study's mixtures."""
    units = [Unit(study, f"adapters/{name}") for name in study.names("adapters")]
    units = [unit for unit, ready in zip(units, finished(units), strict=True) if ready]
    by_name = {unit.manifest()["name"]: unit for unit in units if unit.manifest()["seed"] == seed}
    return [by_name[task["name"]] for task in study.read_json("mixture.json")["tasks"]]


def _trials(study, seed):
    """Name -> manifest, items and seconds of the fine-tune of each finished trial with the first seed."""
    tuned = {}
    for name in study.names("mixtures"):
        unit = Unit(study, f"mixtures/{name}")
        if unit.done():
            tuned[name.rpartition("-")[0]] = unit.manifest()["wall_seconds"]
    found = {}
    for name in study.names("trials"):
        unit = Unit(study, f"trials/{name}")
        if unit.done() and unit.manifest()["seed"] == seed:
            items = [item["item"] for item in unit.files.read_json("items.json")]
            found[name] = unit.manifest() | {"items": items, "wall_seconds": tuned[name.rpartition("-")[0]]}
    most = int(os.environ.get("TASKPGM_BENCH_TRIALS", len(found)))
    kept = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    names = list(found)
    return {names[i]: found[names[i]] for i in kept}


def _anyway(trials):
    """Which trials are baselines, or at an end of their family's path [m]."""
    ends = {}
    for trial in trials:
        if trial["tau"] is not None:
            ends.setdefault(trial["method"], []).append(trial["tau"])
    outer = {method: (min(taus), max(taus)) for method, taus in ends.items()}
    return np.array(
        [trial["kind"] == "baseline" or trial["tau"] in outer[trial["method"]] for trial in trials], dtype=bool
    )


def _merge(adapters, merges, lora):
    """CPU seconds a merge."""
    started = time.process_time()
    for first, last in pairwise([*range(0, len(merges), TOGETHER), len(merges)]):
        merge_adapters(adapters, merges[first:last], lora)
    return (time.process_time() - started) / len(merges)


def _peft(model, adapters, merge, rank):
    """(CPU seconds of PEFT's merge, largest relative difference of a layer's update to ours)."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load

    names = [str(i) for i in range(len(adapters))]
    merged = PeftModel.from_pretrained(model.load(), str(adapters[0].storage.path(adapters[0].path)), adapter_name="0")
    for name, unit in zip(names[1:], adapters[1:], strict=True):
        merged.load_adapter(unit.storage.path(unit.path), name)
    started = time.process_time()
    merged.add_weighted_adapter(names, list(merge.weights), "merged", combination_type="svd", svd_rank=rank)
    seconds = time.process_time() - started
    ours = load(merge.unit.files.read_bytes("adapter_model.safetensors"))
    settings = merge.unit.files.read_json("adapter_config.json")
    differences = []
    for name, part in merged.named_modules():
        if hasattr(part, "lora_A"):
            theirs = part.lora_B["merged"].weight.float() @ part.lora_A["merged"].weight.float()
            own = ours[f"{name}.lora_B.weight"] @ ours[f"{name}.lora_A.weight"] * settings["lora_alpha"] / settings["r"]
            differences.append(float(torch.linalg.norm(own - theirs) / torch.linalg.norm(theirs)))
    return seconds, max(differences)


def _score(study, config, model, merges, items):
    """(summary of each merge on the split of the trials, CPU seconds of one)."""
    from taskpgm_ray.scoring.hf_engine import HFEngine

    splits = [Split("search", study, f"evaluation/{name}") for name in study.names("evaluation")]
    split = next(one for one in splits if one.path.startswith("evaluation/search") and _items(one) == items)
    engine = HFEngine(EngineSpec("hf", model, config.finetune.lora, config.scoring.engines))
    tokenizer, window = model.tokenizer(), model.window(config.scoring.engines.max_model_length)
    found, started = [], time.process_time()
    for merge in merges:
        rows = evaluate(
            split,
            EngineClient(engine, merge.unit),
            tokenizer,
            config=config.evaluation,
            apply_chat_template=config.model.prompt_format == "chat",
            max_length=window - 1,
        )
        found.append(summarise(rows))
    return found, (time.process_time() - started) / len(merges)


def _items(split):
    return [item.id for item in split.items()]
