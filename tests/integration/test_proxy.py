"""A study whose affinities come from another, smaller model with a tokenizer of its own: here a GPT-2."""

import io
import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from taskpgm_ray import Study
from taskpgm_ray.config import load_config
from taskpgm_ray.state import state_of
from taskpgm_ray.storage import Storage
from tests.integration.studies import optimize

pytestmark = [pytest.mark.integration, pytest.mark.long]
ROOT = Path(__file__).parents[2]
FULL = (
    *("finetune.method=full", "finetune.learning_rate=0.002", "scoring.scorer=vllm"),
    *("search.balances=1", "search.baselines=[uniform]", "evaluation.report_seeds=1"),
)


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory, tiny_pool):
    """Folder of a random GPT-2 with 300 tokens: linear layers that are Conv1D, and no token for padding."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((file.read_text() for file in tiny_pool.glob("*.jsonl")), trainer)
    end = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **end)
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(fast), n_embd=64, n_layer=2, n_head=2, n_positions=256, initializer_range=0.08,
        eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tiny_config, tiny_gpt2, tmp_path_factory):
    """(folder of the study, its config file, what a run printed that trains all weights of the target)."""
    root = tmp_path_factory.mktemp("proxy")
    config = tiny_config("runs", study="small")
    config["affinity"] = {
        "model": {"path": str(tiny_gpt2), "dtype": "float32", "max_length": 96},
        # vLLM serves no adapters on a GPT-2.
        "scorer": "hf",
        "finetune": {
            "steps": 9, "batch_size": 4, "learning_rate": 0.01,
            "lora": {"r": 2, "alpha": 4, "target_modules": ["c_attn", "c_fc"]},
            "lanes": {"max": 1, "cpus": 0.4, "threads": 1},
        },
    }  # fmt: skip
    config["scoring"]["scorer"] = "hf"
    config["evaluation"]["mmlu"] = False
    file = root / "small.yaml"
    file.write_text(yaml.safe_dump(config))
    return root / "runs" / "small", file, optimize(file, *FULL)


def test_adapters_and_scores_are_the_proxys_and_mixtures_are_not(finished):
    folder, *_ = finished
    storage, proxy = Storage(str(folder)), Storage(str(folder / "proxy"))
    assert not storage.exists("adapters")
    assert not storage.exists("scores")
    assert len(proxy.names("adapters")) == 8
    assert not proxy.exists("mixtures")
    settings = [proxy.read_json(f"adapters/{name}/adapter_config.json") for name in proxy.names("adapters")]
    assert {one["r"] for one in settings} == {2}
    assert {path.rpartition(".")[2] for one in settings for path in one["target_modules"]} == {"c_attn", "c_fc"}
    assert {proxy.read_json(f"adapters/{name}/manifest.json")["steps"] for name in proxy.names("adapters")} == {9}
    # Each model has its own token ids of every task.
    assert len(storage.names("tasks")) == len(proxy.names("tasks")) == 4
    assert not set(storage.names("tasks")) & set(proxy.names("tasks"))


def test_the_mixture_and_the_report_rest_on_both(finished):
    folder, _, printed = finished
    mixture = json.loads((folder / "mixture.json").read_text())
    assert mixture["gap"] < 1e-9
    assert {task["unit"] for task in mixture["tasks"]} <= {f"tasks/{p.name}" for p in (folder / "tasks").iterdir()}
    page = (folder / "report.html").read_text()
    assert "proxy: finetune" in page
    assert re.search(r"^finetune: 8 to do", printed, re.M)
    state = state_of(Storage(str(folder)))
    found = {unit.what: (unit.done, unit.planned) for unit in state.units}
    assert found["single-task adapters"] == (8, 8)
    assert found["tasks prepared"] == (8, 8)


def test_it_is_found_finished_and_another_recipe_of_the_mixtures_leaves_the_proxy_alone(finished):
    folder, file, _ = finished
    assert "Ray: " not in optimize(file, *FULL)

    # The file's own recipe is LoRA. Offline, a study refuses to compute anything.
    console = Console(file=io.StringIO())
    config = load_config(file, [f"storage={folder.parent}"])
    made = Study(config, console, offline=True).affinities()
    assert (
        made.fingerprint
        == Study(load_config(file, [f"storage={folder.parent}", *FULL]), console, True).affinities().fingerprint
    )
    assert config.finetune.method == "lora"


def test_all_weights_of_the_target_can_be_trained(finished):
    """vLLM scored whole models, and the best one is handed over with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file, _ = finished
    storage = Storage(str(folder))
    models = [name for name in storage.names("mixtures") if storage.exists(f"mixtures/{name}/model.safetensors")]
    assert len(models) == len(storage.names("mixtures")) >= 3  # two trials, and a finalist
    assert not any(name.startswith("checkpoint") for one in models for name in storage.names(f"mixtures/{one}"))
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    base = AutoModelForCausalLM.from_pretrained(yaml.safe_load(file.read_text())["model"]["path"])
    assert AutoTokenizer.from_pretrained(folder / "model").eos_token_id is not None
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), base.parameters(), strict=True)]
    assert all(moved)
    assert "All weights trained of" in (folder / "model" / "README.md").read_text()
