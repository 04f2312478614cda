"""The training loop: it learns, it is reproducible to the bit, and its adapters are standard PEFT folders."""

import math
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from taskpgm_ray.config import EngineConfig, LoraSection, ModelConfig
from taskpgm_ray.errors import MemoryLimitError, ModelError, TrainingError
from taskpgm_ray.finetune.checkpoint import load_checkpoint, save_checkpoint
from taskpgm_ray.finetune.job import Recipe
from taskpgm_ray.finetune.lora import ADAPTER_FILES, LoraTrainer
from taskpgm_ray.finetune.trainer import budget_used, learning_rate, memory_errors
from taskpgm_ray.models import resolve
from taskpgm_ray.scoring.adapters import check_adapter, expected_shapes
from taskpgm_ray.scoring.engine import EngineSpec, Query
from taskpgm_ray.scoring.hf_engine import HFEngine
from taskpgm_ray.storage import Storage, Unit

LORA = LoraSection(r=4, alpha=8)
RECIPE = Recipe(
    lora=LORA,
    steps=5,
    tokens=None,
    batch_size=4,
    sort_window=1,
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
        outcome = trainer.run(fours(pairs or parity()), recipe, 0, **options)
        trainer.save(folder)
        return outcome, folder

    return train


def fours(pairs):
    """Endless batches of four."""
    examples = cycle(pairs)
    while True:
        yield [next(examples) for _ in range(4)]


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
    fresh = LoraTrainer(load(tiny_llama), LORA)
    fresh.run(fours(parity()), RECIPE, 0)
    fresh.save(tmp_path)
    assert weights(tmp_path) == weights(first)


def test_dropout_is_seeded_as_well(tiny_llama, tmp_path):
    lora = LoraSection(r=4, alpha=8, dropout=0.3)
    trainer = LoraTrainer(load(tiny_llama), lora)
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        trainer.run(fours(parity()), replace(RECIPE, lora=lora, seed=seed), 0)
        trainer.save(tmp_path / name)
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
    assert set(ADAPTER_FILES) <= {file.name for file in folder.iterdir()}
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


def test_every_step_is_reported(run):
    seen = []
    outcome, _ = run(on_step=lambda row, snapshot: seen.append(row))
    assert [row["step"] for row in seen] == [1, 2, 3, 4, 5]
    assert [row["progress"] for row in seen] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert (seen[0]["loss"], seen[-1]["loss"]) == (outcome["loss_first"], outcome["loss_last"])
    assert seen[-1]["tokens"] == outcome["tokens"] == 5 * 4 * 4
    assert "heldout_loss_before" not in outcome


def test_the_token_budget_is_met_by_the_last_batch(run):
    # A batch of four pairs is 16 tokens: seven batches are the first to reach 100.
    outcome, _ = run(replace(RECIPE, steps=None, tokens=100))
    assert (outcome["steps"], outcome["tokens"]) == (7, 112)


def test_no_more_batches_are_taken_than_needed(trainer):
    taken = []

    def watched():
        for number, batch in enumerate(fours(parity())):
            taken.append(number)
            yield batch

    trainer.run(watched(), replace(RECIPE, steps=3), 0)
    assert taken == [0, 1, 2]


def uneven(count=40):
    """Pairs of different lengths, prompt and response."""
    return [([100 + n] * (2 + n % 7), [300 + n % 5] * (1 + n % 3)) for n in range(count)]


def test_padding_is_counted(run):
    tens, nines = ([5] * 9, [6]), ([5] * 8, [6])
    outcome, _ = run(replace(RECIPE, steps=1), [tens, nines, tens, nines])
    assert outcome["padding"] == pytest.approx(1 - 38 / 40)


@pytest.mark.parametrize("tokens", [1, 16, 24])
def test_accumulating_small_forward_passes_is_one_large_one(run, trainer, tokens):
    """Accumulation changes no more than the order in which gradients are added up."""
    import torch

    def trained(budget):
        outcome, _ = run(pairs=uneven(), micro_batch_tokens=budget)
        return outcome, [p.detach().clone() for p in trainer.parameters.values()]

    whole, expected = trained(10_000)
    parts, got = trained(tokens)
    assert parts["loss_last"] == pytest.approx(whole["loss_last"], rel=1e-4)
    assert parts["padding"] < whole["padding"]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)


def test_gradient_checkpointing_changes_no_bit(run, tiny_llama, tmp_path):
    _, plain = run(pairs=uneven())
    trainer = LoraTrainer(load(tiny_llama), LORA, gradient_checkpointing=True)
    trainer.run(fours(uneven()), RECIPE, 0)
    trainer.save(tmp_path)
    assert trainer.model.is_gradient_checkpointing
    assert weights(tmp_path) == weights(plain)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resuming_changes_no_bit(tiny_llama, tmp_path, stop):
    """With dropout, weight decay and uneven examples: everything that could depend on what came before."""
    lora = LoraSection(r=4, alpha=8, dropout=0.3)
    recipe = replace(RECIPE, lora=lora, weight_decay=0.1)
    kept, rows = {}, {"whole": [], "resumed": []}

    def keep(row, snapshot):
        rows["whole"].append(row["loss"])
        checkpoint = snapshot()
        kept[row["step"]] = replace(checkpoint, tensors=list(checkpoint.tensors))

    heldout = parity(40, 6)
    trainer = LoraTrainer(load(tiny_llama), lora)
    whole = trainer.run(fours(uneven()), recipe, 0, heldout, 24, on_step=keep)
    fresh = LoraTrainer(load(tiny_llama), lora)
    fresh.run(fours(copying()), replace(recipe, seed=7), 0)
    unit = Unit(Storage(str(tmp_path)), "unit")
    save_checkpoint(unit, kept[stop])
    resumed = fresh.run(
        fours(uneven()), recipe, 0, heldout, 24, resume=load_checkpoint(unit),
        on_step=lambda row, snapshot: rows["resumed"].append(row["loss"]),
    )  # fmt: skip
    assert rows["resumed"] == rows["whole"][stop:]
    for name, made in (("a", trainer), ("b", fresh)):
        (tmp_path / name).mkdir()
        made.save(tmp_path / name)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert {k: v for k, v in resumed.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}


