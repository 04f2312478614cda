"""The Hugging Face + PEFT engine: the reference, one forward pass for all positions of an example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.errors import ScoringError
from taskpgm_ray.scoring.engine import Answer, EngineSpec, Query, before_stop
from taskpgm_ray.storage import Unit

ROWS = 16
"""Prompts per forward pass."""


class HFEngine:
    """See `taskpgm_ray.scoring.engine.Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        import torch

        self.device = "cuda" if spec.config.gpus > 0 and torch.cuda.is_available() else "cpu"
        self._tokenizer = spec.model.tokenizer()
        self._model: Any = spec.model.load().to(self.device)
        self._resident = spec.config.max_loras
        self._loaded: dict[str, str] = {}
        self._count = 0

    def next_token(self, queries: list[Query]) -> list[Answer]:
        """See `Engine.next_token`. Queries whose prompt begins the next query's prompt share its forward pass."""
        answers: dict[int, Answer] = {}
        for adapter in dict.fromkeys(query.adapter for query in queries):
            batch = [index for index, query in enumerate(queries) if query.adapter == adapter]
            answers |= zip(batch, self._next_token(adapter, [queries[index] for index in batch]), strict=True)
        return [answers[index] for index in range(len(queries))]

    def _next_token(self, adapter: Unit | None, queries: list[Query]) -> list[Answer]:
        import torch

        wanted = [torch.tensor(query.tokens, device=self.device) for query in queries]
        answers: dict[int, Answer] = {}
        for index, row in self._rows(adapter, [query.prompt for query in queries]):
            values = row[wanted[index]].cpu().numpy().astype(np.float32)
            if not np.isfinite(values).all():
                raise ScoringError("the model returned non-finite log-probabilities")
            answers[index] = Answer(values, int(row.argmax()))
        return [answers[index] for index in range(len(queries))]

    def top_tokens(self, prompts: list[list[int]], k: int) -> NDArray[np.int32]:
        """See `Engine.top_tokens`."""
        top = np.empty((len(prompts), k), dtype=np.int32)
        for index, row in self._rows(None, prompts):
            top[index] = row.topk(k).indices.cpu().numpy()
        return top

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """See `Engine.generate`."""
        import torch

        texts = []
        with torch.inference_mode(), self._under(adapter):
            for prompt in prompts:
                ids = torch.tensor([prompt], device=self.device)
                out = self._model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    pad_token_id=self._tokenizer.eos_token_id,
                )
                text = self._tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True)
                texts.append(before_stop(text, stop))
        return texts

    def _rows(self, adapter: Unit | None, prompts: list[list[int]]) -> Iterator[tuple[int, Any]]:
        """(prompt's index, float32 log-probabilities over the vocabulary after it), one forward pass per chain."""
        import torch

        chains = _chains(prompts)
        with torch.inference_mode(), self._under(adapter):
            for start in range(0, len(chains), ROWS):
                group = chains[start : start + ROWS]
                longest = [prompts[chain[-1]] for chain in group]
                width = max(map(len, longest))
                ids = torch.zeros((len(group), width), dtype=torch.long)
                mask = torch.zeros_like(ids)
                for row, prompt in enumerate(longest):
                    ids[row, : len(prompt)] = torch.tensor(prompt)
                    mask[row, : len(prompt)] = 1
                hidden = self._model(
                    input_ids=ids.to(self.device),
                    attention_mask=mask.to(self.device),
                    logits_to_keep=torch.arange(min(len(prompts[chain[0]]) for chain in group) - 1, width),
                    use_cache=False,
                ).logits
                offset = width - hidden.shape[1]
                for row, chain in enumerate(group):
                    for index in chain:
                        yield index, hidden[row, len(prompts[index]) - 1 - offset].float().log_softmax(-1)

    def _under(self, adapter: Unit | None) -> AbstractContextManager[Any]:
        """Make the adapter (or, for ``None``, the bare base model) the active one."""
        if adapter is None:
            return self._model.disable_adapter() if self._loaded else nullcontext()
        name = self._load(adapter)
        self._model.set_adapter(name)
        return nullcontext()

    def _load(self, adapter: Unit) -> str:
        key = f"{adapter.storage.uri}/{adapter.path}"
        if key not in self._loaded:
            from peft import PeftModel

            if len(self._loaded) >= self._resident:
                oldest = next(iter(self._loaded))
                self._model.delete_adapter(self._loaded.pop(oldest))
            # Names are never used twice, so a stale adapter cannot answer for another.
            name, self._count = f"adapter{self._count}", self._count + 1
            folder = str(adapter.storage.local_copy(adapter.path))
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(folder, name)
            else:
                self._model = PeftModel.from_pretrained(self._model, folder, adapter_name=name).eval()
            self._loaded[key] = name
        return self._loaded[key]


def _chains(prompts: list[list[int]]) -> list[list[int]]:
    """Runs of consecutive prompts of which each begins the next: [[0, 1, 2], [3], ...] (indices)."""
    chains: list[list[int]] = []
    for index, prompt in enumerate(prompts):
        before = prompts[chains[-1][-1]] if chains else None
        if before is not None and len(before) < len(prompt) and prompt[: len(before)] == before:
            chains[-1].append(index)
        else:
            chains.append([index])
    return chains
