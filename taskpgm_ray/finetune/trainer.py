"""Fine-tuning as a plain loop: no Ray, one function per step of the recipe.

>>> trainer = LoraTrainer(base_model, recipe.lora)                     # doctest: +SKIP
>>> outcome = trainer.run(batches, recipe, pad_id=0)                   # doctest: +SKIP
>>> trainer.save(folder)                                               # doctest: +SKIP
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from taskpgm_ray.errors import MemoryLimitError, TrainingError
from taskpgm_ray.finetune.batching import micro_batches, tokens_of
from taskpgm_ray.finetune.checkpoint import Checkpoint, TrainState
from taskpgm_ray.finetune.job import Recipe
from taskpgm_ray.finetune.usable import exchanged, usable
from taskpgm_ray.finetune.workers import Workers, full, like
from taskpgm_ray.tasks.padding import Pair, collate

MICRO_BATCH_TOKENS = 2048
EAGER_COLUMNS = 512
"""On the CPU, up to this many tokens a row, attention written out is faster than the fused kernel, whose backward pass
is slow there (1.2 times the whole step's speed at 64 and at 512 tokens); beyond, it takes more time and memory."""

DIGITS = 6
"""Of the progress in a metrics row."""

OnStep = Callable[[dict[str, Any], Callable[[], Checkpoint]], None]
WEIGHT, STEP = "adapter", "optimizer_step"
"""Names in a checkpoint; the first is as old as checkpoints of adapters."""


class Trainer(ABC):
    """A model that is trained by one job after the other, each from the same start, so the base is loaded only once.

    What is trained is a subclass's affair: an adapter, or all weights.
    """

    def __init__(
        self, model: Any, base: Any, mixed_precision: bool, device: str, workers: Workers, gradient_checkpointing: bool
    ) -> None:
        self.model = model
        """What is called, on this worker."""
        self.base = base
        """The Hugging Face model in it."""
        self.mixed_precision = mixed_precision
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.device = device
        self.workers = workers
        self.module = workers.wrap(model, base, device)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._choose_attention = device == "cpu" and base.config._attn_implementation == "sdpa"

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was trained into a folder; all workers call it, the first one writes."""

    @abstractmethod
    def _initialise(self) -> None:
        """Put the trained weights at their start; the same seed gives the same ones in every lane."""

    def run(
        self,
        batches: Iterator[Sequence[Pair]],
        recipe: Recipe,
        pad_id: int,
        heldout: Sequence[Pair] = (),
        micro_batch_tokens: int = MICRO_BATCH_TOKENS,
        resume: Checkpoint | None = None,
        on_step: OnStep = lambda row, snapshot: None,
        until: float = 1.0,
    ) -> dict[str, Any]:
        """Train from the common start, or go on from a checkpoint.

        Args:
            batches: Endless batches of (prompt_ids, response_ids), from the first step on, also when resuming.
            recipe: Budget, optimiser and seeds.
            pad_id: Token id that fills short rows.
            heldout: Examples whose loss is measured before and after.
            micro_batch_tokens: Most tokens of one forward pass of a worker, padding included.
            resume: Where to go on from.
            on_step: Called after each step with its metrics row and a function that gives a checkpoint, to be read
                before the next step: by all workers, as tensors that are sharded are put together on the way.
            until: Part of the budget at which to end; the learning rate is that of the whole budget all the same.

        Returns:
            ``steps``, ``tokens`` (trained, without padding), ``padding`` (part of the computed tokens), ``seconds``,
            ``loss_first``, ``loss_last`` and, with held-out examples, ``heldout_loss_before`` and
            ``heldout_loss_after``; losses in nats per response token. Of two or more also ``usable`` (`Usable`).

        Raises:
            TrainingError: The loss is not finite.
            MemoryLimitError: A forward or backward pass did not fit into memory.
        """
        import torch

        torch.manual_seed(recipe.init_seed)
        self._initialise()
        optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        if resume is None:
            state = TrainState(heldout_loss_before=self.mean_loss(heldout, pad_id, micro_batch_tokens))
        else:
            self._restore(optimizer, resume.tensors)
            state = resume.state
        self.model.train()
        started = time.perf_counter() - state.seconds
        upcoming = islice(batches, state.step, None)
        while (progress := budget_used(recipe, state.step, state.tokens)) < until:
            # Seeded at every step, so that resuming needs no generator state.
            torch.manual_seed(step_seed(recipe.seed, state.step, self.workers.rank))
            rate = learning_rate(recipe, progress)
            passes = micro_batches(next(upcoming), micro_batch_tokens, self.workers.size)
            with memory_errors():
                loss, tokens, computed = self._step(passes, optimizer, rate, recipe.max_grad_norm, pad_id)
            # The first worker's clock is everyone's, so that all decide alike what follows from it.
            (seconds,) = self.workers.sum((time.perf_counter() - started) * self.workers.first)
            state = state.after_step(loss, tokens, computed, seconds)
            on_step(_metrics(state, rate, recipe), lambda: Checkpoint(state, self._tensors(optimizer)))  # noqa: B023
        outcome = state.outcome()
        if heldout:
            outcome["heldout_loss_before"] = state.heldout_loss_before
            outcome |= self._learned(heldout, pad_id, micro_batch_tokens)
        return outcome

    def mean_loss(self, examples: Sequence[Pair], pad_id: int, micro_batch_tokens: int = MICRO_BATCH_TOKENS) -> float:
        """Mean negative log-likelihood per response token, in nats, over all response tokens of ``examples``."""
        return _per_token(self.losses(examples, pad_id, micro_batch_tokens), examples)

    def losses(
        self, examples: Sequence[Pair], pad_id: int, micro_batch_tokens: int = MICRO_BATCH_TOKENS
    ) -> list[float]:
        """Negative log-likelihood of each example's response, in nats, summed over its tokens."""
        import torch

        if not examples:
            return []  # nothing to exchange: collective operations want a value
        self.model.eval()
        # Copies, so that an example which is there twice is two.
        examples = [(prompt, response) for prompt, response in examples]
        place = {id(example): k for k, example in enumerate(examples)}
        found = [0.0] * len(examples)
        with torch.no_grad(), memory_errors():
            for shares in micro_batches(examples, micro_batch_tokens, self.workers.size):
                values, scored, _ = self._token_losses(shares, pad_id)
                mine = shares[self.workers.rank]
                sums = torch.zeros(max(len(mine), 1), dtype=torch.float64)
                sums.index_add_(0, scored.nonzero()[:, 0].cpu(), values.double().cpu())
                for example, loss in zip(mine, sums.tolist(), strict=False):
                    found[place[id(example)]] = loss
        return self.workers.sum(*found)

    def _learned(self, heldout: Sequence[Pair], pad_id: int, micro_batch_tokens: int) -> dict[str, Any]:
        """What the trained model makes of the held-out examples, and of their answers under others' questions."""
        own = self.losses(heldout, pad_id, micro_batch_tokens)
        pairs = exchanged(heldout)
        other = self.losses([pair for pair in pairs if pair], pad_id, micro_batch_tokens)
        found = usable([loss for loss, pair in zip(own, pairs, strict=True) if pair], other)
        return {"heldout_loss_after": _per_token(own, heldout), "usable": found and asdict(found)}

    def _precision(self) -> AbstractContextManager[Any]:
        """Mixed precision for a bfloat16 base: what is trained stays float32, the products are bfloat16.

        Without it PEFT copies every layer's input to float32 and multiplies there.
        """
        import torch

        if not self.mixed_precision:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

    def _restore(self, optimizer: Any, tensors: Iterable[tuple[str, Any]]) -> None:
        """Put a checkpoint's weights and optimizer state in place."""
        states: dict[str, dict[str, Any]] = {name: {} for name in self.parameters}
        step: Any = None
        for key, tensor in tensors:
            kind, _, name = key.partition(".")
            if kind == STEP:
                step = tensor
            elif kind == WEIGHT:
                self._assign(self.parameters[name], tensor)
            else:
                states[name][kind] = like(tensor, self.parameters[name])
        numbered = {index: {"step": step.clone(), **state} for index, state in enumerate(states.values())}
        optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})

    def _tensors(self, optimizer: Any) -> Iterator[tuple[str, Any]]:
        """A checkpoint's tensors, see `_restore`; one at a time, as all together may be more than a node holds."""
        for name, parameter in self.parameters.items():
            state = optimizer.state[parameter]
            yield f"{WEIGHT}.{name}", full(parameter)
            for moment in ("exp_avg", "exp_avg_sq"):
                yield f"{moment}.{name}", full(state[moment])
        yield STEP, full(state["step"])

    @staticmethod
    def _assign(parameter: Any, value: Any) -> None:
        import torch

        with torch.no_grad():
            parameter.copy_(like(value.to(parameter.dtype), parameter))

    def _step(
        self, passes: list[list[list[Pair]]], optimizer: Any, rate: float, max_grad_norm: float, pad_id: int
    ) -> tuple[float, int, int]:
        """One optimizer step over all forward passes: mean loss, tokens, tokens with padding; over all workers."""
        import torch

        for group in optimizer.param_groups:
            group["lr"] = rate
        responses = sum(len(response) for shares in passes for share in shares for _, response in share)
        tokens = sum(tokens_of(pair) for shares in passes for share in shares for pair in share)
        total, computed = 0.0, 0
        for number, shares in enumerate(passes, start=1):
            with self.workers.accumulating(self.module, number == len(passes)):
                loss, size = self._loss(shares, pad_id)
                total += loss.item()
                computed += size
                # The workers' gradients are averaged, so each one's share counts as often as there are workers.
                (loss * (self.workers.size / responses)).backward()
        total, everyones = self.workers.sum(total, computed)
        value = total / responses
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value}; lower finetune.learning_rate, or look for broken examples in this task"
            )
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value, tokens, int(everyones)

    def _loss(self, shares: list[list[Pair]], pad_id: int) -> tuple[Any, int]:
        """Summed loss of this worker's share of one forward pass, and the tokens computed, padding included."""
        values, _, size = self._token_losses(shares, pad_id)
        return values.sum(), size

    def _token_losses(self, shares: list[list[Pair]], pad_id: int) -> tuple[Any, Any, int]:
        """The loss of each response token of this worker's share, where [rows, columns], and the tokens computed."""
        from torch.nn.functional import cross_entropy

        mine = shares[self.workers.rank]
        # A worker without examples computes another's, and learns nothing: all must take part in the exchange.
        batch = collate(mine or shares[0][:1], pad_id, self.device)
        scored = (batch.targets != -100) if mine else (batch.targets != batch.targets)
        if self._choose_attention:
            short = batch.input_ids.shape[1] <= EAGER_COLUMNS
            self.base.set_attn_implementation("eager" if short else "sdpa")
        with self._precision():
            logits = batch.logits(self.module)[scored]
        # Only scored positions are copied to float32: the vocabulary is the largest dimension of all.
        losses = cross_entropy(logits.float(), batch.targets[scored], reduction="none")
        return losses, scored, batch.input_ids.numel()


