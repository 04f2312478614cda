"""Real Ray, real vLLM: started once for the session."""

import json
import os

import pytest

from taskpgm_ray.storage import Storage, Unit


@pytest.fixture(scope="module")
def local_ray():
    """A local Ray of two CPUs in this process, ended with the module: other tests look at machines without one."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def cost(record_property):
    """Record a row of the table of faults: what was broken, in which stage, what was lost and what was done again."""

    def row(fault, stage, repeated, lost=0):
        record_property("fault", (fault, stage, str(lost), repeated))

    return row


@pytest.fixture(scope="session")
def adapters(tiny_llama, tmp_path_factory):
    """Five LoRA adapters of the tiny model that change its predictions a lot, as units of a storage."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    storage = Storage(str(tmp_path_factory.mktemp("adapters")))
    units = []
    for seed in range(5):
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32),
            LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        unit = Unit(storage, f"adapter{seed}")
        model.save_pretrained(storage.path(unit.path))
        unit.finish({"seed": seed})
        units.append(unit)
    return units


@pytest.fixture(scope="session")
def tiny_config(tiny_llama, tiny_pool):
    """A whole small study of the tiny model, as raw config."""

    def make(storage, study="tiny", **changes):
        config = {
            "study": study,
            "storage": str(storage),
            "model": {"path": str(tiny_llama), "dtype": "float32", "max_length": 64},
            "pool": {"tasks": [f"jsonl:{tiny_pool}"], "probes_per_task": 6},
            "finetune": {
                "steps": 6,
                "batch_size": 4,
                "learning_rate": 0.02,
                "lora": {"r": 4, "alpha": 8},
                # With room for a CPU more, lanes and engines stay up from stage to stage.
                "lanes": {"max": 1, "cpus": 0.4, "threads": 1},
            },
            "scoring": {
                "top_k": 16,
                "answer_tokens": 8,
                "engines": {"cpus": 0.4, "threads": 1, "kv_cache_gib": 1, "max_loras": 2, "max_model_length": 1024},
            },
            "search": {"balances": 2, "tau": [0.0, 2.0], "concurrency": 4},
            "evaluation": {"max_subjects": 4, "max_bbh_tasks": 4, "report_seeds": 1},
            "cluster": {"num_cpus": 2},
        }
        return json.loads(json.dumps({**config, **changes}))

    return make
