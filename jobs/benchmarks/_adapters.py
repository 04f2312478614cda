"""Adapters for benchmarks in which what was learnt does not matter."""

from taskpgm_ray.storage import Unit


def random_adapters(model, lora, storage, count):
    """LoRA adapters with random weights that change the model's predictions clearly, as units in ``storage``."""
    import torch
    from peft import LoraConfig, get_peft_model

    units = []
    for seed in range(count):
        torch.manual_seed(seed)
        options = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(model.load(), options)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        unit = Unit(storage, f"adapters/random-{seed}")
        adapted.save_pretrained(storage.path(unit.path))
        unit.finish({"seed": seed})
        units.append(unit)
    return units
