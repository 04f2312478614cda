"""A tiny language model and a tiny pool of tasks, shared by unit and integration tests; no network is needed."""

import os

# Before torch, tokenizers and the hub client are imported. Processes that tests start inherit it.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import random

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_terminal_summary(terminalreporter):
    """The faults that were injected and what they cost, as the Markdown table in docs/faults.md."""
    rows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call"
        for name, value in report.user_properties
        if name == "fault"
    ]
    if rows:
        terminalreporter.section("faults")
        for row in (("fault", "while", "finished units lost", "repeated"), ("---",) * 4, *rows):
            terminalreporter.write_line(f"| {' | '.join(row)} |")


def pool_records():
    """Task name -> 60 records with different, short prompts."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.sample(letters, 3)) for _ in range(60)]
    sums = rng.sample([(a, b) for a in range(20) for b in range(20)], 60)
    numbers = rng.sample(range(100, 1000), 60)
    pairs = {
        "copy": [(f"First letter of {word}:", word[0]) for word in words],
        "reverse": [(f"Reverse {word}:", word[::-1]) for word in words],
        "sum": [(f"{a} + {b} =", str(a + b)) for a, b in sums],
        "parity": [(f"Is {n} even or odd?", "odd" if n % 2 else "even") for n in numbers],
    }
    return {name: [{"prompt": p, "response": r} for p, r in rows] for name, rows in pairs.items()}


@pytest.fixture(scope="session")
def tiny_pool(tmp_path_factory):
    """Folder of four JSONL tasks of 60 examples each: copy, parity, reverse, sum."""
    folder = tmp_path_factory.mktemp("pool")
    for name, records in pool_records().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Folder of a random two-layer Llama in float32 with a tokenizer of 512 tokens; serves in vLLM as well."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [f"{row['prompt']} {row['response']}" for rows in pool_records().values() for row in rows]
    corpus += [
        "The following are multiple choice questions with answers about this subject.\n\nAnswer: Q: A: True False"
    ]
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )
    assert len(fast) == 512, f"the corpus gives only {len(fast)} tokens"
    folder = tmp_path_factory.mktemp("tiny-llama")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        # vLLM's CPU attention takes head sizes from 64 on.
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        # Large enough for predictions that differ clearly from uniform ones.
        initializer_range=0.08,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def store_other_weights():
    """Store a model as full fine-tuning does, with noise of this size on its weights; returns that model."""
    import torch
    from transformers import AutoModelForCausalLM

    from taskpgm_ray.finetune.full import FullTrainer

    def store(base, folder, seed, size):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += size * torch.randn(parameter.shape)
        folder.mkdir()
        FullTrainer(model).save(folder)
        return model.eval()

    return store


# Of the module, not of the session: no two modules may meet in a study of the same name.
@pytest.fixture(scope="module")
def tiny_jobs(tiny_llama, tiny_pool, tmp_path_factory):
    """(base model, function that makes a job of ten steps on tasks of the tiny pool, in a study of the given name)."""
    from dataclasses import replace

    from taskpgm_ray.config import load_config
    from taskpgm_ray.finetune.job import Recipe, make_job
    from taskpgm_ray.models import resolve
    from taskpgm_ray.storage import Storage
    from taskpgm_ray.tasks.prepare import Task, prepare_one, task_units

    root = Storage(str(tmp_path_factory.mktemp("jobs")))
    config = load_config(
        {
            "study": "jobs",
            "model": {"path": str(tiny_llama), "dtype": "float32", "max_length": 64},
            "pool": {"tasks": [f"jsonl:{tiny_pool}"], "probes_per_task": 4},
            "finetune": {"steps": 10, "batch_size": 4, "learning_rate": 0.02, "lora": {"r": 4, "alpha": 8}},
        }
    )
    model = resolve(config.model, root)
    tasks = []
    for source, unit in task_units(config, model, root / "shared"):
        prepare_one(source, unit, config, model)
        tasks.append(Task(source.name, unit))

    def job(study, task="sum", weights=None, **recipe):
        made = replace(Recipe.of(config.finetune, seed=0, init_seed=0, steps=10, tokens=None), **recipe)
        return make_job(task, "adapters", weights or {task: 1.0}, tasks, made, model, root / study)

    return model, job
