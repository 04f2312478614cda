"""What people run without a fleet: a plain PEFT loop, in a process that stays, or in one TorchTrainer per task."""

import multiprocessing
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from taskpgm_ray.runtime.cluster import thread_environment

STEPS, BATCH, RESPONSE = 20, 4, 8


def load_peft(folder):
    """The base model with an adapter, as everyone does it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def bare_job(model, task, folder):
    """A plain training loop on one task, and its adapter saved."""
    import torch
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.reset_lora_parameters("default", init_lora_weights=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    examples = task.examples("train")
    model.train()
    for step in range(STEPS):
        pairs = examples[step * BATCH : (step + 1) * BATCH]
        ids = torch.tensor([prompt + response for prompt, response in pairs])
        labels = ids.clone()
        labels[:, :-RESPONSE] = -100
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.save_pretrained(folder)


def bare_lane(model_folder, tasks, ready, go, out):
    """One process of the bare loop; reports when its last adapter was saved."""
    model = load_peft(model_folder)
    with tempfile.TemporaryDirectory() as folder:
        ready.put(True)
        go.wait()
        for task in tasks:
            bare_job(model, task, f"{folder}/{task.name}")
        out.put(time.time())


def bare_loops(model_folder, tasks, lanes):
    """Seconds of the bare loop in one process per lane, models loaded, all starting at once."""
    context = multiprocessing.get_context("spawn")
    ready, go, out = context.Queue(), context.Event(), context.Queue()
    processes = [
        context.Process(target=bare_lane, args=(model_folder, tasks[lane::lanes], ready, go, out))
        for lane in range(lanes)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.get()
    started = time.time()
    go.set()
    ended = max(out.get() for _ in processes)
    for process in processes:
        process.join()
    return ended - started


def trainer_loop(config):
    """What each TorchTrainer runs: load the model, train one task, save its adapter."""
    with tempfile.TemporaryDirectory() as folder:
        bare_job(load_peft(config["model"]), config["task"], folder)


def one_trainer_each(model_folder, tasks, lanes):
    """Seconds of one TorchTrainer per task, as many at a time as there are lanes."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(lanes) as pool:

        def fit(task):
            TorchTrainer(
                trainer_loop,
                train_loop_config={"model": model_folder, "task": task},
                scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
                run_config=RunConfig(
                    name=task.name, storage_path=folder, worker_runtime_env={"env_vars": thread_environment(1)}
                ),
            ).fit()

        started = time.time()
        list(pool.map(fit, tasks))
        return time.time() - started
