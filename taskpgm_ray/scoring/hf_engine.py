"""The Hugging Face + PEFT engine: the reference, one forward pass for all positions of an example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.errors import ResourceError, ScoringError
from taskpgm_ray.scoring.engine import Answer, EngineSpec, Query, agree, before_stop, chains
from taskpgm_ray.scoring.hf_weights import weights_of
from taskpgm_ray.scoring.shared_prefix import Row, mask_of, rows_of, takes_masks
from taskpgm_ray.storage import Unit
from taskpgm_ray.tasks.chat import end_of_turn

T = TypeVar("T")
COMPARED = 8
"""Shared rows that are compared with separate ones before any is used."""


class HFEngine:
    """See `taskpgm_ray.scoring.engine.Engine`."""

    method = "hf one-pass"

    def __init__(self, spec: EngineSpec) -> None:
        import torch

        self.device = "cuda" if spec.config.gpus > 0 else "cpu"
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ResourceError(
                f"scoring.engines.gpus is {spec.config.gpus:g}, but torch finds no usable CUDA device on this node (is "
                "it torch's CPU build, or an old driver?); set gpus to 0 to score on the CPU"
            )
        self._tokenizer = spec.model.tokenizer()
        self._weights = weights_of(spec, self.device)
        self._model = self._weights.model
        self._model.generation_config = _greedy(self._model.generation_config, self._tokenizer)
        self._budget = spec.config.max_batched_tokens
        self._dtype = spec.model.dtype
        self._shares: bool | None = None if takes_masks(spec.model.text_config()) else False
        """Whether prompts that begin alike share a row; ``None``: to be compared with separate rows first."""

    def fetch(self, adapters: Sequence[Unit]) -> None:
        """See `Engine.fetch`."""
        self._weights.folders.fetch(adapters)

    def check(self, adapter: Unit) -> None:
        """See `Engine.check`."""
        self._weights.folders.folder(adapter)

    def score(self, queries: list[Query]) -> list[NDArray[np.float32]]:
        """See `Engine.score`."""
        return [values for values, _ in self._answers(queries)]

    def next_token(self, queries: list[Query]) -> list[Answer]:
        """See `Engine.next_token`."""
        if self._shares is None:
            self._shares = self._sharing_agrees(queries)
        answers = [Answer(values, greedy) for values, greedy in self._answers(queries, self._shares or False)]
        if not all(np.isfinite(answer.logprobs).all() for answer in answers):
            raise ScoringError("the model returned non-finite log-probabilities")
        return answers

    def _sharing_agrees(self, queries: list[Query]) -> bool | None:
        """Whether some prompts are predicted alike in shared and in separate rows; ``None`` where none would share."""
        runs = chains(queries)
        joint = [members for row, members in rows_of([queries[run[-1]].prompt for run in runs]) if len(members) > 1]
        sample = [queries[index] for members in joint[:COMPARED] for run in members for index in runs[run]]
        if not sample:
            return None
        one, other = ([values for values, _ in self._answers(sample, share)] for share in (True, False))
        return agree(one, other, self._dtype)

    def _answers(self, queries: list[Query], share: bool = False) -> list[tuple[NDArray[np.float32], int]]:
        """(log-probabilities, most likely token) of every query."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        answers: dict[int, tuple[NDArray[np.float32], int]] = {}
        for indices, logits in self._logits(queries, share):
            wanted = [torch.tensor(queries[index].tokens, device=self.device) for index in indices]
            values = logits.gather(1, pad_sequence(wanted, batch_first=True)) - logits.logsumexp(1, keepdim=True)
            rows, greedy = values.cpu().numpy(), logits.argmax(1).tolist()
            for index, row, token in zip(indices, rows, greedy, strict=True):
                answers[index] = (row[: len(queries[index].tokens)], token)
        return [answers[index] for index in range(len(queries))]

    def top_tokens(self, prompts: list[list[int]], k: int) -> NDArray[np.int32]:
        """See `Engine.top_tokens`."""
        top = np.empty((len(prompts), k), dtype=np.int32)
        for indices, logits in self._logits([Query(prompt, []) for prompt in prompts]):
            top[indices] = logits.topk(k).indices.cpu().numpy()
        return top

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """See `Engine.generate`."""
        import torch

        texts = []
        with torch.inference_mode(), self._weights.under(adapter):
            for prompt in prompts:
                ids = torch.tensor([prompt], device=self.device)
                out = self._model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens
                )
                text = self._tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True)
                texts.append(before_stop(text, stop))
        return texts

    def _logits(self, queries: list[Query], share: bool = False) -> Iterator[tuple[list[int], Any]]:
        """(indices of queries, float32 logits [len(indices), vocabulary] after their prompts), a pass at a time."""
        import torch

        runs = chains(queries)
        for adapter in dict.fromkeys(query.adapter for query in queries):
            own = [run for run in runs if queries[run[0]].adapter == adapter]
            prompts = [queries[run[-1]].prompt for run in own]
            found = rows_of(prompts) if share else [(Row(prompt, [[]]), [i]) for i, prompt in enumerate(prompts)]
            rows = [(row, [own[member] for member in members]) for row, members in found]
            alone = [(row, runs[0]) for row, runs in rows if len(runs) == 1]
            joint = [(row, runs) for row, runs in rows if len(runs) > 1]
            with torch.inference_mode(), self._weights.under(adapter):
                for group in _passes(alone, [row.size for row, _ in alone], self._budget):
                    yield self._forward([run for _, run in group], queries)
                for passed in _passes(joint, [row.size for row, _ in joint], self._budget):
                    yield self._forward_shared(passed, queries)

    def _forward(self, group: list[list[int]], queries: list[Query]) -> tuple[list[int], Any]:
        """One pass over the longest prompt of each run, padded on the left: what is scored lies at the right end."""
        import torch

        longest = [queries[run[-1]].prompt for run in group]
        width = max(map(len, longest))
        ids = torch.zeros((len(group), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(longest):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        keep = max(len(queries[run[-1]].prompt) - len(queries[run[0]].prompt) for run in group) + 1
        logits = self._model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(self.device),
            # Indices rather than a number: see `Batch.logits`.
            logits_to_keep=torch.arange(width - keep, width, device=self.device),
            use_cache=False,
        ).logits
        places = [
            (index, row, keep - 1 - (len(longest[row]) - len(queries[index].prompt)))
            for row, run in enumerate(group)
            for index in run
        ]
        indices, rows, columns = (list(part) for part in zip(*places, strict=True))
        return indices, logits[rows, columns].float()

    def _forward_shared(self, passed: list[tuple[Row, list[list[int]]]], queries: list[Query]) -> tuple[list[int], Any]:
        """One pass over rows of several runs each, see `taskpgm_ray.scoring.shared_prefix`."""
        import torch

        rows = [row for row, _ in passed]
        width = max(row.size for row in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        positions = torch.zeros_like(ids)
        places: list[tuple[int, int, int]] = []
        for number, (row, runs) in enumerate(passed):
            start = width - row.size
            ids[number, start:] = torch.tensor(row.ids)
            positions[number, start:] = torch.tensor(row.positions)
            for end, run in enumerate(runs):
                places += [(index, number, start + row.place(end, len(queries[index].prompt))) for index in run]
        first = min(column for _, _, column in places)
        logits = self._model(
            input_ids=ids.to(self.device),
            attention_mask=mask_of(rows, width, self._model.dtype).to(self.device),
            position_ids=positions.to(self.device),
            logits_to_keep=torch.arange(first, width, device=self.device),
            use_cache=False,
        ).logits
        indices, numbers, columns = (list(part) for part in zip(*places, strict=True))
        return indices, logits[numbers, [column - first for column in columns]].float()


def _passes(items: Sequence[T], sizes: Sequence[int], budget: int) -> Iterator[list[T]]:
    """Items of similar size together, as many as fit into ``budget`` tokens with padding; always the same ones."""
    passed: list[int] = []
    # The longest first: a pass that does not fit into memory fails at once, and padding is counted by the first.
    for index in sorted(range(len(items)), key=lambda index: -sizes[index]):
        if passed and (len(passed) + 1) * sizes[passed[0]] > budget:
            yield [items[each] for each in passed]
            passed = []
        passed.append(index)
    if passed:
        yield [items[index] for index in passed]


def _greedy(own: Any, tokenizer: Any) -> Any:
    """Settings by which a model always says its most likely token, up to where its text or its turn ends.

    Of its ``own`` only the ends are taken: with a repetition penalty or the like it would say something else.
    """
    from transformers import GenerationConfig

    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = sorted({*ends, tokenizer.eos_token_id, end_of_turn(tokenizer)} - {None})
    return GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.eos_token_id)
