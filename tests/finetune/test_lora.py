"""The training loop: it learns, it is reproducible to the bit, and its adapters are standard PEFT folders."""

import json
import math
from dataclasses import replace
from itertools import cycle

import pytest

from taskpgm_ray.config import LoraSection
from taskpgm_ray.errors import ModelError, TrainingError
from taskpgm_ray.finetune.job import Recipe
from taskpgm_ray.finetune.lora import ADAPTER_FILES, LoraTrainer, budget_used, learning_rate

LORA = LoraSection(r=4, alpha=8)
RECIPE = Recipe(
    lora=LORA,
    steps=5,
    tokens=None,
    batch_size=4,
    learning_rate=0.02,
    warmup_fraction=0.2,
    weight_decay=0.0,
    max_grad_norm=1.0,
    seed=0,
    init_seed=0,
)


def load(folder):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def parity(start=0, count=40):
    """Pairs of token ids: two numbers, and whether the second is odd; easy to learn."""
    return [([100 + n, 200 + n], [300 + n % 2, 1]) for n in range(start, start + count)]


def copying(count=40):
    return [([100 + n, 150 + n], [100 + n, 1]) for n in range(count)]


@pytest.fixture(scope="module")
def trainer(tiny_llama):
    return LoraTrainer(load(tiny_llama), LORA)


@pytest.fixture
def run(trainer, tmp_path):
    """Train into a fresh folder; returns (outcome, folder)."""
    folders = (tmp_path / f"run{i}" for i in range(10))

    def train(recipe=RECIPE, pairs=None, **options):
        folder = next(folders)
        folder.mkdir()
        return trainer.run(cycle(pairs or parity()), recipe, folder, 0, **options), folder

    return train


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def test_the_loss_falls_on_examples_that_were_not_trained_on(run):
    outcome, _ = run(replace(RECIPE, steps=15), heldout=parity(40, 12))
    assert outcome["loss_last"] < outcome["loss_first"]
    assert outcome["heldout_loss_after"] < 0.5 * outcome["heldout_loss_before"]
    # A random model knows nothing yet: about the entropy of a uniform choice among 512 tokens.
    assert outcome["heldout_loss_before"] == pytest.approx(math.log(512), rel=0.25)


def test_the_same_seed_gives_the_same_bytes_whatever_ran_in_between(run):
    _, first = run()
    run(replace(RECIPE, seed=5, init_seed=9), copying())
    _, again = run()
    assert weights(again) == weights(first)
    assert (again / "adapter_config.json").read_bytes() == (first / "adapter_config.json").read_bytes()


def test_a_fresh_trainer_gives_the_same_bytes(run, tiny_llama, tmp_path):
    _, first = run()
    LoraTrainer(load(tiny_llama), LORA).run(cycle(parity()), RECIPE, tmp_path, 0)
    assert weights(tmp_path) == weights(first)


def test_dropout_is_seeded_as_well(tiny_llama, tmp_path):
    lora = LoraSection(r=4, alpha=8, dropout=0.3)
    trainer = LoraTrainer(load(tiny_llama), lora)
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        trainer.run(cycle(parity()), replace(RECIPE, lora=lora, seed=seed), tmp_path / name, 0)
        made.append(weights(tmp_path / name))
    assert made[0] == made[1] != made[2]


def test_the_initialisation_has_a_seed_of_its_own(run):
    _, first = run()
    _, other = run(replace(RECIPE, init_seed=1))
    assert weights(other) != weights(first)


def test_training_leaves_the_base_weights_alone(trainer, run, tiny_llama):
    import torch

    run()
    original = load(tiny_llama).state_dict()
    found = 0
    for name, value in trainer.model.get_base_model().state_dict().items():
        if "lora_" not in name:
            assert torch.equal(value, original[name.replace(".base_layer", "")]), name
            found += 1
    assert found == len(original)


