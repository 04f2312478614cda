"""A tiny model, its tokenizer, a client on it, and a synthetic folder of benchmark data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from taskpgm_ray.evaluation import NextToken

CORPUS = [
    "The following are multiple choice questions (with answers) about anatomy.",
    "What is the colour of the sky over the sea? A. blue B. red C. green D. black Answer: A Answer: B Answer: C",
    "Q: not ( True and False ) is A: True Q: True and not True is A: False Options: (A) (B) (C) (D)",
    "Which of these statements about the heart and the brain is right? valid invalid yes no 12 31 45",
]


def tiny_tokenizer(*, bos: bool = False) -> Any:
    """A byte-level BPE with some merges, so that a text's tokens depend on what stands before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>"} if bos else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", **names)
    fast.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return fast


def tiny_llama(n_vocab: int) -> Any:
    """A random two-layer Llama, float32, with sharp enough predictions that greedy tokens have no ties."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    # More threads than this model can feed only wait for each other.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=n_vocab,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


class HFClient:
    """A `TokenScorer` on a Hugging Face model, one prompt at a time; it records what it was asked."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.calls: list[tuple[list[list[int]], list[list[int]]]] = []
        self.generations: list[tuple[int, list[str]]] = []

    def next_token(self, prompts: list[list[int]], tokens: list[list[int]]) -> NextToken:
        import torch

        self.calls.append((prompts, tokens))
        logprobs, greedy = [], []
        with torch.inference_mode():
            for prompt, ids in zip(prompts, tokens, strict=True):
                row = torch.log_softmax(self.model(torch.tensor([prompt])).logits[0, -1].float(), -1)
                logprobs.append(row[ids].numpy())
                greedy.append(int(row.argmax()))
        return NextToken(logprobs, greedy)

    def generate(self, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        import torch

        self.generations.append((max_tokens, stop))
        texts = []
        with torch.inference_mode():
            for prompt in prompts:
                ids = torch.tensor([prompt])
                out = self.model.generate(ids, max_new_tokens=max_tokens, do_sample=False, pad_token_id=1)
                texts.append(self.tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True))
        return texts


class ConstantClient:
    """A `TokenScorer` without a model: every token has probability 1/8, the greedy token is the first asked for."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    def next_token(self, prompts: list[list[int]], tokens: list[list[int]]) -> NextToken:
        self.prompts += prompts
        return NextToken([np.full(len(ids), np.log(1 / 8), "float32") for ids in tokens], [ids[0] for ids in tokens])

    def generate(self, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        raise AssertionError("no task of these generates")


def mmlu_record(name: str, answer: int = 0) -> dict[str, Any]:
    return {"question": f"What is {name}?", "choices": [f"{name} {i}" for i in range(4)], "answer": answer}


def write_lines(file: Path, records: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_folder(folder: Path, *, n_subjects: int = 3, n_tasks: int = 2, n_items: int = 6, n_dev: int = 3) -> Path:
    """A folder of benchmark data in which no question occurs twice."""
    for s in range(n_subjects):
        for split, n in (("dev", n_dev), ("val", n_items), ("test", n_items)):
            records = [mmlu_record(f"{split} {s} {i}", i % 4) for i in range(n)]
            write_lines(folder / "mmlu" / f"subject_{s}.{split}.jsonl", records)
    for t in range(n_tasks):
        records = [{"input": f"not {t} {i} is", "target": "True" if i % 2 else "False"} for i in range(n_items)]
        write_lines(folder / "bbh" / f"task_{t}.jsonl", records)
    return folder
