"""The merge of adapters is the weighted sum of their updates, and rank correlations say what they can say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.config import LoraSection, ModelConfig
from taskpgm_ray.errors import InputError, ModelError
from taskpgm_ray.models import resolve
from taskpgm_ray.search.merge import Merge, merge_adapters, predicted_best
from taskpgm_ray.search.ranks import rank_correlation
from taskpgm_ray.search.screen import WARRANTED
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.workload import LEAST_PILOTS


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
    _, units, storage = setting
    target = Unit(storage, "merged-all")
    weights = np.array([0.5, 0.0, 0.5])
    merge_adapters(units, [Merge(weights, target)], LoraSection(r=4, alpha=8))
    assert target.manifest() == {"weights": [0.5, 0.0, 0.5], "rank": 4}
    got, parts = updates(target), [updates(unit) for unit in units]
    assert got.keys() == parts[0].keys()
    for name, value in got.items():
        expected = 0.5 * parts[0][name] + 0.5 * parts[2][name]
        np.testing.assert_allclose(value.numpy(), expected.numpy(), atol=1e-4)


def test_weights_that_do_not_fit_are_refused(setting):
    _, units, storage = setting
    with pytest.raises(InputError, match="a merge of 3 adapters needs as many weights"):
        merge_adapters(units, [Merge([0.5, 0.5], Unit(storage, "bad"))], LoraSection(r=2))


def test_fewer_mixtures_than_a_search_by_merges_asks_for_warrant_nothing():
    for count, warranted in ((LEAST_PILOTS - 1, False), (LEAST_PILOTS, True)):
        assert (rank_correlation(np.arange(count), np.arange(count))[1] >= WARRANTED) == warranted


def test_rank_correlation():
    x = np.arange(12.0)
    rho, low = rank_correlation(x, x**3)
    assert rho == pytest.approx(1.0)
    assert 0.9 < low <= 1.0
    rho, low = rank_correlation(x, np.random.default_rng(0).permutation(12))
    assert low < 0
    assert rank_correlation(x[:4], x[:4]) == (0.0, -1.0)
    # Five in perfect order are no proof: by chance alone one in 120 is, and many where the correlation is a half.
    assert rank_correlation(x[:5], x[:5]) == pytest.approx((1.0, 0.13), abs=0.01)
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


def by_peft(model, units, weights, rank, storage):
    """PEFT's own merge: the singular value decomposition of every layer's whole update."""
    from peft import PeftModel

    merged = PeftModel.from_pretrained(model.load(), storage.path(units[0].path), adapter_name="0")
    for k, unit in enumerate(units[1:], 1):
        merged.load_adapter(storage.path(unit.path), str(k))
    names = [str(k) for k in range(len(units))]
    merged.add_weighted_adapter(names, list(weights), "merged", combination_type="svd", svd_rank=rank)
    layers = {name: module for name, module in merged.named_modules() if hasattr(module, "lora_A")}
    # Without the scale that PEFT gives it, which ought to be 1 and with rsLoRA is not.
    return {
        f"{name}.lora_A.weight": (part.lora_B["merged"].weight @ part.lora_A["merged"].weight).detach().numpy()
        for name, part in layers.items()
    }


@pytest.mark.parametrize("scaling", ["alpha over r", "rslora", "alpha of a layer"])
@pytest.mark.parametrize("rank", [2, 3, 16])
def test_it_is_pefts_merge(setting, scaling, rank):
    from safetensors.numpy import load, save

    model, units, storage = setting
    changed = []
    for k, unit in enumerate(units):
        settings = unit.files.read_json("adapter_config.json")
        settings["lora_alpha"] = 4 + k
        settings["use_rslora"] = scaling == "rslora"
        if scaling == "alpha of a layer":
            settings["alpha_pattern"] = {"q_proj": 7, r"layers\.1\..*up_proj": 9}
        name = f"{scaling.replace(' ', '-')}-{rank}-{unit.path}"
        changed.append(Unit(storage, name))
        tensors = load(unit.files.read_bytes("adapter_model.safetensors"))
        # Singular values of clearly different size: of two that are alike, rounding decides which one is cut.
        falling = np.float32(2.0) ** -np.arange(2 * k, 2 * k + 2, dtype=np.float32)
        tensors = {key: value * falling if "lora_B" in key else value for key, value in tensors.items()}
        changed[-1].files.write_bytes("adapter_model.safetensors", save(tensors))
        changed[-1].files.write_json("adapter_config.json", settings)
    weights = [0.4, 0.35, 0.25]
    target = Unit(storage, f"{scaling.replace(' ', '-')}-{rank}-merged")
    merge_adapters(changed, [Merge(weights, target)], LoraSection(r=rank, alpha=5))
    ours, theirs = updates(target), by_peft(model, changed, weights, rank, storage)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert np.linalg.norm(value.numpy() - theirs[name]) < 1e-5 * np.linalg.norm(theirs[name]), name


def test_the_engines_take_a_merge_for_one_of_the_studys_adapters(setting):
    from taskpgm_ray.scoring.adapters import check_adapter, expected_shapes

    model, units, storage = setting
    lora = LoraSection(r=2, alpha=4)
    target = Unit(storage, "served")
    merge_adapters(units, [Merge([0.2, 0.3, 0.5], target)], lora)
    check_adapter(storage.local_copy(target.path), "served", lora, expected_shapes(model, lora))


def test_many_merges_at_once_are_those_of_one_each_and_finished_ones_are_left_alone(setting):
    _, units, storage = setting
    mixtures = [[0.5, 0.5, 0.0], [0.0, 0.1, 0.9], [1 / 3, 1 / 3, 1 / 3]]
    lora = LoraSection(r=2, alpha=4)
    together = [Merge(weights, Unit(storage, f"together-{k}")) for k, weights in enumerate(mixtures)]
    merge_adapters(units, together, lora)
    for k, weights in enumerate(mixtures):
        alone = Unit(storage, f"alone-{k}")
        merge_adapters(units, [Merge(weights, alone)], lora)
        expected = updates(alone)
        for name, value in updates(together[k].unit).items():
            # What is cut off is not far from what is kept, which lets float32's rounding grow.
            assert (value - expected[name]).norm() < 1e-4 * expected[name].norm(), name
    together[0].unit.storage.delete_file("together-0/adapter_model.safetensors")
    merge_adapters(units, together, lora)
    assert not storage.exists("together-0/adapter_model.safetensors")


@settings(max_examples=12)
@given(st.permutations(range(3)), st.integers(0, 2), st.lists(st.floats(0.05, 1.0), min_size=3, max_size=3))
def test_order_does_not_matter_and_one_adapter_is_itself(setting, order, which, drawn):
    _, units, storage = setting
    weights = np.array(drawn) / sum(drawn)
    lora = LoraSection(r=2, alpha=3)
    name = fingerprint(order, which, drawn)
    own, straight, permuted = (Unit(storage, f"{kind}-{name}") for kind in ("own", "straight", "permuted"))
    merge_adapters(units, [Merge(np.eye(3)[which], own), Merge(weights, straight)], lora)
    merge_adapters([units[k] for k in order], [Merge(weights[list(order)], permuted)], lora)
    for one, other in ((own, units[which]), (permuted, straight)):
        expected = updates(other)
        for layer, value in updates(one).items():
            assert (value - expected[layer]).norm() < 1e-4 * expected[layer].norm(), layer


def test_adapters_that_cannot_be_merged_are_named(setting):
    from safetensors.numpy import load, save

    _, units, storage = setting
    lora, target = LoraSection(r=2), Unit(storage, "never")
    with pytest.raises(ModelError, match=r"adapter nowhere cannot be merged.*trains it again"):
        merge_adapters([units[0], Unit(storage, "nowhere")], [Merge([0.5, 0.5], target)], lora)
    tensors = load(units[0].files.read_bytes("adapter_model.safetensors"))
    name = min(tensors)
    other = Unit(storage, "other")
    other.files.write_json("adapter_config.json", units[0].files.read_json("adapter_config.json"))
    for changed, message in (
        ({key: value for key, value in tensors.items() if key != name}, "other cannot be merged: it holds more"),
        (tensors | {"bias": tensors[name]}, "other cannot be merged: it holds more"),
        (tensors | {name: np.zeros((2, 7), np.float32)}, "have different shapes"),
        ({k: v for k, v in tensors.items() if "layers.0" not in k}, "on different layers"),
    ):
        other.files.write_bytes("adapter_model.safetensors", save(changed))
        with pytest.raises(ModelError, match=message):
            merge_adapters([units[0], other], [Merge([0.5, 0.5], target)], lora)
    assert not target.done()


def test_how_much_agreement_is_asked_of_few_mixtures():
    """What the guide says: of six only the same order is enough, of ten a correlation of 0.92, of twenty 0.85."""

    def swapped(count, pairs, first=0):
        order = np.arange(count, dtype=float)
        for k in range(pairs):
            at = first + 2 * k
            order[[at, at + 1]] = order[[at + 1, at]]
        return order

    for count, enough, too_little in (
        (6, swapped(6, 0), swapped(6, 1)),
        (10, swapped(10, 5), np.array([2, 1, 0, 4, 3, 6, 5, 8, 7, 9.0])),
    ):
        assert rank_correlation(np.arange(count), enough)[1] >= 0.6
        assert rank_correlation(np.arange(count), too_little)[1] < 0.6
    assert rank_correlation(np.arange(10), [2, 1, 0, 4, 3, 6, 5, 8, 7, 9])[0] == pytest.approx(0.915, abs=1e-3)
    draws = np.random.default_rng(0).normal(size=(300, 20))
    found = [rank_correlation(np.arange(20), np.arange(20) + noise * 3) for noise in draws]
    assert 0.84 < min(rho for rho, low in found if low >= 0.6) < 0.87
