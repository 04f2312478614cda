"""Steps of one fine-tune in one process: this package's loop against PEFT's layers in the loop that everyone writes.

SmolLM2-135M in bfloat16, LoRA of rank 8 on all linear layers, batches of 8 examples with short answers, one thread. The
peer pads each batch to its longest example and computes the head at every position; it has the same mixed precision.
"""

import tempfile
import time

import numpy as np

from jobs.benchmarks._common import row
from jobs.benchmarks._peft_loop import load_peft
from taskpgm_ray.config import LoraSection, ModelConfig
from taskpgm_ray.finetune.job import Recipe
from taskpgm_ray.finetune.lora import LoraTrainer
from taskpgm_ray.models import PACKAGED, prepare, resolve
from taskpgm_ray.storage import Storage

STEPS, BATCH, ANSWER, REPEATS = 6, 8, 4, 3


def run():
    """A row per kind of lengths: seconds per step, medians of runs in turn."""
    with tempfile.TemporaryDirectory() as folder:
        model = resolve(ModelConfig(path=PACKAGED, dtype="bfloat16"), Storage(folder))
        prepare(model)
        peer, ours = load_peft(model.local()), LoraTrainer(model.load(), LoraSection())
    rows = []
    for name, lengths in kinds().items():
        rng = np.random.default_rng(0)
        batches = [[example(rng, length) for length in batch] for batch in lengths]
        times = {"ours": [], "peer": []}
        for _ in range(1 + REPEATS):
            times["ours"].append(timed(lambda batches=batches: our_steps(ours, batches)))
            times["peer"].append(timed(lambda batches=batches: their_steps(peer, batches)))
        mine, theirs = (float(np.median(seconds[1:])) / STEPS for seconds in times.values())
        rows.append(row(f"a step, {name}", mine, theirs, "PEFT's layers in a plain loop"))
    return rows


def kinds():
    """Lengths of the examples of each batch, [steps, batch]."""
    rng = np.random.default_rng(1)
    real = np.clip(rng.lognormal(4.3, 0.6, size=STEPS * BATCH), 8, 512).astype(int)
    return {
        "examples of 64 tokens": np.full((STEPS, BATCH), 64),
        "lengths as in real tasks": real.reshape(STEPS, BATCH),
        "the same, sorted in a window": np.sort(real).reshape(STEPS, BATCH),
    }


def example(rng, length):
    """(prompt_ids, response_ids) of random tokens."""
    ids = rng.integers(100, 40_000, size=length).tolist()
    return ids[:-ANSWER], ids[-ANSWER:]


def timed(steps):
    """Seconds."""
    started = time.perf_counter()
    steps()
    return time.perf_counter() - started


def our_steps(trainer, batches):
    """One fine-tune of as many steps as there are batches."""
    recipe = Recipe(
        LoraSection(), len(batches), None, BATCH, 1, 1e-3, warmup_fraction=0.1, weight_decay=0.0, max_grad_norm=1.0,
        seed=0, init_seed=0,
    )  # fmt: skip
    trainer.run(iter(batches), recipe, 0)


def their_steps(model, batches):
    """The same with Hugging Face's loss."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    model.train()
    for pairs in batches:
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        ids = torch.zeros((len(pairs), longest), dtype=torch.long)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for line, (prompt, answer) in enumerate(pairs):
            width = len(prompt) + len(answer)
            ids[line, :width], mask[line, :width] = torch.tensor(prompt + answer), 1
            labels[line, len(prompt) : width] = torch.tensor(answer)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
