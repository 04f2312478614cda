"""The merge of adapters is the weighted sum of their updates, and rank correlations say what they can say."""

import numpy as np
import pytest

from taskpgm_ray.config import ModelConfig
from taskpgm_ray.errors import InputError
from taskpgm_ray.models import resolve
from taskpgm_ray.search.merge import merge_adapters, predicted_best
from taskpgm_ray.search.ranks import rank_correlation
from taskpgm_ray.storage import Storage, Unit


@pytest.fixture(scope="module")
def setting(tiny_llama, tmp_path_factory):
    import torch
    from peft import LoraConfig, get_peft_model

    storage = Storage(str(tmp_path_factory.mktemp("merge")))
    model = resolve(ModelConfig(path=str(tiny_llama), dtype="float32"), storage)
    units = []
    for seed in range(3):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(model.load(), config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        units.append(Unit(storage, f"a{seed}"))
        adapted.save_pretrained(storage.path(units[-1].path))
    return model, units, storage


def updates(unit):
    """The change of each layer's weights that an adapter makes: scale * B A."""
    import json

    from safetensors.torch import load_file

    folder = unit.storage.local_copy(unit.path)
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    return {
        name: scale * (tensors[name.replace("lora_A", "lora_B")] @ tensors[name])
        for name in tensors
        if "lora_A" in name
    }


def test_a_merge_of_enough_rank_is_the_weighted_sum(setting):
    model, units, storage = setting
    target = Unit(storage, "merged-all")
    weights = np.array([0.5, 0.0, 0.5])
    merge_adapters(model, units, weights, 4, target)
    assert target.manifest() == {"weights": [0.5, 0.0, 0.5], "rank": 4}
    got, parts = updates(target), [updates(unit) for unit in units]
    assert got.keys() == parts[0].keys()
    for name, value in got.items():
        expected = 0.5 * parts[0][name] + 0.5 * parts[2][name]
        np.testing.assert_allclose(value.numpy(), expected.numpy(), atol=1e-4)


def test_weights_that_do_not_fit_are_refused(setting):
    model, units, storage = setting
    with pytest.raises(InputError, match="a merge of 3 adapters needs as many weights"):
        merge_adapters(model, units, [0.5, 0.5], 2, Unit(storage, "bad"))


def test_rank_correlation():
    x = np.arange(12.0)
    rho, low = rank_correlation(x, x**3)
    assert rho == pytest.approx(1.0)
    assert 0.9 < low <= 1.0
    rho, low = rank_correlation(x, np.random.default_rng(0).permutation(12))
    assert low < 0
    assert rank_correlation(x[:4], x[:4]) == (0.0, -1.0)
    assert rank_correlation(x, np.zeros(12)) == (0.0, -1.0)


def test_the_predicted_best_of_scores_on_a_line_is_the_line():
    x = np.array([-2.0, -1.5, -1.0, 0.0])
    np.testing.assert_allclose(predicted_best(x, 3 * x + 1, [-3.0, 2.0]), [-8.0, 7.0], atol=1e-12)


def test_training_exceeds_the_predicted_best_as_seldom_as_said():
    rng = np.random.default_rng(0)
    below = []
    for _ in range(4000):
        x = rng.normal(size=9)
        y = 0.7 * x + rng.normal(scale=0.4, size=9)
        below.append(y[-1] <= predicted_best(x[:-1], y[:-1], x[-1:], confidence=0.9)[0])
    # Four standard errors of a share of 0.9.
    assert abs(np.mean(below) - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 4000)


@pytest.mark.parametrize(("merged", "trained"), [([0.0, 1.0], [0.0, 1.0]), ([1.0] * 4, [0.0, 1.0, 2.0, 3.0])])
def test_no_line_no_prediction(merged, trained):
    with pytest.raises(InputError, match="three mixtures"):
        predicted_best(merged, trained, [0.5])