def _per_token(losses: Sequence[float], examples: Sequence[Pair]) -> float:
    return sum(losses) / max(sum(len(response) for _, response in examples), 1)


def _metrics(state: TrainState, rate: float, recipe: Recipe) -> dict[str, Any]:
    """The metrics row of the step that led to ``state``."""
    return {
        "step": state.step,
        "loss": state.loss_last,
        "learning_rate": rate,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "progress": round(budget_used(recipe, state.step, state.tokens), DIGITS),
    }


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's out-of-memory errors, on GPU and CPU, into `MemoryLimitError`."""
    import torch

    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator has no exception class of its own.
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryLimitError(str(error).splitlines()[0]) from None
        raise


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the random generator of one worker in one step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def budget_used(recipe: Recipe, steps: int, tokens: int) -> float:
    """Part of the budget that is spent, 1 or more when it is used up."""
    return steps / recipe.steps if recipe.steps else tokens / (recipe.tokens or 1)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Linear warm-up, then cosine decay to a tenth of the peak.

    Args:
        recipe: Peak rate and warm-up fraction.
        progress: Part of the budget used so far, in [0, 1).
    """
    warmup = recipe.warmup_fraction
    if progress < warmup:
        # Never zero: with short budgets the first step would be lost.
        return recipe.learning_rate * max(progress / warmup, 0.1)
    decay = (progress - warmup) / (1 - warmup)
    return recipe.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * decay)))