def test_peft_loads_the_folder_and_predicts_the_same(trainer, run, tiny_llama):
    import torch
    from peft import PeftModel

    _, folder = run()
    assert {*ADAPTER_FILES, "metrics.jsonl"} <= {file.name for file in folder.iterdir()}
    ids = torch.arange(100, 130)[None]
    base = load(tiny_llama)
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        loaded = PeftModel.from_pretrained(base, str(folder)).eval()(input_ids=ids).logits
        trained = trainer.model.eval()(input_ids=ids).logits
    torch.testing.assert_close(loaded, trained, atol=1e-5, rtol=0)
    assert (loaded - plain).abs().max() > 0.1


def test_the_folder_holds_the_lora_matrices_only(run):
    from safetensors import safe_open

    _, folder = run()
    with safe_open(folder / "adapter_model.safetensors", "pt") as tensors:
        names = list(tensors.keys())
    # Two layers of seven linear modules, an A and a B each; no output head, no embedding.
    assert len(names) == 2 * 7 * 2
    assert all(".lora_A." in name or ".lora_B." in name for name in names)


def test_metrics_are_one_line_a_step(run):
    seen = []
    outcome, folder = run(on_step=seen.append)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == seen
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert (rows[0]["loss"], rows[-1]["loss"]) == (outcome["loss_first"], outcome["loss_last"])
    assert rows[-1]["tokens"] == outcome["tokens"] == 5 * 4 * 4
    assert "heldout_loss_before" not in outcome


def test_the_token_budget_is_met_by_the_last_batch(run):
    # A batch of four pairs is 16 tokens: seven batches are the first to reach 100.
    outcome, _ = run(replace(RECIPE, steps=None, tokens=100))
    assert (outcome["steps"], outcome["tokens"]) == (7, 112)


def test_examples_are_taken_in_the_given_order_and_no_more_than_needed(trainer, tmp_path):
    taken = []

    def watched():
        for number, pair in enumerate(parity()):
            taken.append(number)
            yield pair

    trainer.run(watched(), replace(RECIPE, steps=3), tmp_path, 0)
    assert taken == list(range(12))


def test_only_the_response_is_learned(trainer):
    """The loss is the mean negative log-likelihood of the response tokens, computed here one by one."""
    import torch

    pairs = [([100, 101, 102], [7, 1]), ([103], [8, 9, 1])]
    total, count = 0.0, 0
    with torch.no_grad():
        for prompt, response in pairs:
            rows = trainer.model.eval()(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
            total -= sum(float(rows[len(prompt) - 1 + i, token]) for i, token in enumerate(response))
            count += len(response)
    assert trainer.mean_loss(pairs, 0) == pytest.approx(total / count, rel=1e-5)
    assert trainer.mean_loss(pairs, 0, rows=1) == pytest.approx(total / count, rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_job_and_not_the_trainer(run):
    _, first = run()
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf); lower finetune\.learning_rate"):
        run(replace(RECIPE, learning_rate=1e30, warmup_fraction=0.0, steps=20))
    _, again = run()
    assert weights(again) == weights(first)


def test_target_modules_that_the_model_does_not_have(tiny_llama):
    with pytest.raises(ModelError, match=r"target_modules=\('c_attn',\) does not fit this model"):
        LoraTrainer(load(tiny_llama), LoraSection(target_modules=("c_attn",)))


def test_named_target_modules(tiny_llama):
    trainer = LoraTrainer(load(tiny_llama), LoraSection(r=2, target_modules=("q_proj", "v_proj")))
    assert len(trainer.parameters) == 2 * 2 * 2


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.1), (0.1, 0.5), (0.2, 1.0), (0.6, 0.55), (0.999999, 0.1)])
def test_the_learning_rate_rises_and_falls(progress, rate):
    recipe = replace(RECIPE, learning_rate=1.0, warmup_fraction=0.2)
    assert learning_rate(recipe, progress) == pytest.approx(rate, abs=1e-4)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(replace(RECIPE, learning_rate=1.0, warmup_fraction=0.0), 0.0) == 1.0


def test_the_budget_counts_steps_or_tokens():
    assert budget_used(RECIPE, steps=3, tokens=999) == pytest.approx(0.6)
    assert budget_used(replace(RECIPE, steps=None, tokens=200), steps=99, tokens=50) == 0.25