def test_a_bfloat16_base_learns_what_a_float32_base_learns(run, tiny_llama, tmp_path):
    import torch
    from safetensors.torch import load_file

    whole, _ = run(pairs=parity(), heldout=parity(40, 6))
    trainer = LoraTrainer(load(tiny_llama).to(torch.bfloat16), LORA)
    mixed = trainer.run(fours(parity()), RECIPE, 0, parity(40, 6))
    for loss in ("heldout_loss_before", "loss_last", "heldout_loss_after"):
        assert mixed[loss] == pytest.approx(whole[loss], rel=0.05), loss
    trainer.save(tmp_path)
    # What is trained stays float32: at a small learning rate steps would vanish in bfloat16's eight bits.
    assert {t.dtype for t in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}


def test_the_kind_of_attention_changes_no_loss(trainer, monkeypatch):
    """On the CPU it depends on the number of columns; the figures may not."""
    losses, kinds = [], []
    for columns in (4, 3):
        monkeypatch.setattr("taskpgm_ray.finetune.trainer.EAGER_COLUMNS", columns)
        losses.append(trainer.mean_loss(parity(), 0))
        kinds.append(trainer.base.config._attn_implementation)
    assert kinds == ["eager", "sdpa"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_memory_that_does_not_suffice_has_an_error_of_its_own(run, trainer, monkeypatch):
    import torch

    def no_room(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trainer.module, "forward", no_room)
    with pytest.raises(MemoryLimitError, match="Tried to allocate"):
        run()
    with pytest.raises(MemoryLimitError, match="can't allocate memory"), memory_errors():
        torch.empty(2**60, dtype=torch.int8)


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
    assert trainer.mean_loss(pairs, 0, 1) == pytest.approx(total / count, rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_job_and_not_the_trainer(run):
    _, first = run()
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf); lower finetune\.learning_rate"):
        run(replace(RECIPE, learning_rate=1e30, warmup_fraction=0.0, steps=20))
    _, again = run()
    assert weights(again) == weights(first)


def test_target_modules_that_the_model_does_not_have(tiny_llama):
    with pytest.raises(
        ModelError, match=r"target_modules names 'c_attn', which is no linear layer .*; it has: down_proj"
    ):
        LoraTrainer(load(tiny_llama), LoraSection(target_modules=("c_attn",)))


def test_named_target_modules(tiny_llama):
    trainer = LoraTrainer(load(tiny_llama), LoraSection(r=2, target_modules=("q_proj", "v_proj")))
    assert len(trainer.parameters) == 2 * 2 * 2


@pytest.mark.parametrize(
    "modules", ["all-linear", ("q_proj", "mlp.down_proj"), r"model\.layers\.1\..*_proj", ("layers.0.self_attn.o_proj",)]
)
def test_what_is_trained_is_what_the_engines_expect(tiny_llama, tmp_path, modules):
    """Training and the check of its adapters choose the same layers, whatever form the choice has."""
    lora = LoraSection(r=2, alpha=4, target_modules=modules)
    LoraTrainer(load(tiny_llama), lora).save(tmp_path)
    model = resolve(ModelConfig(path=str(tiny_llama), dtype="float32"), Storage("unused"))
    check_adapter(tmp_path, "a", lora, expected_shapes(model, lora))


def gpt2(folder, tokenizer):
    """A tiny GPT-2, whose layers are ``Conv1D``, with the tokenizer of another model."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=512, n_embd=32, n_layer=1, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=1, pad_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_gpt_2_is_trained_and_scored(tiny_llama, tmp_path):
    """With the Hugging Face engine; vLLM serves no adapters on it."""
    folder, storage = gpt2(tmp_path / "gpt2", tiny_llama), Storage(str(tmp_path / "study"))
    trainer = LoraTrainer(load(folder), LORA)
    outcome = trainer.run(cycle([parity(count=4)]), replace(RECIPE, steps=20), pad_id=0)
    assert outcome["loss_last"] < outcome["loss_first"]
    unit = Unit(storage, "adapters/a")
    trainer.save(Path(storage.path(unit.path)))
    model = resolve(ModelConfig(path=str(folder), dtype="float32"), Storage("unused"))
    engine = HFEngine(EngineSpec("hf", model, LORA, EngineConfig()))
    prompt, tokens = [100, 200], [300, 301, 1]
    base, adapted = engine.score([Query(prompt, tokens), Query(prompt, tokens, unit)])
    assert adapted[0] > base[0] + 0.1


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.1), (0.1, 0.5), (0.2, 1.0), (0.6, 0.55), (0.999999, 0.1)])
def test_the_learning_rate_rises_and_falls(progress, rate):
    recipe = replace(RECIPE, learning_rate=1.0, warmup_fraction=0.2)
    assert learning_rate(recipe, progress) == pytest.approx(rate, abs=1e-4)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(replace(RECIPE, learning_rate=1.0, warmup_fraction=0.0), 0.0) == 1.0


def test_the_budget_counts_steps_or_tokens():
    assert budget_used(RECIPE, steps=3, tokens=999) == pytest.approx(0.6)
    assert budget_used(replace(RECIPE, steps=None, tokens=200), steps=99, tokens=50) == 0.25
